"""One bfloat16 step, lean and plain, against the plain step in float32 with the same weights: loss and gradients.

Two correct bfloat16 steps differ by bfloat16's noise; what tells a wrong one is that it lies farther from float32 than PEFT's and
Transformers' own expressions do.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from .scale import Scale
from .sheet import Sheet

if TYPE_CHECKING:
    import torch

    from lab.config import Experiment
    from lab.model import Vlm
    from lab.records import Batch

FARTHER = 1.5
"""How many times plain PEFT's distance from float32 the lean step's may be."""
EXAMPLES = 8


def precision(scale: Scale, sheet: Sheet) -> None:
    """At the published widths of Qwen2-VL-2B and two blocks, adapters away from their start, images as pixels."""
    import torch

    from lab.config import DType
    from lab.model.answers import readout
    from lab.training.learner import Learner
    from lab.training.losses import answer_loss

    path = scale.checkpoint("qwen2_vl", "2b", num_layers=2, depth=2)
    x = scale.experiment("qwen2_vl_2b", path)
    wide = replace(x, model=replace(x.model, dtype=DType.float32))

    def plain(vlm: Vlm, batch: Batch) -> torch.Tensor:
        return answer_loss(vlm.predict(batch), batch.target.labels)

    vlm, batch = model_and_batch(wide, scale)
    with torch.backends.cudnn.flags(allow_tf32=False):  # the patch embedding is a convolution
        reference = step(vlm, batch, plain)
    del vlm
    vlm, batch = model_and_batch(x, scale)
    learner = Learner(vlm, x.optim, readout(vlm.processor.tokenizer, x.prompt), 1)
    away = {}
    for name, loss in {"plain": plain, "lean": lambda _, given: learner.loss(given)}.items():
        found = step(vlm, batch, loss)
        away[name] = distances(found, reference)
        sheet.add(f"{name}: loss away from float32", away[name][0], "nats", f"float32: {float(reference[0]):.6f}")
        sheet.add(f"{name}: gradients away from float32", away[name][1], "", "norm of the difference over the norm")
        sheet.add(f"{name}: forward and backward", 1e3 * paced(vlm, batch, loss), "ms", f"median of 3, batch {EXAMPLES}, two blocks")
    (lean_loss, lean), (plain_loss, other) = away["lean"], away["plain"]
    sheet.check("the lean step's gradients are as near to float32 as the plain one's", lean <= FARTHER * other, f"{lean:.2e} and {other:.2e}")
    most = FARTHER * max(plain_loss, torch.finfo(torch.bfloat16).eps)
    sheet.check("so is its loss", lean_loss <= most, f"{lean_loss:.2e} and {plain_loss:.2e} nats")


def model_and_batch(x: Experiment, scale: Scale) -> tuple[Vlm, Batch]:
    """A model with adapters of rank 4 that have left their start, in training mode, and a batch with answers."""
    import checkpoints

    from lab import data
    from lab.model.batching import to_device
    from lab.model.encoding import Encoder

    vlm = checkpoints.with_adapters(x.model, x)
    vlm.model.to(scale.device)
    vlm.model.train()
    encoder, train = Encoder(vlm, x.prompt), data.load(x.data, scale.home / "cache").train
    batch = encoder.collate([encoder.example(train[i]) for i in range(EXAMPLES)], with_answers=True)
    return vlm, to_device(batch, vlm.device)


Loss = Callable[["Vlm", "Batch"], "torch.Tensor"]
Stepped = tuple["torch.Tensor", dict[str, "torch.Tensor"]]
"""Loss and gradients."""


def step(vlm: Vlm, batch: Batch, loss: Loss) -> Stepped:
    """Loss, and the gradients of everything that trains, on the CPU; the model's own are taken from it."""
    from lab import lora

    found = loss(vlm, batch)
    found.backward()
    gradients = {name: parameter.grad.float().cpu() for name, parameter in lora.trainable(vlm).items() if parameter.grad is not None}
    vlm.model.zero_grad(set_to_none=True)
    return found.detach().float().cpu(), gradients


def distances(one: Stepped, other: Stepped) -> tuple[float, float]:
    """Between losses in nats, and between gradients over the norm of the other's."""
    assert one[1].keys() == other[1].keys()
    squares = sum(float((one[1][name] - gradient).square().sum()) for name, gradient in other[1].items())
    norm = sum(float(gradient.square().sum()) for gradient in other[1].values())
    return abs(float(one[0]) - float(other[0])), (squares / norm) ** 0.5


def paced(vlm: Vlm, batch: Batch, loss: Loss) -> float:
    """Seconds of a forward and a backward: the median of three, after the one that came before."""
    from lab.evaluation.latency import now

    taken = []
    for _ in range(3):
        start = now(vlm.device)
        loss(vlm, batch).backward()
        taken.append(now(vlm.device) - start)
        vlm.model.zero_grad(set_to_none=True)
    return statistics.median(taken)
