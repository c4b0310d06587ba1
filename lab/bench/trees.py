"""What `trainer.layout=trees` saves on the data of a config: optimizer steps of the same samples in rows and in trees, in turn.

    plain    PEFT's and Transformers' own step, in forwards of the size that is cheapest here
    rows     the trainer's own rows, with what its step saves already
    trees    questions of one picture in a row that reads it once
"""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lab import lora
from lab import run as running
from lab.bench import gradient_noise
from lab.bench.gradient_noise import Correlation
from lab.bench.results import Figure
from lab.bench.steps import lasting
from lab.config import Experiment, trains
from lab.errors import ConfigError
from lab.evaluation.latency import now
from lab.host.progress import Report, silent
from lab.model import family
from lab.model.batching import to_device
from lab.model.encoded import Example
from lab.model.encoding import Encoder
from lab.model.trees import lay_out, trees_of
from lab.records import Batch, Rows
from lab.run.assembly import attached
from lab.training import capacity, loop, tree_rows
from lab.training.datamodule import DataModule
from lab.training.learner import Learner

log = logging.getLogger(__name__)

BRIEF = 3.0
"""Seconds of a step that is taken twice where the cheapest size is looked for."""
ASKED = 48
"""Questions whose gradients are held against each other."""
Forwards = Sequence[Batch | Rows]


@dataclass
class Found:
    """What was measured. seconds: of each way's optimizer steps, a list each. memory: bytes that a forward keeps. gap: of losses, relative.

    saved: how many times fewer tokens. size: of the cheapest plain forward. noise: of questions of one picture, None where no two are in the
    data. questions: of a step. together: of them of one picture, in the mean over questions.
    """

    seconds: dict[str, list[float]]
    memory: dict[str, float]
    gap: float
    saved: float
    size: int
    noise: Correlation | None
    questions: int
    together: float

    def ratios(self, way: str) -> list[float]:
        """How many times as long as trees another way took, round by round."""
        return [other / trees for other, trees in zip(self.seconds[way], self.seconds["trees"], strict=True)]

    @property
    def memory_ratio(self) -> float:
        """Share of plain rows' memory that trees keep."""
        return self.memory["trees"] / self.memory["plain"]

    @property
    def effective(self) -> float:
        """As how many independent questions those of a step count."""
        return self.questions if self.noise is None else self.noise.effective(self.questions, self.together)

    def figures(self) -> list[Figure]:
        """For a table."""
        times = [Figure(f"step, {way}", 1e3 * statistics.median(seconds), "ms", "median") for way, seconds in self.seconds.items()]
        ratios = [
            Figure(f"{way} / trees", statistics.median(self.ratios(way)), "times", f"of {len(self.ratios(way))} rounds: {spread(self.ratios(way))}")
            for way in ("plain", "rows")
        ]
        noise = []
        if self.noise is not None:
            told = f"{self.noise.low:.3f} to {self.noise.high:.3f}, {self.noise.questions} questions of {self.noise.pictures} pictures, untrained"
            noise.append(Figure("rho of questions of a picture", self.noise.rho, "", told))
            noise.append(Figure("a step's questions count as", self.effective, f"of {self.questions}", f"{self.together:.1f} of one picture"))
        return [
            Figure("fewer tokens in trees", self.saved, "times"), *times, *ratios,
            Figure("cheapest plain forward", float(self.size), "samples"),
            Figure("kept for the backward, plain", self.memory["plain"] / 2**20, "MiB", "all samples of a forward"),
            Figure("kept for the backward, trees", self.memory["trees"] / 2**20, "MiB", f"{self.memory_ratio:.2f} of plain"),
            Figure("losses differ by", self.gap, "", "relative"), *noise,
        ]  # fmt: skip

    def write(self, path: Path, facts: dict[str, Any]) -> None:
        """As one JSON object, with what it was taken with."""
        ratios = {way: self.ratios(way) for way in ("plain", "rows")}
        found: dict[str, Any] = {"ratios": ratios, "memory_ratio": self.memory_ratio, "loss_gap": self.gap}
        found |= {"tokens_saved": self.saved, "plain_size": self.size}
        if self.noise is not None:
            found |= {"rho": asdict(self.noise), "effective_batch": self.effective, "questions": self.questions}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**found, "seconds": self.seconds, "memory": self.memory, **facts}, indent=1) + "\n", encoding="utf-8")


def spread(values: Sequence[float]) -> str:
    """`3.10 to 3.52`."""
    return f"{min(values):.2f} to {max(values):.2f}"


def by_image(x: Experiment) -> Experiment:
    """The experiment in trees, over an order in which they share anything."""
    if x.data.order != "by_image":
        log.info("data.order=%s brings few questions of one picture together; measured with data.order=by_image", x.data.order)
    return replace(x, data=replace(x.data, order="by_image"), trainer=replace(x.trainer, layout="trees"))


def measure(x: Experiment, rounds: int, report: Report = silent) -> Found:
    """Interleaved rounds over the first optimizer step's samples; weights stay as they begin.

    Raises `ConfigError` and `ModelError` where trees would not be exact.
    """
    if not trains(x):
        raise ConfigError("trainer.max_steps=0: nothing is trained, so there is no step to measure. Give it a number of steps.")
    x = lasting(by_image(x), 1)
    tree_rows.check(x, family(x.model.family))
    prepared = running.prepare(x, report)
    with attached(x, prepared.vlm) as vlm:
        train = prepared.encoded(x)["train"]
        x = capacity.settled(x, capacity.choose(x.trainer, x.optim, vlm, train).on)
        learner = Learner(vlm, x.optim, train.encoder.readout, 1)
        loop.prepare_model(x, learner)
        size, effective = x.trainer.batch_size, x.trainer.samples_per_step
        data = DataModule(train, train, x.trainer, (size, x.trainer.accumulate_grad_batches), x.seed, 1, blocks=train.blocks(x.data))
        tree_rows.settle(x, learner, data, size)
        rows = list(itertools.islice(data.order, max(effective, ASKED)))
        examples = [train[row] for row in rows]
        noise = gradient_noise.measure(learner, train.encoder, examples[:ASKED], train.pictures[rows[:ASKED]].tolist(), report)
        return Rounds(x, learner, train.encoder, examples[:effective]).found(rounds, noise, report)


class Rounds:
    """The same samples laid out in several ways, each an optimizer step that changes no weight."""

    def __init__(self, x: Experiment, learner: Learner, encoder: Encoder, examples: Sequence[Example]) -> None:
        self.x, self.learner, self.encoder, self.examples = x, learner, encoder, examples
        self.optimizer = learner.configure_optimizers()["optimizer"]
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0

    def rows(self, size: int) -> Forwards:
        """In forwards of so many samples, a row each."""
        return [self.encoder.collate(part, with_answers=True, learned=True) for part in self.parts(size)]

    def trees(self, size: int) -> Forwards:
        """In forwards of so many samples, as trees."""
        return [lay_out(self.encoder, part, self.x.trainer.token_budget) for part in self.parts(size)]

    def parts(self, size: int) -> Iterator[Sequence[Example]]:
        """The samples of each forward."""
        return (self.examples[start : start + size] for start in range(0, len(self.examples), size))

    def plain(self, batch: Batch | Rows) -> torch.Tensor:
        """The loss by PEFT's and Transformers' own step."""
        assert isinstance(batch, Batch) and batch.target.labels is not None
        return self.learner.objective.loss(self.learner.vlm.predict(batch), batch.target.labels)

    def step(self, forwards: Forwards, loss: Callable[[Any], torch.Tensor]) -> tuple[float, float]:
        """Seconds of an optimizer step, and its loss, the mean over its labels."""
        device = self.learner.vlm.device
        batches = [to_device(batch, device) for batch in forwards]
        labels, total = sum(batch.targets for batch in batches), 0.0
        start = now(device)
        self.optimizer.zero_grad()
        for batch in batches:
            part = loss(batch) * (batch.targets / labels)
            part.backward()
            total += float(part.detach())
        if self.x.trainer.gradient_clip_val:
            torch.nn.utils.clip_grad_norm_(list(lora.trainable(self.learner.vlm).values()), self.x.trainer.gradient_clip_val)
        self.optimizer.step()
        return now(device) - start, total

    def kept(self, batch: Batch | Rows, loss: Callable[[Any], torch.Tensor]) -> float:
        """Bytes that a forward keeps for its backward, beside the weights."""
        weights = {value.untyped_storage().data_ptr() for value in itertools.chain(self.learner.parameters(), self.learner.buffers())}
        found: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in weights:
                found[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            made = loss(to_device(batch, self.learner.vlm.device))
        del made
        return float(sum(found.values()))

    def found(self, rounds: int, noise: Correlation | None, report: Report) -> Found:
        """Look for the cheapest plain size, then time all ways in turn."""
        size = self.x.trainer.batch_size
        sizes = sorted({size, len(self.examples), *(2**power for power in range(len(self.examples).bit_length()) if 2**power <= len(self.examples))})
        tried: dict[int, float] = {}
        for done, each in enumerate(sizes):
            with self.fitting(each):
                taken = self.step(self.rows(each), self.plain)[0]
                tried[each] = min(taken, self.step(self.rows(each), self.plain)[0]) if taken < BRIEF else taken
            report("sizes of a plain forward", done + 1, len(sizes), "")
        cheapest = min(tried, key=lambda each: tried[each])
        ways: dict[str, tuple[Forwards, Callable[[Any], torch.Tensor]]] = {
            "plain": (self.rows(cheapest), self.plain),
            "rows": (self.rows(size), self.learner.loss),
            "trees": (self.trees(size), self.learner.loss),
        }
        losses = {name: self.step(*way)[1] for name, way in ways.items()}  # and a warm-up
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for done in range(rounds):
            for name, way in ways.items():
                seconds[name].append(self.step(*way)[0])
            report("rounds of plain, rows and trees", done + 1, rounds, "")
        memory = {"plain": self.kept(self.rows(size)[0], self.plain), "trees": self.kept(ways["trees"][0][0], self.learner.loss)}
        laid = [trees_of(self.encoder, part) for part in self.parts(size)]
        together = sum(len(tree.examples) ** 2 for tree in itertools.chain(*laid)) / len(self.examples)
        gap = abs(losses["trees"] - losses["plain"]) / abs(losses["plain"])
        return Found(seconds, memory, gap, tree_rows.tokens_saved(laid), cheapest, noise, len(self.examples), together)

    @contextlib.contextmanager
    def fitting(self, size: int) -> Iterator[None]:
        """A size that does not fit into memory is left out."""
        try:
            yield
        except (RuntimeError, MemoryError) as error:
            if not loop.out_of_memory(error):
                raise
            log.info("a plain forward of %d samples does not fit into memory", size)
            self.optimizer.zero_grad()
