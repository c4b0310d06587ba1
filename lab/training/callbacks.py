"""What looks on while an arm trains: its curve, the progress bar, and a loss that is not finite."""

from __future__ import annotations

import json
import logging
import math
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from lab.errors import TrainingError
from lab.host.files import write_atomically
from lab.host.progress import Report
from lab.store import curve_files
from lab.training import optimization

log = logging.getLogger(__name__)

LOOK_EVERY = 10
"""Optimizer steps between two lines of the progress bar, and on a GPU between two looks at the loss."""
NOT_FINITE = "not_finite.json"


class CurveLogger(Logger):
    """Writes what Lightning logs to `curves.jsonl`; the tracker reads it from there."""

    def __init__(self, run_dir: Path, started: float, first_metric_s: float | None = None) -> None:
        super().__init__()
        self.run_dir = run_dir
        self.started = started
        self.first_metric_s = first_metric_s

    @property
    def name(self) -> str:
        return "curves"

    @property
    def version(self) -> str:
        return self.run_dir.name

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Hyper-parameters are in `run.json` already."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        seconds = time.time() - self.started
        if self.first_metric_s is None:
            self.first_metric_s = seconds
        kept = {key: value for key, value in metrics.items() if key != "epoch"}
        curve_files.append(self.run_dir, {"step": step or 0, "seconds": round(seconds, 3), **kept})


class WhileTraining(Callback, ABC):
    """Puts something in place for training steps alone: minival is looked at without it, and it is gone however the training ends."""

    @abstractmethod
    def put(self) -> None:
        """Put it in place."""

    @abstractmethod
    def take_away(self) -> None:
        """Leave everything as it was."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.put()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.take_away()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.put()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        self.take_away()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        self.take_away()


class Progress(Callback):
    """Reports the loss and the examples a second every `LOOK_EVERY` steps."""

    def __init__(self, steps: int, examples_per_step: int, report: Report) -> None:
        self.steps = steps
        self.examples_per_step = examples_per_step
        self.report = report
        self.seen = 0
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        if step == self.seen or (step % LOOK_EVERY and step != self.steps):
            return
        self.seen = step
        rate = step * self.examples_per_step / (time.perf_counter() - self.start)
        self.report("training (steps)", step, self.steps, f"loss {float(outputs['loss']):.3f}, {rate:.0f} examples/s")


class StopOnNonFiniteLoss(Callback):
    """Stops a training whose loss is not finite, and keeps the ids of the samples that were in the batch.

    On a CPU it looks at every step; on a GPU every `LOOK_EVERY` steps at all since, because a look makes the host wait.
    """

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir
        self.recent: list[tuple[int, list[str], torch.Tensor]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.recent.append((trainer.global_step, list(batch.sample_ids), outputs["loss"].detach()))
        if pl_module.device.type == "cpu" or len(self.recent) >= LOOK_EVERY:
            self.look()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.look()

    def look(self) -> None:
        """Raise a `TrainingError` at the first loss of those not yet looked at that is not finite."""
        losses = torch.stack([loss for _, _, loss in self.recent]).tolist() if self.recent else []
        for (step, ids, _), loss in zip(self.recent, losses, strict=True):
            if not math.isfinite(loss):
                path = self.run_dir / NOT_FINITE
                write_atomically(path, json.dumps({"step": step, "loss": str(loss), "sample_ids": ids}, indent=1) + "\n")
                raise TrainingError(
                    f"the loss is {loss} at optimizer step {step}; the {len(ids)} samples of that batch are named in {path}. "
                    "Lower optim.lr, lengthen optim.warmup_fraction or lower trainer.gradient_clip_val."
                )
        self.recent.clear()


class RequireEightBits(Callback):
    """Holds an optimizer of 8 bits to its name after the first step, and says what of it is not."""

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 1:
            held, whole = optimization.in_8_bits(trainer.optimizers[0])
            log.info("optimizer: moments of %d numbers are held in 8 bits; of %d in small tensors in 32", held, whole)
