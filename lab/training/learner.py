"""The LightningModule: what one optimizer step does, and nothing about where its data come from."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, cast

import lightning as L
import torch
from torch.distributed.fsdp import FSDPModule

from lab.config import Optim
from lab.lora import parameter_groups, resting, trainable
from lab.model import Vlm
from lab.model.answers import AnyReadout
from lab.model.batching import to_device
from lab.records import Batch, Rows
from lab.training import capacity, devices, loss_scaling, optimization, sharding
from lab.training.datamodule import DataModule
from lab.training.fast.fused_step import FusedStep
from lab.training.losses import loss_of, shares_loss
from lab.training.objective import WATCHED_SPLITS, objective
from lab.training.sharding import Sharded


class Learner(L.LightningModule):
    """Trains what `lora` attached. Loss on the answer tokens only; minival and a slice of train are scored as in evaluation.

    steps: of the training. epoch: steps of a pass over data.train. shares: the model lies in shares on several devices while it trains.
    """

    def __init__(self, vlm: Vlm, optim: Optim, reads: AnyReadout, steps: int, epoch: float = math.inf, shares: bool = False) -> None:
        super().__init__()
        self.vlm = vlm
        self.model = vlm.model
        self.extras = torch.nn.ModuleDict(vlm.extras)
        self.section, self.reads = optim, reads
        self.steps, self.epoch = steps, epoch
        self.scaled = loss_scaling.needed(vlm)
        self.shares = shares
        self.sharded: Sharded | None = None
        self.fused = FusedStep(vlm, lean=not shares)
        self.objective = objective(reads, loss_of(vlm.family))

    def twin(self) -> Learner:
        """What trains in this one's place, its model in shares once the processes have met."""
        return Learner(sharding.twin(self.vlm), self.section, self.reads, self.steps, self.epoch, shares=True)

    def configure_model(self) -> None:
        """Share the model out, if it is to be. Lightning calls this when the processes have met."""
        if self.shares and self.sharded is None:
            assert self.device_mesh is not None
            self.sharded = Sharded(self.vlm, self.device_mesh[sharding.MESH])

    def train(self, mode: bool = True) -> Learner:
        """Parts of which nothing trains stay in evaluation mode, so that their dropout is off at every step."""
        super().train(mode)
        for module in resting(self.vlm):
            module.training = False
        return self

    def transfer_batch_to_device(self, batch: Batch | Rows, device: torch.device, dataloader_idx: int) -> Batch | Rows:
        return to_device(batch, device)

    def loss(self, batch: Batch | Rows) -> torch.Tensor:
        """Mean loss of a forward's answer tokens, or labels, whatever row each stands in; a scalar in nats.

        Where nothing that trains was read, gradients are zeros.
        """
        if isinstance(batch, Rows):
            return torch.stack([self.loss(row) * (row.targets / batch.targets) for row in batch.batches]).sum()
        assert batch.target.labels is not None
        predict = self.fused.predict if self.sharded is None else self.sharded
        if self.section.soft_targets and batch.target.shares is not None:
            loss = shares_loss(predict(batch), batch.target.shares)
        else:
            loss = self.objective.loss(predict(batch), batch.target.labels)
        return loss if loss.requires_grad or not torch.is_grad_enabled() else sharding.with_zeros(loss, trainable(self.vlm))

    def predict(self, batch: Batch) -> torch.Tensor:
        """As `Vlm.predict`, of which no backward will be asked."""
        if self.sharded is None:
            return self.vlm.predict(batch)
        logits = self.sharded(batch)
        cast(FSDPModule, self.sharded).reshard()  # as a backward would
        return logits

    def training_step(self, batch: Batch | Rows, batch_idx: int) -> torch.Tensor:
        data: DataModule = self.trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]  # Lightning sets it unannounced
        loss = self.loss(batch) * data.weight(batch, self.trainer.global_step)
        self.log("train/loss", loss, batch_size=len(batch.sample_ids), sync_dist=devices.world() > 1)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        assert batch.target.labels is not None
        split = WATCHED_SPLITS[dataloader_idx]
        options = {"batch_size": len(batch.sample_ids), "sync_dist": devices.world() > 1, "add_dataloader_idx": False}
        for name, value in self.objective.score(split, self.predict(batch), batch.target.labels).items():
            self.log(f"{split}/{name}", value, **options)

    def configure_optimizers(self) -> Any:
        groups = parameter_groups(self.vlm, self.section)
        optimizer = optimization.optimizer(groups, self.section, self.scaled, self.shares)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, optimization.factor(self.section, self.steps, self.epoch))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@contextlib.contextmanager
def worker(learner: Learner, shares: bool) -> Iterator[Learner]:
    """What Lightning trains: the learner, or a twin in shares, from which the learner has afterwards what was learned."""
    device = learner.vlm.device
    try:
        if not shares:
            yield learner
            return
        with sharding.on_host(learner.vlm):
            twin = learner.twin()
            yield twin
            sharding.collect(trainable(twin.vlm), into=trainable(learner.vlm))
    finally:
        if not learner.vlm.spread:
            learner.to(device)  # Lightning leaves a model on the CPU
        capacity.recompute(learner.vlm, False)
