"""The LightningModule: what one optimizer step does, and nothing about where its data come from."""

from __future__ import annotations

import math
from typing import Any

import lightning as L
import torch

from lab.config import Optim, Schedule
from lab.lora import parameter_groups
from lab.model import Vlm
from lab.model.answers import Readout, TextReadout
from lab.model.batching import to_device
from lab.records import Batch
from lab.training import devices
from lab.training.datamodule import DataModule
from lab.training.fast.fused_step import FusedStep
from lab.training.objective import WATCHED_SPLITS, answer_loss, objective


def rate(schedule: Schedule, step: int, steps: int, warmup: int) -> float:
    """The factor on the learning rate at an optimizer step: linear from 0 during the warm-up, then the schedule."""
    if step < warmup:
        return (step + 1) / warmup
    left = (step - warmup) / max(steps - warmup, 1)
    match schedule:
        case Schedule.cosine:
            return 0.5 * (1.0 + math.cos(math.pi * left))
        case Schedule.linear:
            return 1.0 - left
        case Schedule.constant:
            return 1.0


class Learner(L.LightningModule):
    """Trains what `lora` attached. Loss on the answer tokens only; minival and a slice of train are scored as in evaluation."""

    def __init__(self, vlm: Vlm, optim: Optim, reads: Readout | TextReadout, steps: int) -> None:
        super().__init__()
        self.vlm = vlm
        self.model = vlm.model
        self.extras = torch.nn.ModuleDict(vlm.extras)
        self.section = optim
        self.steps = steps
        self.fused = FusedStep(vlm)
        self.objective = objective(reads)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return to_device(batch, device)

    def loss(self, batch: Batch) -> torch.Tensor:
        """Mean cross-entropy of a forward's answer tokens, a scalar in nats."""
        assert batch.target.labels is not None
        return answer_loss(self.fused.predict(batch), batch.target.labels)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        data: DataModule = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  # Lightning sets it unannounced
        loss = self.loss(batch) * data.weight(batch, self.trainer.global_step)
        self.log("train/loss", loss, batch_size=len(batch.sample_ids), sync_dist=devices.world() > 1)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        assert batch.target.labels is not None
        split = WATCHED_SPLITS[dataloader_idx]
        options = {"batch_size": len(batch.sample_ids), "sync_dist": devices.world() > 1, "add_dataloader_idx": False}
        for name, value in self.objective.score(split, self.vlm.predict(batch), batch.target.labels).items():
            self.log(f"{split}/{name}", value, **options)

    def configure_optimizers(self) -> Any:
        optim = self.section
        groups = parameter_groups(self.vlm, optim)
        kept = {"betas": tuple(optim.betas), "weight_decay": optim.weight_decay}
        optimizer = torch.optim.AdamW(groups, lr=optim.lr, fused=True, **kept)  # one pass over each parameter instead of a dozen
        warmup = round(optim.warmup_fraction * self.steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate(optim.schedule, step, self.steps, warmup)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
