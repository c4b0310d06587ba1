"""What a sweep will take on a device, before it is run: each arm's `lab.costs.estimate`, all together, in hours and money."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab import model
from lab.config import DType, Experiment, trains
from lab.costs import machines, planning, without_weights
from lab.costs.estimate import Estimate, Sizes, estimate
from lab.costs.machines import HERE, Machine
from lab.costs.planning import ALONE, Plan, SharedPrefix, Trees
from lab.costs.timing import NOTHING, Interval, duration, short
from lab.data.images import size_of
from lab.host.scheduling import makespan
from lab.model.batching import behind_images
from lab.model.encoding import Encoder
from lab.records import Choice, Picture, Sample, Split, Splits
from lab.run import sharing
from lab.training import capacity, devices, ordering, tree_rows

TEXT_TOKENS = 70
"""Of a prompt without its images, where neither data nor processor say."""
OWN_TOKENS = 25
"""Of these, of question and answer."""
MANY = 10**5
PHOTOGRAPH = 640.0 * 480
LOOKED_AT = 32
"""Samples of dev whose words and answers are counted."""
UNKNOWN_ANSWER = {Choice.kind: 1.0}
"""Tokens that are written for an answer where it is not known; of other kinds as many as may be."""


@dataclass(frozen=True)
class Device:
    """What is planned for. flops: FLOP/s at most; memory: bytes; machine: its rates."""

    name: str
    flops: float
    memory: float
    machine: Machine


@dataclass(frozen=True)
class Arm:
    """One arm as planned. time: None where it is not known how many steps it takes. base: arms with one share a base, and run at once;
    pictures: arms with one share features."""

    name: str
    base: str
    pictures: str
    found: Plan
    memory: float
    time: Estimate | None

    def facts(self) -> dict[str, Any]:
        """As plain values."""
        found = self.found
        sizes = {"weights": found.weight_bytes, "trains": found.adapter_bytes, "gradients": found.gradient_bytes}
        sizes |= {"optimizer": found.optimizer_bytes, "activations": found.activation_bytes, "training": found.memory_bytes}
        sizes |= {"inference": found.inference_bytes, "device": self.memory}
        counted = {"trainable": sum(row.trainable for row in found.ledger), "gradient_checkpointing": found.recomputes}
        flops = {"train": found.train_flops, "evaluation": found.eval_flops}
        times = {"steps": None, "train": None} if self.time is None else self.time.facts()
        return {"name": self.name, **counted, "memory_bytes": sizes, "flops_per_example": flops, **times}


@dataclass(frozen=True)
class Forecast:
    """All arms, those with one base together. at_once: how many run at once. price: of the device for an hour."""

    device: str
    machines: list[Machine]
    arms: list[Arm]
    at_once: int
    price: float | None = None

    @property
    def times(self) -> list[Estimate]:
        """Of the arms whose steps are known."""
        return [arm.time for arm in self.arms if arm.time is not None]

    @property
    def known(self) -> bool:
        """Whether it is known of all arms how many steps they take."""
        return len(self.times) == len(self.arms)

    @property
    def features(self) -> Interval:
        """Seconds in which features are computed, once for all arms that share them."""
        longest: dict[str, Interval] = {}
        for arm in self.arms:
            if arm.time is not None:
                longest[arm.pictures] = max(longest.get(arm.pictures, NOTHING), arm.time.features, key=lambda one: one.expected)
        return sum(longest.values(), NOTHING)

    @property
    def train(self) -> Interval:
        """Seconds that all arms train, one after another."""
        return sum((time.train for time in self.times), NOTHING)

    @property
    def evaluation(self) -> Interval:
        """Seconds in which all arms answer, one after another."""
        return sum((time.evaluation for time in self.times), NOTHING)

    @property
    def hours(self) -> Interval:
        """Of the device, for features, training and evaluation: of the arms of one base until the last has ended, then of the next base."""
        busy = NOTHING
        for base in dict.fromkeys(arm.base for arm in self.arms):
            own = [(arm.time.train + arm.time.evaluation).facts() for arm in self.arms if arm.base == base and arm.time is not None]
            busy += Interval(**{end: makespan([seconds[end] for seconds in own], self.at_once) for end in NOTHING.facts()})
        return (busy + self.features).times(1 / 3600)

    def describe(self) -> str:
        """A few lines."""
        if not self.known:
            return "how long it takes is not known, as the data are not here: give trainer.max_steps, or --examples N"
        steps = sum(time.steps for time in self.times)
        beside = f", {self.at_once} at once" if self.at_once > 1 else ""
        hours = self.hours
        lines = [
            *(machine.describe() for machine in self.machines),
            f"training: {steps:,} steps, {duration(self.train)}; evaluation: {duration(self.evaluation)}; features: {duration(self.features)}",
            f"one answer at batch 1: {' / '.join(dict.fromkeys(milliseconds(time.answer) for time in self.times))}",
            f"together: {duration(hours.times(3600))}{beside}; starting, latency and the gate left out",
        ]
        if self.price is not None:
            money = hours.times(self.price)
            lines.append(f"money: {money.expected:,.2f} ({money.low:,.2f} to {money.high:,.2f}) at {self.price:g} an hour")
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        """As plain values: `train.seconds.low`, `.expected`, `.high` of all arms together, hours, money, and each arm by itself."""
        answer = max((time.answer for time in self.times), key=lambda one: one.expected, default=NOTHING)
        memory = max(self.arms, key=lambda arm: arm.found.memory_bytes)
        together = {
            "steps": sum(time.steps for time in self.times),
            "train": {"seconds": self.train.facts()},
            "evaluation": {"seconds": self.evaluation.facts()},
            "features": {"seconds": self.features.facts()},
            "latency": {"milliseconds": answer.times(1e3).facts()},
            "hours": self.hours.facts(),
            "money": None if self.price is None else {"per_hour": self.price, **self.hours.times(self.price).facts()},
        }
        return {
            "device": self.device,
            "rates": [machine.describe() for machine in self.machines],
            "at_once": self.at_once,
            **(together if self.known else dict.fromkeys(together)),
            "memory_bytes": memory.facts()["memory_bytes"],
            "arms": [arm.facts() for arm in self.arms],
        }


def milliseconds(seconds: Interval) -> str:
    """An interval in milliseconds."""
    return f"{short(1e3 * seconds.expected)} ms ({short(1e3 * seconds.low)} to {short(1e3 * seconds.high)})"


def device_of(name: str, x: Experiment) -> Device:
    """A device by its name of `--device`, at the dtype of an experiment. Raises `ConfigError`."""
    dtype = x.model.dtype.value
    if name != HERE:
        known = machines.sheet(name)
        return Device(name, max(known.float16, known.bfloat16), known.memory, machines.of_sheet(name, dtype))
    import torch

    machine = machines.here(dtype, x.trainer.accelerator, x.trainer.threads)
    on = torch.device("cuda" if machine.overlaps else "cpu")
    return Device(name, max(machine.products.values()), capacity.total(on, x.trainer.devices), machine)


def at_once(name: str, experiments: Sequence[Experiment]) -> int:
    """How many arms run at once: on a GPU one after another, on this machine's cores as `lab.sweeping.groups` has it."""
    if name != HERE or devices.on_gpu(experiments[0].trainer):
        return 1
    cores = len(os.sched_getaffinity(0)) // max(x.trainer.threads * x.trainer.devices for x in experiments)
    return max(1, min(len(experiments), cores))


def arm(name: str, x: Experiment, device: Device, splits: Splits | None, tokens: int, text: int | None, examples: int | None) -> Arm:
    """Plan one arm. tokens: of an image. text: of a prompt, where it is given. examples: of train, where the data are not here."""
    images = 2 if splits is None else len(splits.dev.index(0).images)
    said = words_of(x, splits)
    trees = trees_of(x, splits, (text or said.prompt) + images * tokens, said.own)
    asked = SharedPrefix(about(x, splits), said.own) if x.evaluation.shared_prefix else None
    found = planning.plan(x, tokens, images=images, text_tokens=text or said.prompt, memory=device.memory, trees=trees, asked=asked)
    base = sharing.shared_key(x)
    shares = name, base, base + repr(x.vision_tokens)
    epoch = examples if splits is None else (sum(ordering.places(splits.sources)) or len(splits.train))
    steps = steps_of(x, epoch)
    if steps is None:
        return Arm(*shares, found, device.memory, None)
    read = min(epoch or 0, steps * x.trainer.samples_per_step)
    number = sum(map(len, asked_of(x, splits)))
    sizes = Sizes(steps, read if splits is None else shown(splits, trains(x)), number, images, found.tokens, said.answer, pixels_of(splits))
    return Arm(*shares, found, device.memory, estimate(x, found.counts, sizes, device.machine))


def asked_of(x: Experiment, splits: Splits | None) -> list[Split]:
    """The splits that are answered once an arm has trained."""
    return [] if splits is None else [getattr(splits, part) for part in x.evaluation.splits]


def about(x: Experiment, splits: Splits | None) -> float:
    """How many questions are asked of one set of images, mean."""
    asked = asked_of(x, splits)
    return sum(map(len, asked)) / sum(map(shown_in, asked)) if any(map(len, asked)) else 1.0


def shown(splits: Splits, with_train: bool) -> int:
    """Examples of other images than those before, over all splits; of very many all examples."""
    number = 0
    for split in (*([splits.train] if with_train else []), splits.minival, splits.dev):
        number += shown_in(split)
    return number


def shown_in(split: Split) -> int:
    """Of how many image sets a split asks; of very many questions as if each had its own."""
    return len(split) if len(split) > MANY else len({split.index(i).image_set for i in range(len(split))})


def pixels_of(splits: Splits | None) -> float:
    """Of an image: dev's first, or a photograph of 640 x 480."""
    images = () if splits is None else splits.dev[0].images
    return float(math.prod(size_of(images[0]))) if images and isinstance(images[0], Picture) else PHOTOGRAPH


def steps_of(x: Experiment, epoch: int | None) -> int | None:
    """Optimizer steps over so many examples of an epoch; None where they are not known."""
    if not trains(x):
        return 0
    if x.trainer.max_steps is not None:
        return x.trainer.max_steps
    assert x.trainer.max_epochs is not None
    return None if epoch is None else max(1, round(x.trainer.max_epochs * epoch / x.trainer.samples_per_step))


@dataclass(frozen=True)
class Words:
    """Tokens, means of dev's first samples. prompt: of a prompt with its answer, images apart; own: of these, behind the last image; answer: that
    are written for an answer."""

    prompt: int
    own: int
    answer: float


def words_of(x: Experiment, splits: Splits | None) -> Words:
    """How long questions and answers are, as the checkpoint's processor makes tokens of them; a guess where data or processor are not here."""
    encoder = None if splits is None else without_weights.encoder_of(x)
    if splits is None or encoder is None:
        kind = Choice.kind if splits is None else splits.kind
        return Words(TEXT_TOKENS, OWN_TOKENS, UNKNOWN_ANSWER.get(kind) or float(x.evaluation.most_tokens(kind)))
    found = [words(encoder, splits.dev.index(i)) for i in range(min(LOOKED_AT, len(splits.dev)))]
    prompt, own, answer = np.mean(found, axis=0).tolist()
    return Words(round(prompt), round(own), 1.0 if splits.kind == Choice.kind else answer)


def words(encoder: Encoder, sample: Sample) -> tuple[int, int, int]:
    """Tokens of a sample's prompt with its answer, images apart; of these, behind its last image; of its answer."""
    text = encoder.text(sample)
    whole, answer = encoder.words(text) + len(text.answer_ids), len(text.answer_ids)
    images = behind_images(text.prompt_ids, encoder.media_ids)
    return whole, len(text.prompt_ids) - images + answer if images else whole, answer


def trees_of(x: Experiment, splits: Splits | None, length: int, own: int) -> Trees:
    """As which questions are learned from, by `trainer.layout`; with `auto` where they pay (`lab.training.tree_rows`).

    length: of an example. own: of its tokens that no other shares.
    """
    family = model.family(x.model.family)
    if x.trainer.layout == "rows" or x.data.order != "by_image" or tree_rows.why_rows(x, family) is not None:
        return ALONE
    mean = math.inf if splits is None else len(splits.train) / max(1, shown_in(splits.train))
    number = round(min(mean, x.data.questions_per_image or mean, x.trainer.batch_size // x.trainer.devices))
    trees = Trees(max(1, number), own)
    saved = trees.number * length / (length + (trees.number - 1) * own)
    in_place = x.model.dtype is DType.float32 and family.offers("fast_step") and not devices.on_gpu(x.trainer)
    return ALONE if x.trainer.layout == "auto" and saved < tree_rows.PAYS[in_place] else trees
