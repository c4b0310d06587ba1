"""One arm's training through Lightning's Trainer, its curve written to the run folder as it goes."""

from __future__ import annotations

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers.logger import Logger

from lab.config import Experiment
from lab.model import Vlm
from lab.progress import Report, silent
from lab.runs import append_curve
from lab.training.datamodule import DataModule, Examples
from lab.training.learner import Learner

CURVE_EVERY = 10
"""Optimizer steps between two rows of the training curve."""


class CurveLogger(Logger):
    """Writes what Lightning logs to `curves.jsonl`; the tracker reads it from there."""

    def __init__(self, run_dir: Path, started: float) -> None:
        super().__init__()
        self.run_dir = run_dir
        self.started = started
        self.first_metric_s: float | None = None

    @property
    def name(self) -> str:
        return "curves"

    @property
    def version(self) -> str:
        return self.run_dir.name

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Hyper-parameters are in `run.json` already."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        seconds = time.time() - self.started
        if self.first_metric_s is None:
            self.first_metric_s = seconds
        kept = {key: value for key, value in metrics.items() if key != "epoch"}
        append_curve(self.run_dir, {"step": step or 0, "seconds": round(seconds, 3), **kept})


class Progress(Callback):
    """Reports the loss and the examples a second every `CURVE_EVERY` steps."""

    def __init__(self, steps: int, examples_per_step: int, report: Report) -> None:
        self.steps = steps
        self.examples_per_step = examples_per_step
        self.report = report
        self.seen = 0
        self.start = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, *_: Any) -> None:
        step = trainer.global_step
        if step == self.seen or (step % CURVE_EVERY and step != self.steps):
            return
        self.seen = step
        rate = step * self.examples_per_step / (time.perf_counter() - self.start)
        self.report("training (steps)", step, self.steps, f"loss {float(outputs['loss']):.3f}, {rate:.0f} examples/s")


def num_steps(x: Experiment, num_train: int) -> int:
    """Optimizer steps of the experiment."""
    if x.trainer.max_steps is not None:
        return x.trainer.max_steps
    assert x.trainer.max_epochs is not None
    return max(1, round(x.trainer.max_epochs * num_train / (x.trainer.batch_size * x.trainer.accumulate_grad_batches)))


def train(
    x: Experiment, vlm: Vlm, splits: dict[str, Examples], run_dir: Path, started: float, report: Report = silent
) -> dict[str, float]:
    """Train the adapters in place and return `train/*` summary numbers."""
    steps = num_steps(x, len(splits["train"]))
    data = DataModule(splits["train"], splits["minival"], x.trainer, x.seed, steps)
    logger = CurveLogger(run_dir, started)
    effective = x.trainer.batch_size * x.trainer.accumulate_grad_batches
    callbacks: list[Callback] = [Progress(steps, effective, report)]
    if x.trainer.patience is not None:
        callbacks.append(EarlyStopping("minival/nll", patience=x.trainer.patience, mode="min"))
    validates = x.trainer.val_every is not None and len(splits["minival"]) > 0
    learner = Learner(vlm, x.optim, x.prompt, steps)
    torch.manual_seed(x.seed)
    vlm.model.train()
    if x.trainer.gradient_checkpointing:
        vlm.bare.gradient_checkpointing_enable({"use_reentrant": False})
        vlm.bare.enable_input_require_grads()
    quiet_lightning()
    trainer = L.Trainer(
        accelerator=x.trainer.accelerator,
        devices=1,
        precision="32-true",  # the base has its dtype already, and adapters stay float32 beside a bfloat16 base
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=x.trainer.accumulate_grad_batches,
        gradient_clip_val=x.trainer.gradient_clip_val or None,
        val_check_interval=x.trainer.val_every * x.trainer.accumulate_grad_batches if validates else None,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=0,
        log_every_n_steps=CURVE_EVERY,
        logger=logger,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    start = time.perf_counter()
    trainer.fit(learner, datamodule=data)
    seconds = time.perf_counter() - start
    done = trainer.global_step
    return {
        "train/steps": float(done),
        "train/seconds": seconds,
        "train/examples_per_second": done * effective / seconds,
        "train/loss": float(trainer.callback_metrics.get("train/loss", torch.tensor(float("nan")))),
        "time/first_metric_s": logger.first_metric_s or 0.0,
    }


def quiet_lightning() -> None:
    """Silence Lightning's remarks on devices and loader workers: the config says both."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*You have overridden `transfer_batch_to_device`.*")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
