"""Several processes train one arm, each with a whole model or with a share of it, as one process does, and write what one writes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from kills import PowerCut, cut
from PIL import Image
from safetensors.torch import load_file
from transformers import Qwen2VLForConditionalGeneration

from lab import run as running
from lab.config import Experiment, identity
from lab.costs import planning
from lab.errors import ConfigError
from lab.store import curve_files, runs
from lab.training import resuming
from tools.pretraining.architecture import make_config
from tools.pretraining.tokenizer import make_processor

pytestmark = pytest.mark.usefixtures("nominal_costs")

Compose = Callable[..., Experiment]
Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three blocks, and an embedding, tied with the head, of more rows than there are words, which two does not divide."""
    folder, processor = tmp_path_factory.mktemp("odd") / "base", make_processor()
    config = make_config(processor, blocks=3, depth=2)
    text: Any = config.text_config
    text.vocab_size += 1
    assert text.vocab_size % 2
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        Qwen2VLForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def compose(composer: Compose, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Compose:
    """An experiment on conversations, whose runs lie in a folder of their own."""
    home = tmp_path_factory.mktemp("shards")

    def make(where: str, manifest: Path, *overrides: str) -> Experiment:
        return composer(
            "data=conversations", f"data.sources=[{manifest}]", f"data.root={manifest.parent}", "data.columns.split=split", "prompt=conversation",
            f"model.path={base}", "lora=full", "trainer.batch_size=4", "optim.weight_decay=0.1", "trainer.max_steps=4",
            "optim.lr=1e-3", "optim.warmup_fraction=0",
            "trainer.feature_cache=false", "evaluation.latency_examples=0", "evaluation.verify=false", "evaluation.splits=[dev]",
            "sweep.self_check=false", "tracking.enabled=false", f"tracking.runs_dir={home}/{where}", f"tracking.cache_dir={home}/cache", *overrides,
        )  # fmt: skip

    return make


def written(folder: Path, pictures: Sequence[bool], words: Sequence[int] = (1, 3), held_out: int = 2) -> Path:
    """A manifest of one sample of train for each, with a picture or without, answered in so many words in turn; and of dev and minival."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, others = [], [(True, part) for part in ("dev", "minival") for _ in range(held_out)]
    for i, (shows, split) in enumerate([*((shows, "train") for shows in pictures), *others]):
        Image.new("RGB", (56, 56), (37 * i % 256, 91, 200 - i)).save(folder / f"{i}.png")
        asked = {"from": "human", "value": "<image>\nWhat is it?" if shows else f"Is {i} more?"}
        answer = {"from": "gpt", "value": " ".join(("red", "left", "two")[(i + k) % 3] for k in range(words[i % len(words)]))}
        rows.append({"id": str(i), "split": split, "conversations": [asked, answer], **({"image": f"{i}.png"} if shows else {})})
    path = folder / "manifest.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="module")
def one_picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of eight samples one has a picture, so that of two processes one at most has one, in every other step of four samples."""
    return written(tmp_path_factory.mktemp("conversations"), (True, *[False] * 7))


def run_of(x: Experiment) -> runs.Run:
    """The record of an experiment, run here."""
    return running.run_alone(x, "command", time.time())


def folder_of(x: Experiment) -> Path:
    return runs.folder(Path(x.tracking.runs_dir), identity(x))


def learned(x: Experiment) -> Tensors:
    """What a run has trained."""
    return {name: value for path in sorted((folder_of(x) / "adapter").glob("*.safetensors")) for name, value in load_file(path).items()}


def losses(x: Experiment) -> dict[int, float]:
    """The training curve of a run."""
    return {int(row["step"]): row["train/loss"] for row in curve_files.read(folder_of(x)) if "train/loss" in row}


def require_equal(x: Experiment, other: Experiment, loss: float = 1e-5, weights: float = 1e-4) -> None:
    """Two runs, which are one by name, have losses and weights equal but for the order of sums."""
    run, theirs = (runs.load(Path(each.tracking.runs_dir), identity(each)) for each in (x, other))
    assert run is not None and theirs is not None and identity(x) == identity(other)
    assert run.metrics["train/loss"] == pytest.approx(theirs.metrics["train/loss"], abs=loss)
    assert losses(x) == pytest.approx(losses(other), abs=loss)
    own, others = learned(x), learned(other)
    assert own.keys() == others.keys()
    largest = max(float((own[name] - others[name]).abs().max()) for name in own)
    print(f"difference of the last loss {abs(run.metrics['train/loss'] - theirs.metrics['train/loss']):.1e}, of a weight {largest:.1e}")
    assert largest < weights


@pytest.fixture(scope="module")
def alone(compose: Compose, one_picture: Path) -> Experiment:
    """One process, finished."""
    x = compose("alone", one_picture)
    run_of(x)
    return x


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_rank_without_pictures_trains_as_one_process(
    compose: Compose, one_picture: Path, alone: Experiment, base: Path, strategy: str, fast_python: str
) -> None:
    """Within 60 s; every tensor has moved, of the tied embedding every row; the base that arms share is as it was, to the bit."""
    x = compose(strategy, one_picture, "trainer.devices=2", f"trainer.strategy={strategy}")
    prepared, start = running.prepare(x), time.perf_counter()
    before = {name: (parameter, parameter.detach().clone()) for name, parameter in prepared.vlm.base_model.named_parameters()}
    running.run_arm(x, prepared, running.new_run(x, "command"), time.time())
    assert time.perf_counter() - start < 60
    require_equal(x, alone)
    after = dict(prepared.vlm.base_model.named_parameters())
    assert all(after[name] is parameter and torch.equal(parameter, value) for name, (parameter, value) in before.items())
    own = learned(x)
    assert own.keys() == before.keys()
    for name, (_, value) in before.items():
        moved = own[name] != value
        assert moved.any(), name
        if "embed_tokens" in name:
            assert len(moved) % 2 and moved.any(dim=1).all(), "the last rank's rows too"
    assert "LOCAL_RANK" not in os.environ and not torch.distributed.is_initialized()


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_forward_in_which_nothing_trains_is_a_forward_without_gradient(
    compose: Compose, one_picture: Path, strategy: str, fast_python: str
) -> None:
    """The projector alone, and samples without a picture: of a whole forward, of a whole step, of one rank."""
    keys = ["lora=stage1", "trainer.batch_size=2", "trainer.accumulate_grad_batches=2"]
    x, two = compose("stage1", one_picture, *keys), compose(strategy, one_picture, *keys, "trainer.devices=2", f"trainer.strategy={strategy}")
    run_of(x)
    run_of(two)
    require_equal(two, x)


def resumed(compose: Compose, manifest: Path, where: str, before: Sequence[str], after: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """An arm that is cut off after two steps, and goes on under other keys."""
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        cut(patch, resuming.CheckpointCallback, "on_train_batch_start", lambda trainer: trainer.global_step == 2)
        run_of(compose(where, manifest, "trainer.save_every=1", *before))
    x = compose(where, manifest, "trainer.save_every=1", *after)
    assert run_of(x).facts["resumed_at_step"] == 2
    return x


SHARES = ("trainer.devices=2", "trainer.strategy=fsdp")


def test_what_two_held_in_shares_one_goes_on_with(
    compose: Compose, one_picture: Path, alone: Experiment, monkeypatch: pytest.MonkeyPatch, fast_python: str
) -> None:
    """Weights and optimizer are in the checkpoint as one process has them."""
    require_equal(resumed(compose, one_picture, "fewer", SHARES, (), monkeypatch), alone)


def test_a_plan_divides_what_lies_in_shares(composer: Compose) -> None:
    """Full training of the 7B in bfloat16: 18 bytes a weight, the base's own among them; a quarter of them on each of four."""
    keys = ["model=qwen2_vl_7b", "model.path=Qwen/Qwen2-VL-7B-Instruct", "lora=full", "trainer.gradient_checkpointing=true", "trainer.batch_size=8"]
    one, four = (planning.plan(composer(*keys, *more), 256, 1, 64) for more in ((), ("trainer.devices=4", "trainer.strategy=fsdp")))
    weights = one.weight_bytes / 2
    for plan in (one, four):
        assert (plan.adapter_bytes, plan.gradient_bytes, plan.optimizer_bytes) == (4 * weights, 4 * weights, 8 * weights)
    assert (one.shares, one.gathered_bytes, four.shares) == (1, 0.0, 4)
    assert four.memory_bytes == 18 * weights / 4 + four.gathered_bytes + four.activation_bytes and four.activation_bytes == one.activation_bytes / 4
    assert four.gathered_bytes < 8 * weights / 3 and four.memory_bytes < 80e9 < one.memory_bytes


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["trainer.devices=1"], "trainer.strategy=fsdp, trainer.devices=1: one device has no other"),
        (["model.quantisation=nf4", "lora=llm"], "trainer.strategy=fsdp, model.quantisation=nf4: weights of few bits cannot be cut"),
        (["model.dtype=float16"], "trainer.strategy=fsdp, model.dtype=float16: .*bfloat16"),
        (["optim.optimizer=Adafactor"], "trainer.strategy=fsdp, optim.optimizer=Adafactor: .*Legal here: AdamW, Adam, SGD"),
        (["trainer.packing=true"], "trainer.strategy=fsdp, trainer.packing=true: "),
        (["data=drawn_tables", "prompt=boxes", "trainer.val_every=2"], "trainer.strategy=fsdp, trainer.val_every=2: boxes of minival"),
        (["trainer.strategy=deepspeed"], "trainer.strategy=deepspeed.*fsdp shards weights, gradients and optimizer state"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_cannot_be_shared_out_is_refused_before_anything_loads(composer: Compose, keys: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        running.check(composer(*SHARES, *keys))


BOTH = {"alone": (), "ddp": ("trainer.devices=2",), "fsdp": SHARES}


@pytest.mark.bar
@pytest.mark.parametrize(
    "keys",
    [
        ["trainer.gradient_checkpointing=true", "trainer.accumulate_grad_batches=2"],
        ["lora=llm_projector", "lora.r=4", "lora.use_dora=true"],
        ["lora=all", "lora.r=4", "lora.lora_dropout=0", "lora.init_lora_weights=pissa"],
        ["lora=stage2", "model.dtype=bfloat16"],
        ["lora=llm", "vision_tokens=resampler", "vision_tokens.budget=2"],
        ["lora=llm", "conditioning=cross_attention"],
        ["lora=stage2", "trainer.val_every=2", "trainer.restore_best=true", "evaluation.verify=true", "evaluation.probe_examples=2"],
    ],
    ids="-".join,
)
def test_every_way_of_training_is_shared_out(compose: Compose, one_picture: Path, tmp_path: Path, keys: list[str], fast_python: str) -> None:
    """Whatever trains, beside whatever does not: as in one process, and every tensor of every block has moved."""
    one, two = (compose(f"{tmp_path.name}-{name}", one_picture, *keys, *BOTH[name]) for name in ("alone", "fsdp"))
    run_of(one)
    run = run_of(two)
    coarse = "bfloat16" in keys[-1]  # the sums of which are rounded to 8 bits
    require_equal(two, one, loss=2e-2 if coarse else 1e-4, weights=1e-2 if coarse else 2e-3)
    assert all(check["passed"] for check in run.facts.get("verify", ()))
    if keys[0] == "lora=all" or "use_dora" in keys[-1]:
        assert all(value.any() for name, value in learned(two).items() if "lora_B" in name)


@pytest.mark.bar
def test_resumed_with_as_many_processes_it_is_the_undisturbed_run_to_the_bit(
    compose: Compose, one_picture: Path, monkeypatch: pytest.MonkeyPatch, fast_python: str
) -> None:
    whole = compose("whole", one_picture, *SHARES)
    run_of(whole)
    own, others = learned(resumed(compose, one_picture, "cut", SHARES, SHARES, monkeypatch)), learned(whole)
    assert own.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in own.items())
    require_equal(resumed(compose, one_picture, "more", (), SHARES, monkeypatch), whole)


@pytest.mark.bar
@pytest.mark.parametrize("packing", [False, True])
def test_however_a_step_is_cut_up_answers_of_1_and_200_tokens_weigh_by_their_tokens(
    compose: Compose, tmp_path: Path, packing: bool, fast_python: str
) -> None:
    """1 x 8 = 8 x 1 = 2 processes x 4 rows, each whole or in shares: losses of each step and weights after four."""
    manifest, found = written(tmp_path, [i % 3 == 0 for i in range(16)], words=(1, 200)), {}
    ways = {"1 x 8": (8, ()), "8 x 1": (1, ()), "2 x 4": (8, BOTH["ddp"]), "2 x 4 in shares": (8, SHARES)}
    for way, (size, keys) in ways.items():
        if packing and keys == SHARES:
            continue  # which is refused
        x = compose(
            f"{packing}-{way}", manifest, "lora=llm", "lora.r=4", "trainer.log_every=1", f"trainer.batch_size={size}", f"trainer.packing={packing}",
            f"trainer.accumulate_grad_batches={8 // size}", "optim.optimizer=SGD", "optim.lr=0.5", *keys,
        )  # fmt: skip
        run_of(x)
        found[way] = losses(x), learned(x)
    curve, weights = found["1 x 8"]
    assert len(curve) == 4 and max(curve.values()) > 1.01 * min(curve.values())
    for way, (theirs, others) in found.items():
        gap = max(float((value - others[name]).abs().max()) for name, value in weights.items())
        own_curve = way == "8 x 1"  # of its last forward
        apart = 0.0 if own_curve else max(abs(theirs[step] / value - 1) for step, value in curve.items())
        print(f"packing {packing}, {way}: difference of a loss {apart:.1e}, of a weight {gap:.1e}")
        assert apart < 1e-6 and gap < 1e-6, way
