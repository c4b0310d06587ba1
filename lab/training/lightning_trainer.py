"""Lightning's Trainer as the laboratory uses it: nothing that it would do unasked, and none of what it says of every run here."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator

import lightning as L
import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy, Strategy

from lab.config import TrainerSection
from lab.training.callbacks import CurveLogger
from lab.training.loss_scaling import LossScaling

REMARKS = (
    r".*does not have many workers",  # trainer.num_workers
    r".*You have overridden `transfer_batch_to_device`",  # a `Batch` is no tensor, so it must be
    r".*`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning's own call of PyTorch
    r"The number of training batches \(\d+\) is smaller than the logging interval",  # a run of fewer steps than `trainer.log_every`
    r"Found \d+ module\(s\) in eval mode at the start of training",  # parts of which nothing trains
    r"FSDP2-wrapped module \(.*\) returned a view tensor",  # in which nothing is written
    r"Detected call of `lr_scheduler.step\(\)` before `optimizer.step\(\)`",  # a first step that `LossScaling` left out
)
"""What Lightning says of every run here."""


def lightning_trainer(
    section: TrainerSection,
    accumulate: int,
    steps: int,
    has_minival: bool,
    logger: CurveLogger,
    callbacks: list[Callback],
    scaling: LossScaling | None,
    strategy: Strategy | str,
) -> L.Trainer:
    """Lightning's Trainer for one arm; checkpoints are the `lab.training.resuming.CheckpointCallback`'s."""
    validates = section.val_every is not None and has_minival
    return L.Trainer(
        accelerator=section.accelerator,
        devices=section.devices,
        strategy=strategy,
        use_distributed_sampler=False,
        precision=None if scaling else "32-true",  # the base has its dtype already, and adapters stay float32 beside it
        plugins=[scaling] if scaling else None,
        max_steps=steps,
        max_epochs=-1,
        accumulate_grad_batches=accumulate,
        gradient_clip_val=section.gradient_clip_val or None,
        val_check_interval=section.val_every * accumulate if validates and section.val_every else None,
        check_val_every_n_epoch=None,
        limit_val_batches=1.0 if validates else 0,
        num_sanity_val_steps=0,
        inference_mode=not section.sharded,  # in which shares cannot be gathered
        log_every_n_steps=section.log_every,
        logger=logger,
        callbacks=callbacks,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Within, Lightning keeps its remarks on devices, loader workers and short curves to itself: the config says all three."""
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    with warnings.catch_warnings():
        for remark in REMARKS:
            warnings.filterwarnings("ignore", message=remark)
        yield


class Spread(SingleDeviceStrategy):
    """One process whose model accelerate has shared out among several GPUs: it stays where it is."""

    def model_to_device(self) -> None:
        """Nothing."""

    def teardown(self) -> None:
        """Nothing that moves weights."""
        self.precision_plugin.teardown()
        assert self.accelerator is not None
        self.accelerator.teardown()


def chosen_strategy(section: TrainerSection, spread: torch.device | None = None, idle: bool = False) -> Strategy | str:
    """Lightning's strategy; with several devices the other processes are there already (`LOCAL_RANK` says so).

    spread: where a model begins that lies on several GPUs. idle: something trains that the samples of one process may leave out and those
    of another not.
    """
    if spread is not None:
        return Spread(spread)
    if section.sharded:
        made = ModelParallelStrategy(data_parallel_size=section.devices, tensor_parallel_size=1)
        made.cluster_environment = LightningEnvironment()
        return made
    if section.devices == 1:
        return "auto"
    return DDPStrategy(cluster_environment=LightningEnvironment(), find_unused_parameters=idle)
