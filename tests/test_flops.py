"""Counted operations are those that PyTorch's own counter sees, for every family, with adapters and with added modules."""

from __future__ import annotations

import checkpoints
import pytest
import torch
from test_families import PROMPT, sample
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lab import conditioning, lora, model, vision_tokens
from lab.config import ConditioningDial, LoraDial, VisionTokensDial
from lab.costs import flops
from lab.model import Vlm
from lab.model.encoding import Encoder
from lab.records import Shape


@pytest.fixture(scope="module", params=checkpoints.FAMILIES)
def vlm(request, tmp_path_factory: pytest.TempPathFactory) -> Vlm:
    return model.load(checkpoints.save(request.param, tmp_path_factory.mktemp("family") / request.param))


def seen(vlm: Vlm, number: int = 1, prompt=PROMPT) -> tuple[Shape, float]:
    """The size of one example whose images differ in size, and what PyTorch counts in its forward pass, from pixels."""
    encoder = Encoder(vlm, prompt)
    example = encoder.example(sample(number, ragged=True))
    batch = encoder.collate([example], with_answers=False, align=1)
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        vlm.logits(batch, 1)
    return encoder.shape(example), counter.get_total_flops()


def other_half(vlm: Vlm, shape: Shape) -> float:
    """What the counter sees of causal attention and the definition does not: the products above the diagonal."""
    return vlm.family.architecture.causal_flops(vlm.bare.config, shape)


@pytest.mark.parametrize("number", [1, 3])
def test_a_forward_pass(vlm: Vlm, number: int) -> None:
    shape, counted = seen(vlm, number)
    assert flops.forward(vlm, [shape]) + other_half(vlm, shape) == pytest.approx(counted, rel=1e-12)


def test_adapters_are_counted_before_they_are_attached(vlm: Vlm) -> None:
    dial = LoraDial(r=3, where=["vision", "projector", "llm"])
    arm = vlm.share()
    foreseen = flops.forward(arm, [seen(arm)[0]], dial)
    bare = flops.forward(arm, [seen(arm)[0]])
    lora.attach(arm, dial)
    shape, counted = seen(arm)
    assert flops.forward(arm, [shape]) == foreseen > bare
    assert foreseen + other_half(arm, shape) == pytest.approx(counted, rel=1e-12)
    lora.detach(arm)
    assert flops.forward(vlm, [shape]) == bare


@pytest.mark.parametrize("option", ["resampler", "pool", "resize", "cross_attention", "no prefix"])
def test_other_dials_are_counted(vlm: Vlm, option: str) -> None:
    if not vlm.family.single_output and option != "resize":
        pytest.skip("not legal with DeepStack")
    arm = vlm.share()
    if option in ("resampler", "pool", "resize"):
        vision_tokens.install(arm, VisionTokensDial(name=option, budget=4, heads=2 if option == "resampler" else None))
    else:
        conditioning.install(arm, ConditioningDial(name="cross_attention", every=2, keep_prefix=option != "no prefix"))
    whole = flops.forward(vlm, [seen(vlm)[0]])
    shape, counted = seen(arm)
    assert flops.forward(arm, [shape]) + other_half(arm, shape) == pytest.approx(counted, rel=1e-12)
    assert (flops.forward(arm, [shape]) < whole) == (option not in ("cross_attention",))


def test_the_mean_is_over_examples(vlm: Vlm) -> None:
    one, other = seen(vlm, 1)[0], seen(vlm, 2)[0]
    assert flops.forward(vlm, [one, other]) == pytest.approx((flops.forward(vlm, [one]) + flops.forward(vlm, [other])) / 2)
