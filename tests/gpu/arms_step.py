"""One optimizer step of three arms at the published widths and two blocks, by three ways, on the same samples with features that are there:

    one after another     over one base, as a sweep has them
    at once               a process for each, each with a base of its own
    in one forward        over one base, the adapters side by side (batched LoRA, as PLoRA and LoRAFusion train them)

PEFT trains no adapters side by side, so what does so here is written for this table alone.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from .scale import Scale
from .sheet import Sheet

if TYPE_CHECKING:
    import torch

    from lab.config import Experiment
    from lab.model import Vlm
    from lab.model.encoded import Example

RANKS = (8, 16, 32)
AMOUNT = {"cuda": (5, 8), "cpu": (2, 2)}
"""Steps that are timed, and samples of each."""
APART = {"float32": 1e-5, "bfloat16": 0.05}
"""Nats by which the losses of the ways may differ."""


def arms_step(scale: Scale, sheet: Sheet) -> None:
    """Milliseconds of a step of all three arms, and that all ways lose the same."""
    path = scale.checkpoint("qwen2_vl", "2b", num_layers=2, depth=2)
    x = scale.experiment("qwen2_vl_2b", path)
    amount = AMOUNT[scale.device]
    arms = [replace(x, lora=replace(x.lora, r=rank)) for rank in RANKS]
    losses: dict[str, list[list[float]]] = {}
    taken: dict[str, float] = {}
    taken["one after another"], losses["one after another"], together = one_after_another(arms, amount)
    taken["in one forward"], losses["in one forward"] = in_one_forward(arms[-1], *together, amount)
    del together
    taken["at once"], losses["at once"] = at_once(arms, amount)
    for way, seconds in taken.items():
        note = f"median of {amount[0]} steps of {amount[1]} samples, ranks {', '.join(map(str, RANKS))}, {x.model.dtype.value}"
        sheet.add(f"a step of {len(RANKS)} arms, {way}", 1e3 * seconds, "ms", note)
    for way, found in losses.items():
        pairs = zip(found, losses["one after another"], strict=True)
        gap = max(abs(one - other) for own, first in pairs for one, other in zip(own, first, strict=True))
        sheet.check(f"{way}: the losses of one after another", gap <= APART[x.model.dtype.value], f"at most {gap:.1e} nats apart")


Adapters = dict[str, tuple["torch.Tensor", "torch.Tensor", float]]
"""A, B and the scaling of each layer, as they begin."""


def layers_of(vlm: Vlm) -> Iterator[tuple[str, Any]]:
    """The layers that are adapted, by name."""
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in vlm.base_model.named_modules() if isinstance(module, LoraLayer))


def adapters(vlm: Vlm) -> Adapters:
    """Copies of what is attached."""
    from lab.lora import ADAPTER

    return {
        name: (layer.lora_A[ADAPTER].weight.detach().clone(), layer.lora_B[ADAPTER].weight.detach().clone(), layer.scaling[ADAPTER])
        for name, layer in layers_of(vlm)
    }


Amount = tuple[int, int]


def one_after_another(arms: Sequence[Experiment], amount: Amount) -> tuple[float, list[list[float]], tuple[Any, list[Example], list[Adapters]]]:
    """Seconds, losses, and what the other ways begin with."""
    from lab import run as running
    from lab.run.assembly import attached

    prepared = running.prepare(arms[0])
    train = prepared.encoded(arms[0])["train"]
    examples = [train[i] for i in range(amount[1])]
    seconds, losses, begun = [], [], []
    for x in arms:
        with attached(x, prepared.vlm) as vlm:
            begun.append(adapters(vlm))
            found = steps_of(x, vlm, prepared, amount)
        seconds.append(found[0])
        losses.append(found[1])
    return sum(seconds), losses, (prepared, examples, begun)


def steps_of(x: Experiment, vlm: Vlm, prepared: Any, amount: Amount) -> tuple[float, list[float]]:
    """The median seconds of an arm's steps alone, and their losses."""
    from lab import lora
    from lab.model.batching import to_device
    from lab.training.learner import Learner

    train = prepared.encoded(x)["train"]
    learner = Learner(vlm, x.optim, train.encoder.readout, amount[0])
    vlm.model.to(vlm.device).train()
    batch = to_device(train.encoder.collate([train[i] for i in range(amount[1])], with_answers=True, learned=True), vlm.device)
    trained = list(lora.trainable(vlm).values())
    return timed(lambda: [learner.loss(batch)], trained, x, vlm.device, amount[0])


def timed(
    losses: Callable[[], list[torch.Tensor]], trained: Sequence[torch.Tensor], x: Experiment, device: torch.device, steps: int
) -> tuple[float, list[Any]]:
    """Take steps with AdamW at a constant rate; the first warms up and is not timed."""
    import torch

    from lab.evaluation.latency import now

    optimizer, taken, found = torch.optim.AdamW(trained, lr=x.optim.lr), [], []
    for _ in range(steps + 1):
        start = now(device)
        each = losses()
        torch.stack(each).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        taken.append(now(device) - start)
        found.append([one.item() for one in each])
    return statistics.median(taken[1:]), [values[0] if len(values) == 1 else values for values in found]


def in_one_forward(x: Experiment, prepared: Any, examples: list[Example], begun: list[Adapters], amount: Amount) -> tuple[float, list[list[float]]]:
    """The same with the samples of all arms in one batch. x: the arm of the highest rank, whose layers are taken the place of."""

    from lab.model.batching import to_device
    from lab.run.assembly import attached
    from lab.training.fast.fused_step import instead
    from lab.training.losses import answer_loss

    encoder = prepared.encoded(x)["train"].encoder
    with attached(x, prepared.vlm) as vlm:
        vlm.model.to(vlm.device).train()
        sides = {layer: SideBySide([arm[name] for arm in begun], layer.get_base_layer(), vlm.device) for name, layer in layers_of(vlm)}
        batch = to_device(encoder.collate(examples * len(begun), with_answers=True, learned=True), vlm.device)
        trained = [factor for side in sides.values() for factor in (side.a, side.b)]

        def losses() -> list[torch.Tensor]:
            logits = vlm.predict(batch)
            return [answer_loss(*arm) for arm in zip(logits.chunk(len(begun)), batch.target.labels.chunk(len(begun)), strict=True)]

        with instead([(layer, side.forward) for layer, side in sides.items()]):
            seconds, found = timed(losses, trained, x, vlm.device, amount[0])
    return seconds, [list(arm) for arm in zip(*found, strict=True)]


class SideBySide:
    """The adapters of one layer of several arms: A [arms, r, in] and B [arms, out, r], zeros behind a smaller rank, which stay zeros."""

    def __init__(self, arms: Sequence[tuple[torch.Tensor, torch.Tensor, float]], base: Any, device: torch.device) -> None:
        import torch
        from torch.nn import functional as F

        most = max(len(a) for a, _, _ in arms)
        self.base = base
        self.a = torch.stack([F.pad(a, (0, 0, 0, most - len(a))) for a, _, _ in arms]).to(device).requires_grad_()
        self.b = torch.stack([F.pad(b, (0, most - b.shape[1])) for _, b, _ in arms]).to(device).requires_grad_()
        self.scaling = torch.tensor([scaling for _, _, scaling in arms], device=device)[:, None, None]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [arms rows, T, in], arm by arm."""
        out = self.base(x)
        given = x.reshape(len(self.a), -1, x.shape[-1]).to(self.a.dtype)
        added = given.bmm(self.a.mT).bmm(self.b.mT) * self.scaling
        return out + added.view_as(out).to(out.dtype)


def at_once(arms: Sequence[Experiment], amount: Amount) -> tuple[float, list[list[float]]]:
    """A process for each arm; the seconds of the slowest."""
    context = multiprocessing.get_context("spawn")
    together, threads = context.Barrier(len(arms)), max(1, len(os.sched_getaffinity(0)) // len(arms))
    with context.Pool(len(arms), initializer=meet, initargs=(together, threads)) as pool:
        found = pool.map(partial(alone, amount=amount), arms, chunksize=1)
    return max(seconds for seconds, _ in found), [losses for _, losses in found]


MET: list[Any] = []


def meet(barrier: Any, threads: int) -> None:
    """What a process waits at before its steps, and how many threads it has."""
    import torch

    MET.append(barrier)
    torch.set_num_threads(threads)


def alone(x: Experiment, amount: Amount) -> tuple[float, list[float]]:
    """An arm in a process of its own, which begins its steps when all are ready."""
    from lab import run as running
    from lab.run.assembly import attached
    from lab.sweeping.launcher import register

    register()
    prepared = running.prepare(x)
    with attached(x, prepared.vlm) as vlm:
        MET[0].wait()
        return steps_of(x, vlm, prepared, amount)
