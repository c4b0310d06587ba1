"""Optimizer steps of one arm, timed: through the laboratory's own loop, and through a bare loop of the same operations."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from lab import lora
from lab import run as running
from lab.bench.peak_flops import matrix_flops
from lab.bench.results import WARM_UP, Round, differences
from lab.config import Experiment
from lab.evaluation.latency import now
from lab.model import Vlm
from lab.model.batching import to_device
from lab.records import Batch
from lab.run.assembly import attached
from lab.training import capacity, loop
from lab.training.datamodule import DataModule
from lab.training.examples import Examples
from lab.training.learner import Learner

PARTS = ("data", "forward", "backward", "optimizer")


def lasting(x: Experiment, steps: int) -> Experiment:
    """The experiment over so many optimizer steps, with nothing in between."""
    section = dataclasses.replace(x.trainer, max_steps=WARM_UP + steps, max_epochs=None, val_every=None, patience=None)
    return dataclasses.replace(x, trainer=section)


class Clock(Callback):
    """Notes when every optimizer step ends, and its loss."""

    def __init__(self, accumulate: int) -> None:
        self.accumulate = accumulate
        self.ends: list[float] = []
        self.losses: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.losses.append(outputs["loss"].detach())
        if (batch_idx + 1) % self.accumulate == 0:
            self.ends.append(now(pl_module.device))


def through_lightning(x: Experiment, prepared: running.Prepared, steps: int) -> Round:
    """Steps through `lab.training.loop.train`: Lightning, logging, the check for non-finite losses, checkpoints."""
    x = lasting(x, steps)
    clock = Clock(x.trainer.accumulate_grad_batches)
    with attached(x, prepared.vlm) as vlm, tempfile.TemporaryDirectory(prefix="lab-bench-") as folder:
        loop.train(x, vlm, prepared.encoded(x), Path(folder), time.time(), watchers=(clock,))
    return Round(differences(clock.ends), means(clock.losses, x.trainer.accumulate_grad_batches))


def means(losses: list[torch.Tensor], accumulate: int) -> list[float]:
    """The loss of each optimizer step, from that of each forward; Lightning has divided it by their number."""
    return torch.stack(losses).reshape(-1, accumulate).sum(dim=1).tolist()


def bare(x: Experiment, prepared: running.Prepared, steps: int) -> Round:
    """The same operations in the same order without Lightning, without logging, each part timed."""
    x = lasting(x, steps)
    with attached(x, prepared.vlm) as vlm:
        return bare_steps(x, vlm, prepared.encoded(x)["train"])


def bare_steps(x: Experiment, vlm: Vlm, train: Examples) -> Round:
    """All steps of the experiment on a model with fresh adapters."""
    learner, batches = begin(x, vlm, train)
    configured = learner.configure_optimizers()
    optimizer, schedule = configured["optimizer"], configured["lr_scheduler"]["scheduler"]
    taken: dict[str, list[float]] = {part: [] for part in PARTS}
    whole: list[float] = []
    losses: list[torch.Tensor] = []
    for _ in range(learner.steps):
        spent: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        optimizer.zero_grad()
        for _ in range(x.trainer.accumulate_grad_batches):
            with timed(spent, "data", vlm.device):
                batch = to_device(next(batches), vlm.device)
            with timed(spent, "forward", vlm.device):
                loss = learner.loss(batch) / x.trainer.accumulate_grad_batches
            with timed(spent, "backward", vlm.device):
                loss.backward()
            losses.append(loss.detach())
        with timed(spent, "optimizer", vlm.device):
            if x.trainer.gradient_clip_val:
                torch.nn.utils.clip_grad_norm_(list(lora.trainable(vlm).values()), x.trainer.gradient_clip_val)
            optimizer.step()
            schedule.step()
        whole.append(sum(spent.values()))
        for part, seconds in spent.items():
            taken[part].append(seconds)
    after_warm_up = {part: seconds[WARM_UP:] for part, seconds in taken.items()}
    return Round(whole[WARM_UP:], means(losses, x.trainer.accumulate_grad_batches), after_warm_up)


def begin(x: Experiment, vlm: Vlm, train: Examples) -> tuple[Learner, Iterator[Batch]]:
    """The learner and its batches as the real loop has them at its first step, random numbers included."""
    steps = loop.num_steps(x.trainer, train.epoch_length)
    x = capacity.settled(x, capacity.choose(x.trainer, x.optim, vlm, train).on)
    learner = Learner(vlm, x.optim, train.encoder.readout, steps, loop.epoch_steps(x.trainer, train.epoch_length))
    loop.prepare_model(x, learner)
    data = DataModule(train, train, x.trainer, (x.trainer.batch_size, x.trainer.accumulate_grad_batches), x.seed, steps,
                      blocks=train.blocks(x.data))  # fmt: skip
    return learner, iter(data.train_dataloader())


@contextmanager
def timed(spent: dict[str, float], part: str, device: torch.device) -> Iterator[None]:
    """Add the seconds of a block to a part."""
    start = now(device)
    yield
    spent[part] += now(device) - start


def flops_of_step(x: Experiment, prepared: running.Prepared) -> float:
    """Operations of the matrix products of one forward and backward over the first batch of training."""
    with attached(x, prepared.vlm) as vlm:
        learner, batches = begin(lasting(x, 1), vlm, prepared.encoded(x)["train"])
        batch = to_device(next(batches), vlm.device)
        count = matrix_flops(lambda: learner.loss(batch).backward())
        vlm.model.zero_grad(set_to_none=True)
    return count * x.trainer.accumulate_grad_batches
