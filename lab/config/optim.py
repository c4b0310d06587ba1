"""The section `optim`: the optimizer and its rates."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Schedule(Enum):
    """Transformers' `lr_scheduler_type`, as far as it follows the step alone, and `steps`, torch's MultiStepLR."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"
    steps = "steps"
    constant_with_warmup = "constant_with_warmup"
    cosine_with_restarts = "cosine_with_restarts"
    cosine_with_min_lr = "cosine_with_min_lr"
    polynomial = "polynomial"
    inverse_sqrt = "inverse_sqrt"
    warmup_stable_decay = "warmup_stable_decay"


@dataclass
class Optim:
    """One of torch's or bitsandbytes' optimizers, by its name there, on the trainable parameters.

    lr_vision, lr_projector, lr_llm, lr_extras: the rate in that part, or in modules that other dials add and in a whole head; None: `lr`.
    lr_b_ratio: B matrices learn this many times faster than their A; LoRA+ (Hayou et al. 2024, 2402.12354).
    warmup_steps: optimizer steps of the warm-up, in place of `warmup_fraction`, a share of all.
    milestones: passes over data.train after each of which `schedule=steps` multiplies the rate by `gamma`.
    soft_targets: of a family that chooses among labels: learn the VQA accuracy of every label that annotators gave, not the commonest alone.
    optimizer_kwargs, schedule_kwargs: further arguments of the optimizer, and of Transformers' schedule.
    """

    lr: float = 2e-4
    lr_vision: float | None = None
    lr_projector: float | None = None
    lr_llm: float | None = None
    lr_extras: float | None = None
    lr_b_ratio: float = 1.0
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    warmup_fraction: float = 0.05
    warmup_steps: int | None = None
    schedule: Schedule = Schedule.cosine
    schedule_kwargs: dict[str, Any] = field(default_factory=dict)
    milestones: list[float] = field(default_factory=lambda: [1.0])
    gamma: float = 0.1
    soft_targets: bool = False
    optimizer: str = "AdamW"
    optimizer_kwargs: dict[str, Any] = field(default_factory=dict)
