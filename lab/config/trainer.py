"""The section `trainer`: the training loop."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class IfFinished(Enum):
    reuse = "reuse"
    again = "again"


class IfUnfinished(Enum):
    """What to do with a run that was stopped or failed before its end."""

    resume = "resume"
    restart = "restart"


@dataclass
class TrainerSection:
    """The training loop. Exactly one of `max_steps` (optimizer steps) and `max_epochs` is given.

    batch_size: samples per forward, of all devices together. devices: processes that train one arm, one GPU or core each.
    save_every: optimizer steps between checkpoints. max_time: HH:MM:SS from the command's start, for all of it.
    restore_best: the weights of the best look at minival, by nll, are kept instead of the last.
    gradient_checkpointing: None: on where a step would not fit into memory without it (`lab.training.capacity`).
    packing: the samples of a forward stand one after another in one row, without padding; equal to rounding.
    layout: how the samples of a forward are laid out, which moves rounding alone: a row each, or as trees of those with the same images,
    several to a row of at most `token_budget` tokens (`lab.model.trees`); auto: as trees where that is exact and saves enough.
    torch_compile: the blocks of the language model go through `torch.compile` while they train; equal to rounding (`lab.training.compiling`).
    use_liger_kernel: norms and gated feed-forwards of these blocks go through liger-kernel while they train; the same (`lab.training.liger`).
    log_every: optimizer steps between two rows of `curves.jsonl`.
    strategy: of several devices; ddp: each has all, as auto; fsdp: weights, gradients and optimizer state lie in shares (`lab.training.sharding`).
    """

    max_steps: int | None = None
    max_epochs: float | None = None
    batch_size: int = 16
    accumulate_grad_batches: int = 1
    gradient_clip_val: float = 1.0
    val_every: int | None = None
    log_every: int = 10
    patience: int | None = None
    gradient_checkpointing: bool | None = None
    packing: bool = False
    layout: str = "rows"
    token_budget: int | None = 1024
    torch_compile: bool = False
    use_liger_kernel: bool = False
    feature_cache: bool = True
    num_workers: int = 0
    threads: int = 1
    accelerator: str = "auto"
    devices: int = 1
    strategy: str = "auto"
    if_finished: IfFinished = IfFinished.reuse
    if_unfinished: IfUnfinished = IfUnfinished.resume
    save_every: int | None = 100
    keep_checkpoints: int = 2
    restore_best: bool = False
    max_time: str | None = None

    @property
    def sharded(self) -> bool:
        """Whether what trains lies in shares on the devices."""
        return self.strategy == "fsdp"

    @property
    def shares(self) -> int:
        """Devices on which weights and what trains lie in equal parts."""
        return self.devices if self.sharded else 1

    @property
    def samples_per_step(self) -> int:
        """Samples of one optimizer step."""
        return self.batch_size * self.accumulate_grad_batches
