"""What an example is counted to cost without weights, against what torch counts and autograd keeps of the real model."""

from __future__ import annotations

import dataclasses
import weakref

import pytest
import torch
from checkpoints import FAMILIES, save
from test_families import PROMPT, sample
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lab import conditioning, lora, model, vision_tokens
from lab.config import PARTS, ConditioningDial, DType, LoraDial, VisionTokensDial
from lab.costs.counting import CostModel, without_weights
from lab.errors import ModelError
from lab.model import Vlm
from lab.model.encoding import Encoder
from lab.records import ExampleSize
from lab.training import capacity
from lab.training.losses import answer_loss

EVERYWHERE = LoraDial("one", r=4, where=list(PARTS), target_modules="all-linear")
DIALS = {
    "everywhere": EVERYWHERE,
    "llm": dataclasses.replace(EVERYWHERE, where=["llm"]),
    "attention": dataclasses.replace(EVERYWHERE, where=["llm"], target_modules="attention"),
    "dropout": dataclasses.replace(EVERYWHERE, where=["llm"], lora_dropout=0.1),
    "last block": dataclasses.replace(EVERYWHERE, where=["llm"], top_k_blocks=1),
    "end of the tower": dataclasses.replace(EVERYWHERE, where=["vision"], top_k_blocks=1),
}

BY_FAMILY = ("everywhere", "last block", "end of the tower")
"""What depends on a family's own modules. What depends on the adapter alone is asked of one family of Linear and one of Conv1D."""
LAST = ("last block",)
"""Nothing is won where one block trains and is computed again."""


def saved_bytes(vlm, batch) -> int:
    """Bytes of all storages that autograd holds after a forward, weights apart."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in vlm.model.parameters()}
    packed: list[weakref.ref[torch.Tensor]] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        packed.append(weakref.ref(tensor))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = answer_loss(vlm.predict(batch), batch.target.labels)
    assert loss.requires_grad
    storages = [tensor.untyped_storage() for each in packed if (tensor := each()) is not None]
    return sum({each.data_ptr(): each.nbytes() for each in storages if each.data_ptr() not in weights}.values())


@pytest.mark.parametrize(("family", "dtype"), [*((each, DType.float32) for each in (*FAMILIES, "vit_gpt2")), ("qwen2_vl", DType.bfloat16)])
def test_what_autograd_keeps(family, dtype, tmp_path) -> None:
    saved = dataclasses.replace(save(family, tmp_path), dtype=dtype)
    base = model.load(saved)
    encoder = Encoder(base, PROMPT)
    examples = [encoder.example(sample(index, ragged=True)) for index in (0, 4)]
    batch = encoder.collate(examples, with_answers=True)
    size = max((encoder.size(example) for example in examples), key=lambda size: size.length)
    size = dataclasses.replace(size, length=batch.prompt.ids.shape[1], rows=batch.target.rows)
    for name in DIALS if family in ("qwen2_vl", "vit_gpt2") and dtype is DType.float32 else BY_FAMILY:
        vlm, dial = base.share(), DIALS[name]
        counted = CostModel(vlm, dial).cost(size).kept
        lora.attach(vlm, dial)
        vlm.model.train()
        plain = saved_bytes(vlm, batch)
        assert 0.95 * plain <= len(examples) * counted.plain <= 1.2 * plain, name
        capacity.recompute(vlm, True)
        assert saved_bytes(vlm, batch) <= 1.05 * len(examples) * counted.between, f"{name}: what is frozen keeps nothing"
        assert counted.largest < counted.plain and (counted.checkpointed < counted.plain) == (name not in LAST)
        capacity.recompute(vlm, False)
        lora.detach(vlm)
        base.model = vlm.model


@pytest.fixture(scope="module", params=[*FAMILIES, "vit_gpt2"])
def vlm(request, tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return model.load(save(request.param, tmp_path_factory.mktemp("family") / request.param))


def seen(vlm: Vlm, number: int = 1) -> tuple[ExampleSize, int]:
    """The size of one example whose images differ in size, and what torch counts in its forward pass, from pixels."""
    encoder = Encoder(vlm, PROMPT)
    example = encoder.example(sample(number, ragged=True))
    batch = encoder.collate([example], with_answers=False, align=1)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        vlm.logits(batch, 1)
    return encoder.size(example), counter.get_total_flops()


def test_operations_are_those_of_the_real_model(vlm: Vlm) -> None:
    """With adapters before they are attached and after; a mean is over examples."""
    plain = [seen(vlm, number) for number in (1, 3)]
    sizes, counts = zip(*plain, strict=True)
    assert sum(CostModel(vlm).flops(sizes).values()) == sum(counts) / 2
    dial = LoraDial(r=3, where=list(PARTS))
    foreseen = CostModel(vlm, dial).cost(sizes[0])
    arm = vlm.share()
    lora.attach(arm, dial)
    assert CostModel(arm).cost(sizes[0]) == foreseen
    assert sum(foreseen.flops.values()) == seen(arm)[1] == foreseen.flops["adapters"] + counts[0]
    lora.detach(arm)
    vlm.model = arm.model


@pytest.mark.parametrize("init", ["default", "orthogonal", "mica"])
def test_a_number_of_parameters_is_counted_as_the_rank_that_it_comes_to(vlm: Vlm, init: str) -> None:
    """By the initialisation's own numbers: MiCA's B is frozen, orthogonal matrices have even ranks."""
    dial = LoraDial(r=4, where=["llm"], init_lora_weights=init)
    wanted = dataclasses.replace(dial, r=16, trainable_parameters=lora.adapter_parameters(vlm, dial))
    assert {module.r["default"] for module in without_weights(vlm, wanted).base_model.modules() if hasattr(module, "lora_A")} == {4}


@pytest.mark.parametrize("option", ["resampler", "pool", "prune", "merge", "resize", "cross_attention", "no prefix"])
def test_other_dials_are_counted(vlm: Vlm, option: str) -> None:
    arm = vlm.share()
    try:
        if option in ("cross_attention", "no prefix"):
            conditioning.install(arm, ConditioningDial(name="cross_attention", every=2, keep_prefix=option != "no prefix"))
        else:
            vision_tokens.install(arm, VisionTokensDial(name=option, budget=4, heads=2 if option == "resampler" else None))
    except ModelError:
        pytest.skip("refused by the family")
    size, counted = seen(arm)
    cost = CostModel(arm).cost(size)
    products = sum(cost.flops.values())
    assert products == counted if option != "merge" else products == pytest.approx(counted, rel=1e-3)
    assert (cost.flops["added"] > 0) == bool(arm.extras)
    assert (products < sum(CostModel(vlm).cost(seen(vlm)[0]).flops.values())) == (option != "cross_attention")
