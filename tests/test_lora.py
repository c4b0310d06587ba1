"""LoRA: counts on the real architectures, presets, initialisations, learning rates, precision."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
from checkpoints import real_config
from test_families import logits, move, sample

from lab import lora, model
from lab.artifacts import adapter
from lab.config import DType, LoraDial, ModelDial, Optim, Quantisation
from lab.errors import ConfigError, ModelError
from lab.model import Vlm, precision

ALL = ["vision", "projector", "llm"]
RANKS = (8, 16, 32, 64)
LLM_7 = r"model\.language_model\.layers\.\d+\.(self_attn\.(q|k|v|o)_proj|mlp\.(gate|up|down)_proj)"
SUFFIXES = r".*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"


@pytest.fixture(scope="module")
def on_meta() -> Any:
    """Real architectures without memory, by (family, size)."""
    from transformers import AutoModelForImageTextToText

    made: dict[tuple[str, str], Vlm] = {}

    def get(family: str, size: str) -> Vlm:
        if (family, size) not in made:
            with torch.device("meta"):
                whole = AutoModelForImageTextToText.from_config(real_config(family, size))
            whole.requires_grad_(False)
            made[family, size] = Vlm(whole, None, model.family(family))
        return made[family, size]

    return get


def count(vlm: Vlm, dial: LoraDial) -> int:
    """Trainable parameters that `attach` makes."""
    with torch.device("meta"):
        lora.attach(vlm, dial)
    found = sum(row.trainable for row in lora.ledger(vlm))
    lora.detach(vlm)
    return found


TABLE = {
    "LLM q,v": (LoraDial(target_modules=r"model\.language_model\.layers\.\d+\.self_attn\.(q|v)_proj"), 1_089_536),
    "LLM q,k,v,o": (LoraDial(target_modules="attention"), 2_179_072),
    "LLM 7 linears": (LoraDial(), 9_232_384),
    "LLM 7 + merger": (LoraDial(where=["llm", "projector"]), 9_367_552),
    "merger only": (LoraDial(where=["projector"]), 135_168),
    "vision qkv,proj,fc1,fc2": (LoraDial(where=["vision"]), 5_242_880),
    "all-linear": (LoraDial(where=ALL), 14_610_432),
}
"""domain.md 2.4: Qwen2-VL-2B at r = 8; twice as many at 16, four times at 32, eight times at 64."""


def by_definition(vlm: Vlm, dial: LoraDial) -> int:
    """LoRA's size: r (in + out) summed over the targets."""
    layers = [vlm.base_model.get_submodule(name) for name in lora.target_names(vlm, dial)]
    return dial.r * sum(layer.in_features + layer.out_features for layer in layers)


@pytest.mark.parametrize("row", TABLE)
def test_the_table_of_qwen2_vl_2b(on_meta: Any, row: str) -> None:
    """All ranks by LoRA's definition; one rank, another in every row, by what PEFT attaches."""
    (dial, at_8), vlm = TABLE[row], on_meta("qwen2_vl", "2b")
    for r in RANKS:
        assert by_definition(vlm, dataclasses.replace(dial, r=r)) == at_8 * r // 8
    r = RANKS[list(TABLE).index(row) % 4]
    assert count(vlm, dataclasses.replace(dial, r=r)) == at_8 * r // 8


@pytest.mark.parametrize("r", RANKS)
def test_attached_at_every_rank(on_meta: Any, r: int) -> None:
    assert count(on_meta("qwen2_vl", "2b"), LoraDial(where=["projector"], r=r)) == 135_168 * r // 8


TABLE_7B = {
    "Qwen2-VL-7B q,k,v,o": ("qwen2_vl", LoraDial(target_modules="attention"), 10_092_544),
    "Qwen2-VL-7B LLM 7": ("qwen2_vl", LoraDial(), 40_370_176),
    "Qwen2-VL-7B all-linear": ("qwen2_vl", LoraDial(where=ALL), 40_370_176 + 2 * 5_242_880 + 16 * (3 * 5120 + 3584)),
    "Qwen2.5-VL-7B q,k,v,o": ("qwen2_5_vl", LoraDial(target_modules="attention"), 10_092_544),
    "Qwen2.5-VL-7B regex": ("qwen2_5_vl", LoraDial(target_modules=LLM_7), 40_370_176),
    "Qwen2.5-VL-7B LLM 7": ("qwen2_5_vl", LoraDial(), 40_370_176),
    "Qwen2.5-VL-7B suffixes leak into the tower": ("qwen2_5_vl", LoraDial(target_modules=SUFFIXES), 47_589_376),
    "Qwen2.5-VL-7B all-linear": ("qwen2_5_vl", LoraDial(where=ALL), 51_824_640),
}
"""At r = 16; q,k,v,o at r = 64 is the 40,370,176 of seed 002."""
ATTACHED = {"Qwen2-VL-7B all-linear": 8, "Qwen2.5-VL-7B q,k,v,o": 64, "Qwen2.5-VL-7B suffixes leak into the tower": 32}
"""Rows, and a rank, that PEFT attaches too, which takes it a second each."""


@pytest.mark.parametrize("row", TABLE_7B)
def test_the_table_of_the_7b_models(on_meta: Any, row: str) -> None:
    family, dial, at_16 = TABLE_7B[row]
    vlm = on_meta(family, "7b")
    for r in RANKS:
        assert by_definition(vlm, dataclasses.replace(dial, r=r)) == at_16 * r // 16
    if r := ATTACHED.get(row):
        assert count(vlm, dataclasses.replace(dial, r=r)) == at_16 * r // 16


@pytest.mark.parametrize(
    ("family", "size", "total"),
    [("qwen2_vl", "2b", 2_208_985_600), ("qwen2_vl", "7b", 8_291_375_616), ("qwen2_5_vl", "7b", 8_292_166_656)],
)
def test_total_sizes(on_meta: Any, family: str, size: str, total: int) -> None:
    assert sum(row.total for row in lora.ledger(on_meta(family, size))) == total


def test_parts_and_shares_of_qwen2_vl_2b(on_meta: Any) -> None:
    vlm = on_meta("qwen2_vl", "2b")
    with torch.device("meta"):
        lora.attach(vlm, LoraDial(r=8))
    rows = {row.part: row for row in lora.ledger(vlm)}
    text = lora.ledger_text(list(rows.values()))
    lora.detach(vlm)
    assert (rows["vision"].total, rows["projector"].total) == (631_183_360, 34_087_936)
    assert rows["llm"].total == 233_373_696 + 1_310_340_608 + 9_232_384
    assert len(rows["llm"].modules) == 28 * 7
    assert rows["llm"].share == 9_232_384 / rows["llm"].total
    assert "0.416 %" in text.splitlines()[-1]


def test_top_k_blocks_of_the_real_model(on_meta: Any) -> None:
    vlm = on_meta("qwen2_vl", "2b")
    assert count(vlm, LoraDial(r=8, top_k_blocks=7)) == 9_232_384 // 4
    assert count(vlm, LoraDial(r=8, top_k_blocks=8, where=ALL)) == 9_232_384 * 8 // 28 + 5_242_880 // 4 + 135_168
    names = lora.target_names(vlm, LoraDial(top_k_blocks=2, target_modules="mlp"))
    assert {name.split(".")[3] for name in names} == {"26", "27"}


@pytest.fixture(scope="module")
def dial(tmp_path_factory: pytest.TempPathFactory) -> ModelDial:
    return checkpoints.save("qwen2_vl", tmp_path_factory.mktemp("lora") / "qwen2_vl")


@pytest.fixture
def vlm(dial: ModelDial) -> Vlm:
    return model.load(dial)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (LoraDial(target_modules="nothing_here"), "no module of this model matches"),
        (LoraDial(target_modules="(("), "neither a preset"),
        (LoraDial(target_modules=r".*proj"), "is a Conv3d"),
        (LoraDial(where=[]), "name at least one part"),
        (LoraDial(where=["projector"], target_modules="attention"), "no module of this model matches"),
        (LoraDial(top_k_blocks=4), "has 3 blocks"),
        (LoraDial(top_k_blocks=1, target_modules=".*fc1"), "narrows a preset"),
        (LoraDial(init_lora_weights="zeros"), "pissa_niter_N"),
        (LoraDial(init_lora_weights="pissa_niter_0"), "pissa_niter_N"),
        (LoraDial(init_lora_weights="loftq"), "bitsandbytes on a GPU"),
        (LoraDial(init_lora_weights="eva"), "activations"),
        (LoraDial(init_lora_weights="orthogonal", r=3), "even rank"),
        (LoraDial(init_lora_weights="pissa", r=64), "has rank 32 at most"),
        (LoraDial(init_lora_weights="mica", use_dora=True), "no MiCA with DoRA"),
    ],
)
def test_what_cannot_be_attached_is_refused(vlm: Vlm, asked: LoraDial, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        lora.attach(vlm, asked)
    assert str(caught.value).startswith("lora.")
    assert vlm.model is vlm.base_model


def test_suffixes_do_not_cross_parts(vlm: Vlm) -> None:
    """LLaVA 1647: adapters in a tower that was said to be frozen."""
    names = lora.target_names(vlm, LoraDial())
    assert all(vlm.family.part_of(name) == "llm" for name in names)


def test_one_seed_draws_one_adapter(vlm: Vlm) -> None:
    drawn = []
    for seed in (0, 0, 1):
        torch.rand(3)
        lora.attach(vlm, LoraDial(r=2), seed)
        drawn.append({name: p.detach().clone() for name, p in lora.trainable(vlm).items()})
        lora.detach(vlm)
    assert all(torch.equal(drawn[0][name], drawn[1][name]) for name in drawn[0])
    assert not all(torch.equal(drawn[0][name], drawn[2][name]) for name in drawn[0])


INITS = ("default", "gaussian", "orthogonal", "mica", "pissa", "pissa_niter_4", "olora")
def test_dora_over_a_row_of_zeros_is_refused_before_it_makes_the_loss_no_number(vlm: Vlm) -> None:
    dial, head = LoraDial(r=2, use_dora=True, target_modules=r".*lm_head"), vlm.base_model.get_output_embeddings().weight
    lora.verify(vlm, dial)
    kept = head.detach()[5].clone()
    try:
        head.data[5] = 0
        with pytest.raises(ConfigError, match="lora.use_dora=true: 1 of the rows of .*lm_head are all zero"):
            lora.verify(vlm, dial)
        lora.verify(vlm, dataclasses.replace(dial, use_dora=False))
    finally:
        head.data[5] = kept


VARIANTS: dict[str, dict[str, Any]] = {"plain": {}, "dora": {"use_dora": True}, "rslora": {"use_rslora": True, "lora_alpha": 3}}
CASES = [*((init, "plain") for init in INITS), *((init, other) for init in ("default", "pissa") for other in ("dora", "rslora"))]


@pytest.mark.parametrize(("init", "variant"), CASES)
def test_every_initialisation_survives_save_and_reload(dial: ModelDial, init: str, variant: str, tmp_path: Path) -> None:
    """At step 0 the base answers; trained, the saved adapter on a fresh base gives the same logits, here and by plain PEFT."""
    from peft import PeftModel

    asked = LoraDial(r=4, where=ALL, init_lora_weights=init, **VARIANTS[variant])
    samples = [sample(i, ragged=True) for i in range(2)]
    vlm = model.load(dial)
    bare = logits(vlm, samples)
    lora.attach(vlm, asked)
    fresh = logits(vlm, samples)
    if lora.init_of(asked).starts_at_zero and variant != "dora":
        assert torch.equal(fresh, bare)
    assert torch.allclose(fresh, bare, atol=1e-4)
    move(vlm)
    trained = logits(vlm, samples)
    assert (trained - bare).abs().max() > 1e-3
    lora.finalize_adapter(vlm)
    settled = logits(vlm, samples)
    assert torch.allclose(settled, trained, atol=1e-3)
    with torch.inference_mode(), vlm.model.disable_adapter():
        assert torch.equal(logits(vlm, samples), bare), "the base under a settled adapter is the checkpoint"
    adapter.save(vlm, tmp_path)
    again = model.load(dial)
    adapter.load(again, tmp_path)
    assert torch.equal(logits(again, samples), settled)
    plain = model.load(dial)
    plain.model = PeftModel.from_pretrained(plain.model, str(tmp_path))
    assert torch.equal(logits(plain, samples), settled)
    lora.detach(vlm)
    assert torch.equal(logits(vlm, samples), bare)


def test_an_abandoned_arm_leaves_the_base_whole(vlm: Vlm) -> None:
    """PiSSA takes its adapter out of the base's weights; an arm that fails on the way must not hand that to the next."""
    before = {name: tensor.clone() for name, tensor in vlm.model.state_dict().items()}
    lora.attach(vlm, LoraDial(r=4, init_lora_weights="pissa"))
    move(vlm)
    lora.detach(vlm)
    after = vlm.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("init", ["orthogonal", "pissa", "olora"])
def test_an_adapter_that_never_left_its_start_is_an_error(vlm: Vlm, init: str) -> None:
    """Rounding moves logits where B A is not exactly zero, so logits alone would not tell."""
    lora.attach(vlm, LoraDial(r=4, init_lora_weights=init))
    with pytest.raises(ModelError, match="where it started"):
        lora.finalize_adapter(vlm)


def test_learning_rates_by_part_and_by_matrix(vlm: Vlm) -> None:
    from lab.model.answers import TextReadout
    from lab.training.learner import Learner

    lora.attach(vlm, LoraDial(r=2, where=ALL))
    vlm.extras["resampler"] = torch.nn.Linear(2, 2)
    optim = Optim(lr=1e-3, lr_vision=1e-5, lr_projector=2e-4, lr_extras=3e-3, lr_b_ratio=16.0)
    learner = Learner(vlm, optim, TextReadout("none"), steps=10)
    optimizer = learner.configure_optimizers()["optimizer"]
    rates = {id(p): group["initial_lr"] for group in optimizer.param_groups for p in group["params"]}
    named = lora.trainable(vlm)
    assert {id(p) for p in named.values()} == rates.keys()
    for name, parameter in named.items():
        expected = {"visual.blocks": 1e-5, "visual.merger": 2e-4, "language_model": 1e-3, "resampler": 3e-3}
        rate = next(value for key, value in expected.items() if key in name)
        assert rates[id(parameter)] == pytest.approx(rate * (16.0 if "lora_B" in name else 1.0))
    assert len(lora.parameter_groups(vlm, Optim())) == 1


def test_norms_in_float32(dial: ModelDial, tmp_path: Path) -> None:
    """Every norm keeps float32 weights in a bfloat16 base, its neighbours see bfloat16, and the answers stay near."""
    half = dataclasses.replace(dial, dtype=DType.bfloat16)
    plain, careful = model.load(half), model.load(dataclasses.replace(half, fp32_layernorms=True))
    norms = {name for name, module in careful.model.named_modules() if type(module).__name__.endswith("Norm")}
    assert {"model.visual.merger.ln_q", "model.language_model.norm"} <= norms
    for name, parameter in careful.model.named_parameters():
        in_norm = name.rpartition(".")[0] in norms
        assert parameter.dtype == (torch.float32 if in_norm else torch.bfloat16), name
    samples = [sample(i, ragged=True) for i in range(2)]
    a, b = logits(plain, samples), logits(careful, samples)
    assert b.dtype == torch.bfloat16
    assert torch.allclose(a.float(), b.float(), atol=0.1)
    assert plain.base != careful.base and plain.base["weights"] == careful.base["weights"], "the same files, held otherwise"
    lora.attach(careful, LoraDial(r=2))
    assert {p.dtype for p in lora.trainable(careful).values()} == {torch.float32}
    whole = model.load(dataclasses.replace(dial, fp32_layernorms=True))
    assert torch.equal(logits(whole, samples), logits(model.load(dial), samples))


def test_quantisation_without_bitsandbytes_says_what_to_do(dial: ModelDial, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    asked = dataclasses.replace(dial, quantisation=Quantisation.nf4)
    with pytest.raises(ConfigError, match=r"model\.quantisation=nf4: bitsandbytes is not installed.*quantised"):
        model.load(asked)


def test_quantisation_without_kernels_says_so(dial: ModelDial, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import bitsandbytes

    def refuse(raise_exception: bool) -> None:
        raise RuntimeError("None of the available devices are supported")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(bitsandbytes, "validate_bnb_backend_availability", refuse)
    with pytest.raises(ConfigError, match=r"model\.quantisation=int8: bitsandbytes has no kernels for this machine"):
        model.load(dataclasses.replace(dial, quantisation=Quantisation.int8))


def test_only_the_blocks_are_quantised(dial: ModelDial) -> None:
    from transformers import AutoConfig

    kept = precision.outside_the_blocks(model.family("qwen2_vl"), AutoConfig.from_pretrained(dial.path))
    assert "lm_head" in kept
    assert not [name for name in kept if "language_model" in name]
    assert len(kept) == 1 + 2 + 3 * 4


@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is an extra: pip install '.[quantised]'")
@pytest.mark.parametrize("kind", [Quantisation.int8, Quantisation.nf4])
def test_a_quantised_base_trains_saves_and_reloads(dial: ModelDial, kind: Quantisation, tmp_path: Path) -> None:
    from test_families import PROMPT

    from lab.model.encoding import Encoder
    from lab.training.losses import answer_loss

    asked = dataclasses.replace(dial, quantisation=kind)
    samples = [sample(i, ragged=True) for i in range(2)]
    vlm = model.load(asked)
    assert type(vlm.model.model.language_model.layers[0].mlp.up_proj).__name__ in ("Linear8bitLt", "Linear4bit")
    assert type(vlm.model.model.visual.blocks[0].attn.qkv) is torch.nn.Linear
    total = sum(row.total for row in lora.ledger(vlm))
    assert total == model.load(dial).model.num_parameters()
    bare = logits(vlm, samples)
    assert (bare - logits(model.load(dial), samples)).abs().max() > 0
    with pytest.raises(ConfigError, match="model.quantisation="):
        lora.verify(vlm, LoraDial(r=2, init_lora_weights="pissa"))
    lora.attach(vlm, LoraDial(r=2))
    assert torch.equal(logits(vlm, samples), bare)
    encoder = Encoder(vlm, PROMPT)
    batch = encoder.collate([encoder.example(one) for one in samples], with_answers=True)
    optimizer = torch.optim.AdamW(lora.parameter_groups(vlm, Optim(lr=1e-2)))
    losses = []
    for _ in range(3):
        loss = answer_loss(vlm.predict(batch), batch.target.labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    trained = logits(vlm, samples)
    adapter.save(vlm, tmp_path)
    again = model.load(asked)
    adapter.load(again, tmp_path)
    assert torch.equal(logits(again, samples), trained)
