"""Parts that train whole (`lora.full`): exactly what is named moves, nothing else does, and the shared base is as it was to the bit."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from kills import require_cut_ends_as
from safetensors.torch import load_file, save_file
from torch.nn.utils import parametrize

from lab import lora, model
from lab import run as running
from lab.artifacts import adapter, contract, export
from lab.config import DType, Experiment, LoraDial, ModelDial, Optim
from lab.costs import device_memory, planning
from lab.errors import ConfigError, ContractError, ModelError
from lab.model import Vlm
from lab.model.families import qwen2_vl
from lab.records import Batch
from lab.run.assembly import attached
from lab.run.sharing import Prepared
from lab.training import capacity, loop
from lab.training.checkpoints import Checkpoint
from lab.training.examples import Examples
from lab.training.learner import Learner
from lab.training.resuming import put_weights

pytestmark = pytest.mark.usefixtures("nominal_costs")

STAGES = {"stage1": ["projector"], "stage2": ["projector", "llm"], "full": ["vision", "projector", "llm"]}
Compose = Callable[..., Experiment]


@pytest.fixture(scope="module")
def compose(composer: Compose, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """An experiment of two steps on the random checkpoint."""
    home = tmp_path_factory.mktemp("parts")
    return lambda *overrides: composer(
        f"model.path={tiny_folder}", "data.num_train=16", "data.num_minival=4", "data.num_dev=8", "trainer.max_steps=2", "trainer.batch_size=4",
        "optim.lr=0.01", "optim.warmup_fraction=0", "evaluation.latency_examples=0", "evaluation.verify=false", "sweep.self_check=false",
        "tracking.enabled=false", f"tracking.runs_dir={home}/runs", f"tracking.cache_dir={home}/cache", *overrides,
    )  # fmt: skip


@pytest.fixture(scope="module")
def prepared(compose: Compose) -> Prepared:
    """One base and its data, for all arms of this module."""
    return running.prepare(compose("lora=full"))


@contextmanager
def trained(x: Experiment, prepared: Prepared, folder: Path) -> Iterator[Vlm]:
    """An arm over the shared base, after its steps."""
    examples = prepared.encoded(x)
    with attached(x, prepared.vlm) as vlm:
        loop.train(x, vlm, examples, folder, time.time())
        yield vlm


def bits(vlm: Vlm) -> dict[str, torch.Tensor]:
    """A copy of every parameter of a model."""
    return {name: parameter.detach().clone() for name, parameter in vlm.base_model.named_parameters()}


def first_batch(examples: Examples) -> Batch:
    return examples.encoder.collate([examples[i] for i in range(4)], with_answers=True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("full", [*STAGES.values(), ["vision"]], ids=",".join)
def test_what_trains_is_exactly_the_parts_named_and_the_base_is_left_to_the_bit(
    compose: Compose, prepared: Prepared, tmp_path: Path, full: list[str], dtype: str
) -> None:
    """Every tensor of them has moved after two steps, in float32; no other has; and afterwards the base has its own tensors again."""
    if dtype == "bfloat16" and full != STAGES["stage2"]:
        pytest.skip("one is enough")
    x = compose("lora=none", f"lora.full=[{','.join(full)}]", f"model.dtype={dtype}")
    shared = prepared if dtype == "float32" else running.prepare(x)
    before, tensors = bits(shared.vlm), dict(shared.vlm.base_model.named_parameters())
    with trained(x, shared, tmp_path) as vlm:
        named = {name for name in before if vlm.family.part_of(name) in full}
        assert vlm.full.keys() == named
        for name, own in vlm.full.items():
            assert own.master.dtype == torch.float32 and not torch.equal(own.master, before[name].float()), name
        for name, parameter in vlm.base_model.named_parameters():
            if not parameter.requires_grad:
                assert name not in named and torch.equal(parameter, before[name]), name
        assert sum(row.trainable for row in lora.ledger(vlm)) == sum(before[name].numel() for name in named)
    after = dict(shared.vlm.base_model.named_parameters())
    assert after.keys() == tensors.keys() and all(after[name] is tensors[name] and torch.equal(after[name], before[name]) for name in tensors)
    assert not any(parametrize.is_parametrized(module) for module in shared.vlm.base_model.modules())


def test_an_arm_after_others_over_one_base_is_that_arm_alone(compose: Compose, prepared: Prepared, tmp_path: Path) -> None:
    def masters(x: Experiment, shared: Prepared, name: str) -> dict[str, torch.Tensor]:
        with trained(x, shared, tmp_path / name) as vlm:
            return {name: own.master.detach().clone() for name, own in vlm.full.items()}

    x = compose("lora=stage1")
    alone = masters(x, running.prepare(x), "alone")
    masters(compose("lora=full"), prepared, "before")
    shared = masters(x, prepared, "shared")
    assert all(torch.equal(alone[name], shared[name]) for name in alone)
    assert running.shared_key(x) == running.shared_key(compose("lora=full"))


def test_what_an_arm_begins_with_again_is_the_base_itself(compose: Compose, prepared: Prepared) -> None:
    """No second copy of whole parts is made; weights that began otherwise are copied."""
    x = compose("lora=stage2")
    with attached(x, prepared.vlm) as vlm, torch.no_grad():
        learner = Learner(vlm, x.optim, prepared.encoded(x)["dev"].encoder.readout, 2)
        kept = loop.beginning(learner)
        assert {id(each) for each in kept.values()} == {id(own.base) for own in vlm.full.values()}
        for own in vlm.full.values():
            own.master.add_(1)
        assert not {id(each) for each in loop.beginning(learner).values()} & {id(own.base) for own in vlm.full.values()}
        put_weights(learner, Checkpoint(kept, {}))
        assert all(torch.equal(own.master, own.base) for own in vlm.full.values())


@pytest.mark.parametrize("full", STAGES["stage2"])
def test_dropout_of_what_rests_is_off_at_every_step(compose: Compose, prepared: Prepared, full: str) -> None:
    """Also after validation has switched the model to evaluation and back."""
    x = compose("lora=none", f"lora.full=[{full}]")
    batch = first_batch(prepared.encoded(x)["train"])
    dropping = [module for module in prepared.vlm.base_model.modules() if hasattr(module, "attention_dropout")]
    with attached(x, prepared.vlm) as vlm, pytest.MonkeyPatch.context() as patch:
        for module in dropping:
            patch.setattr(module, "attention_dropout", 0.5)
        learner = Learner(vlm, x.optim, prepared.encoded(x)["dev"].encoder.readout, 2)
        seen = []
        for change in (learner.train, learner.eval, learner.train):
            change()
            seen.append(vlm.predict(batch).detach())
        assert torch.equal(seen[0], seen[1]) == torch.equal(seen[1], seen[2]) == (full == "projector")
        assert {module.training for name, module in vlm.base_model.named_modules() if vlm.family.part_of(name) == "vision"} == {False}


@pytest.mark.parametrize("full", [*STAGES.values(), ["vision"]], ids=",".join)
def test_gradients_are_equal_with_gradient_checkpointing_and_without(compose: Compose, prepared: Prepared, full: list[str]) -> None:
    """Also behind a frozen entry; and blocks that rest, but that a gradient goes through, are computed again."""
    x = compose("lora=none", f"lora.full=[{','.join(full)}]")
    batch = first_batch(prepared.encoded(x)["train"])
    block, runs = prepared.vlm.base_model.model.language_model.layers[1], []
    hook = block.self_attn.register_forward_hook(lambda *_: runs.append(1))
    gradients = []
    with attached(x, prepared.vlm) as vlm:
        learner = Learner(vlm, x.optim, prepared.encoded(x)["dev"].encoder.readout, 2)
        learner.train()
        for on in (False, True):
            capacity.recompute(vlm, on)
            vlm.predict(batch).float().pow(2).sum().backward()
            gradients.append([own.master.grad.clone() for own in vlm.full.values()])
            vlm.model.zero_grad()
        capacity.recompute(vlm, False)
    hook.remove()
    assert len(runs) == 3, "once without, twice with"
    assert all(torch.equal(one, other) and one.any() for one, other in zip(*gradients, strict=True))
    assert "forward" not in vars(block)


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def tied(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ModelDial, bool]:
    """A checkpoint whose head shares its weights with the embedding, or does not."""
    return checkpoints.save("qwen2_vl", tmp_path / "base", tied=request.param), request.param


def test_embedding_and_head_train_as_the_storage_says_and_are_exported_so(tied: tuple[ModelDial, bool], tmp_path: Path) -> None:
    """As one where they are tied, as two where not: trained, kept in the file, loaded, exported, reloaded by Transformers alone."""
    from transformers import AutoModelForImageTextToText

    dial, one = tied
    vlm = model.load(dial)
    lora.attach(vlm, LoraDial(r=0, where=[], full=["vision", "llm"]))
    with torch.no_grad():
        for number, own in enumerate(vlm.full.values()):
            own.master.add_(torch.randn(own.master.shape, generator=torch.Generator().manual_seed(number)), alpha=0.02)
    embedding, head = vlm.base_model.get_input_embeddings(), vlm.base_model.lm_head
    assert (embedding.weight is head.weight) == one == ("lm_head.weight" not in vlm.full)
    ids = torch.tensor([[1, 2, 3, 4]])
    logits = vlm.base_model(input_ids=ids).logits.detach()
    adapter.save(vlm, tmp_path / "adapter")
    assert set(load_file(tmp_path / "adapter" / adapter.TRAINED)) == set(vlm.full)
    again = model.load(dial)
    adapter.load(again, tmp_path / "adapter", LoraDial(full=["vision", "llm"]))
    assert torch.equal(again.base_model(input_ids=ids).logits, logits)
    export.export(again, tmp_path / "out", {})
    held = load_file(tmp_path / "out" / "model.safetensors")
    assert held.keys() == load_file(tmp_path / "base" / "model.safetensors").keys(), "as the checkpoint itself names them"
    assert ("lm_head.weight" in held) == (not one)
    (tmp_path / "base").rename(tmp_path / "elsewhere")
    plain: Any = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    loaded = dict(plain.named_parameters())
    assert all(torch.equal(loaded[name], own.master) for name, own in vlm.full.items())
    assert plain.config.tie_word_embeddings == plain.config.get_text_config().tie_word_embeddings == one
    assert torch.allclose(plain(input_ids=ids).logits, logits, rtol=0, atol=1e-5)
    rows = plain.get_input_embeddings().weight.shape[0]
    assert rows == plain.config.get_text_config().vocab_size == embedding.weight.shape[0] >= len(vlm.processor.tokenizer)


def test_a_tie_between_a_part_that_trains_and_one_that_does_not_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = qwen2_vl.FAMILY.parts
    apart = {"vision": dataclasses.replace(parts["vision"], modules=rf"{parts['vision'].modules}|lm_head")}
    monkeypatch.setattr(qwen2_vl, "FAMILY", dataclasses.replace(qwen2_vl.FAMILY, parts={**parts, **apart}))
    vlm = model.load(checkpoints.save("qwen2_vl", tmp_path / "base"))
    with pytest.raises(ModelError, match=r"lora.full=\[llm\]: .*embed_tokens.weight is one with lm_head.weight.*model.untied_head=true"):
        lora.verify(vlm, LoraDial(r=0, full=["llm"]))
    lora.verify(vlm, LoraDial(r=0, full=["llm", "vision"]))


@pytest.mark.parametrize("damage", ["missing", "part", "shape"])
def test_weights_that_are_not_all_there_are_refused(compose: Compose, prepared: Prepared, tmp_path: Path, damage: str) -> None:
    x = compose("lora=stage2")
    with attached(x, prepared.vlm) as vlm:
        adapter.save(vlm, tmp_path)
    held = load_file(tmp_path / adapter.TRAINED)
    name = next(iter(held))
    kept = {"missing": {}, "part": {key: value for key, value in held.items() if key != name}, "shape": held | {name: torch.zeros(3, 5)}}[damage]
    save_file(kept, tmp_path / adapter.TRAINED)
    before = bits(prepared.vlm)
    with pytest.raises(ModelError, match="weights that trained are not in it|no place in this model"):
        adapter.load(prepared.vlm.share(), tmp_path, x.lora)
    assert all(torch.equal(value, before[name]) for name, value in bits(prepared.vlm).items())


def test_each_part_learns_at_its_rate(compose: Compose, prepared: Prepared) -> None:
    optim = Optim(lr=1.0, lr_vision=2.0, lr_projector=3.0)
    with attached(compose("lora=full"), prepared.vlm) as vlm:
        for rate, part in ((optim.lr, "llm"), (optim.lr_vision, "vision"), (optim.lr_projector, "projector")):
            assert {lora.learning_rate(vlm, name, optim) for name in vlm.full if vlm.family.part_of(name) == part} == {rate}
        assert len(lora.parameter_groups(vlm, optim)) == 3
        of_llm = [name for name in vlm.full if vlm.family.part_of(name) == "llm"]
        assert {lora.learning_rate(vlm, name, dataclasses.replace(optim, lr_llm=5.0)) for name in of_llm} == {5.0}


def test_a_whole_projector_beside_adapters_passes_the_gate(compose: Compose) -> None:
    """What is reloaded, merged, exported and generated is what was trained; the file holds the parts named."""
    x = compose("lora.r=2", "lora.full=[projector]", "evaluation.verify=true", "evaluation.probe_examples=2", "evaluation.splits=[dev]")
    run = running.run_alone(x, "command", time.time())
    assert all(check["passed"] for check in run.facts["verify"]) and run.metrics["parameters/trainable"] > 190_000
    folder = Path(x.tracking.runs_dir) / run.identity
    held = load_file(folder / "adapter" / adapter.TRAINED)
    assert {name.split(".")[2] for name in held} == {"merger"} and {value.dtype for value in held.values()} == {torch.float32}
    trained = contract.load(folder)["trained"]
    assert (trained["parts"], trained["tensors"], trained["parameters"]) == (["projector"], len(held), sum(value.numel() for value in held.values()))
    save_file({name: value + 1 for name, value in held.items()}, folder / "adapter" / adapter.TRAINED)
    with pytest.raises(ContractError, match="trained.safetensors: it is not what was trained"):
        contract.load(folder)


def test_a_run_that_is_cut_off_goes_on_to_the_same_weights(compose: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ["lora=stage2", "trainer.save_every=1", "evaluation.splits=[dev]"]
    whole, cut = (compose(*keys, f"tracking.runs_dir={tmp_path}/{folder}") for folder in ("whole", "cut"))
    running.run_alone(whole, "command", time.time())
    require_cut_ends_as(whole, cut, monkeypatch, 1)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["lora.full=[head]"], r"lora.full=\[head\]: model.family=qwen2_vl has no such part. Legal here: projector, vision, llm"),
        (["model=blip_vqa", "lora.full=[projector]"], r"lora.full=\[projector\]: model.family=blip_vqa has no such part. Legal here: vision, llm"),
        (["model.quantisation=nf4", "lora.full=[llm]"], r"lora.full=\[llm\], model.quantisation=nf4: weights of few bits cannot train"),
        (["lora.full=[tower]"], "lora.full=.*legal values are vision, projector, llm, head"),
    ],
)
def test_what_cannot_train_whole_is_refused_before_anything_loads(compose: Compose, keys: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        running.check(compose("lora=none", *keys))


@pytest.mark.parametrize("dtype", [DType.float32, DType.bfloat16])
def test_the_plan_counts_master_weights_gradients_and_optimizer_state(compose: Compose, prepared: Prepared, dtype: DType) -> None:
    x = compose("lora=stage2", f"model.dtype={dtype.value}")
    sizes = {name: parameter.numel() for name, parameter in prepared.vlm.base_model.named_parameters()}
    whole = sum(size for name, size in sizes.items() if prepared.vlm.family.part_of(name) in ("projector", "llm"))
    plan = planning.plan(x, 16, 2, 20)
    assert (plan.adapter_bytes, plan.gradient_bytes, plan.optimizer_bytes) == (4 * whole, 4 * whole, 8 * whole)
    assert plan.weight_bytes == device_memory.BYTES[dtype.value] * sum(sizes.values()), "the base's own stay for the next arm"
    assert sum(row.trainable for row in plan.ledger) == whole
