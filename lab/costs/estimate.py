"""What an experiment will take on a machine: features, training, evaluation and an answer, in time, memory and money; intervals.

Left out: starting, loading, the looks at minival while it trains, latency rounds and the equivalence gate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lab import model
from lab.config import DType, Experiment, trains
from lab.costs.machines import Machine
from lab.costs.operations import BYTES, CALLS, Work
from lab.costs.shared_reading import SharedReading
from lab.costs.timing import NOTHING, Interval, forward, token, update

SAMPLE_S, PICTURE_S, PIXEL_S = 3e-4, 5e-4, 2.5e-8
"""Seconds to collate a sample whose features are cached, and to decode and prepare a picture: at all, and for each pixel."""
LEAN_BYTES, LEAN_CALLS = 0.4, 0.5
"""Of what passes through memory and of operations, what `lab.training.fast.fused_step` leaves."""


@dataclass(frozen=True)
class Sizes:
    """How much is learned and asked. steps: of the optimizer. examples: that are read for features, each once. asked: that are answered.

    images: of an example. positions: of its prompt. answer: tokens that are written for one answer; 1 where it is read off the logits.
    pixels: of an image.
    """

    steps: int
    examples: int
    asked: int
    images: int
    positions: int
    answer: float
    pixels: float = 640 * 480

    @property
    def reading_s(self) -> float:
        """Seconds to decode and prepare the images of an example."""
        return self.images * (PICTURE_S + PIXEL_S * self.pixels)


@dataclass(frozen=True)
class Counts:
    """What was counted of an experiment's model. work, read: `Cost.work` of `questions` examples that are learned from, and of one asked.

    unread: of work, what `lab.training.fast` leaves out of the last block. passes: of a training step through each part. trainable: numbers
    that train. recomputes: with gradient checkpointing. shared: where questions that are asked share the reading of their images.
    """

    work: Work
    read: Work
    unread: Work
    passes: dict[str, float]
    trainable: float
    tensors: int
    recomputes: bool
    questions: int = 1
    shared: SharedReading | None = None


@dataclass(frozen=True)
class Estimate:
    """Of one experiment. All are seconds; answer: of one question alone, from pixels to the end of the answer."""

    steps: int
    features: Interval
    train: Interval
    evaluation: Interval
    answer: Interval

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        times = {name: {"seconds": getattr(self, name).facts()} for name in ("features", "train", "evaluation")}
        return {"steps": self.steps, **times, "latency": {"milliseconds": self.answer.times(1e3).facts()}}


def estimate(x: Experiment, counts: Counts, sizes: Sizes, machine: Machine) -> Estimate:
    """Time of everything that is counted."""
    cached = counts.passes["vision"] == 0
    step = step_seconds(x, counts, machine, sizes.reading_s) if trains(x) else NOTHING
    seen = {"llm": 0, "head": 0, "adapters": 0, "added": 0, "other": 0, "vision": 1, "projector": 1}
    looks = forward(counts.read, machine, seen) + fixed(sizes.reading_s)
    read = {"llm": 1, "vision": 0, "projector": 0} if cached else {"llm": 1}
    batch = max(1, min(x.evaluation.batch_size, sizes.asked))
    asked = reading(counts, machine, read, batch) + token(counts.read, machine, sizes.positions, batch).times(sizes.answer - 1)
    alone = forward(counts.read, machine, {"llm": 1}) + token(counts.read, machine, sizes.positions).times(sizes.answer - 1)
    return Estimate(
        steps=sizes.steps,
        features=looks.times(sizes.examples) if cached else NOTHING,
        train=step.times(sizes.steps),
        evaluation=asked.times(sizes.asked / batch),
        answer=alone,
    )


def reading(counts: Counts, machine: Machine, passes: Mapping[str, float], batch: int) -> Interval:
    """Reading the prompts of a batch of questions. passes: through each part."""
    if counts.shared is None:
        return forward(counts.read, machine, passes, batch)
    starts = max(1.0, batch / counts.shared.questions)
    return forward(counts.shared.start, machine, passes, starts) + forward(counts.shared.rest, machine, {"llm": 1}, batch)


def step_seconds(x: Experiment, counts: Counts, machine: Machine, reading_s: float) -> Interval:
    """An optimizer step with the reading of its samples. reading_s: of the images of one that are not cached."""
    section = x.trainer
    size = max(1, section.batch_size // section.devices)
    work = step_work(x, counts, machine)
    one = forward(work, machine, counts.passes, size / counts.questions)
    sample_s = SAMPLE_S + (0.0 if counts.passes["vision"] == 0 else reading_s)
    samples = fixed(size * sample_s / max(1, section.num_workers))
    return (one + samples).times(section.accumulate_grad_batches) + update(counts.trainable, counts.tensors, machine)


def fixed(seconds: float) -> Interval:
    """What no device makes faster, by a third more or less."""
    return Interval(0.75 * seconds, seconds, 1.33 * seconds)


def step_work(x: Experiment, counts: Counts, machine: Machine) -> Work:
    """What a step computes of the work that was counted, by `lab.training.fast` where it goes through that."""
    read = counts.work - counts.unread
    if is_lean(x, counts, machine):
        return lean(read)
    joined = counts.questions > 1 or x.trainer.packing
    return read if joined and not counts.recomputes else counts.work


def is_lean(x: Experiment, counts: Counts, machine: Machine) -> bool:
    """Whether a step goes through `lab.training.fast.fused_step`, whose conditions these are."""
    in_float32 = x.model.dtype is DType.float32 and not machine.overlaps
    otherwise = counts.recomputes or x.trainer.packing or x.lora.lora_dropout or x.lora.use_dora
    plain = not (otherwise or {"llm", "head"} & set(x.lora.full))
    return in_float32 and plain and model.family(x.model.family).offers("fast_step")


def lean(work: Work) -> Work:
    """The work of a step in fewer operations."""
    shares = {BYTES: LEAN_BYTES, CALLS: LEAN_CALLS}
    return Work({(part, what): number * (shares.get(what, 1.0) if isinstance(what, str) else 1.0) for (part, what), number in work.items()})
