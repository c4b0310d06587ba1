"""Torch's and bitsandbytes' optimizers by their names, and the factor on the learning rate at each step.

Schedules are Transformers', and torch's MultiStepLR. In 8 bits (Dettmers et al. 2021, 2110.02861) a moment of a large matrix takes a byte
a number; paged (Dettmers et al. 2023, 2305.14314) it may leave a GPU's memory while there is no room.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from lab.config import Optim, Schedule
from lab.errors import ConfigError, TrainingError

OWN = (Schedule.cosine, Schedule.linear, Schedule.constant, Schedule.steps)
"""Schedules that are computed here, whose only arguments are keys of `optim`."""
NEEDED: dict[Schedule, Callable[[int], dict[str, Any]]] = {
    Schedule.cosine_with_min_lr: lambda steps: {"min_lr_rate": 0.1},
    Schedule.warmup_stable_decay: lambda steps: {"num_decay_steps": max(1, steps // 10)},
}
"""What a schedule of Transformers must be told, where nobody has said it."""
GIVEN = (
    "optimizer", "params", "lr", "betas", "weight_decay", "fused", "num_warmup_steps", "num_training_steps", "last_epoch", "optim_bits",
    "is_paged", "args",
)  # fmt: skip
"""Arguments that are keys of their own, or follow from the training."""
FUSED = ("AdamW", "Adam", "SGD")
FUSED_IN_SHARES = ("AdamW", "Adam")
PAGED = ("PagedAdamW", "PagedAdamW8bit")
BITSANDBYTES = ("AdamW8bit", *PAGED)
EIGHT_BITS = ("AdamW8bit", "PagedAdamW8bit")


def check(optim: Optim, on_gpu: bool = False) -> None:
    """Raise a `ConfigError` for arguments that optimizer or schedule do not take, and for an optimizer that this machine does not have."""
    if optim.optimizer in PAGED and not on_gpu:
        raise ConfigError(
            f"optim.optimizer={optim.optimizer}: it pages its state out of a GPU's memory, and this training runs on a CPU. Choose AdamW8bit "
            "or AdamW."
        )
    kind = kind_of(optim.optimizer)
    check_names("optimizer", optim.optimizer, optim.optimizer_kwargs, kind)
    if "betas" not in inspect.signature(kind).parameters and optim.betas != Optim().betas:
        raise ConfigError(f"optim.betas={optim.betas}: optim.optimizer={optim.optimizer} has none. Leave them out.")
    if optim.schedule not in OWN:
        from transformers import SchedulerType  # which imports PEFT
        from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

        check_names("schedule", optim.schedule.value, optim.schedule_kwargs, TYPE_TO_SCHEDULER_FUNCTION[SchedulerType(optim.schedule.value)])
        factor(optim, 1000, 100.0)
    elif optim.schedule_kwargs:
        raise ConfigError(f"optim.schedule_kwargs={optim.schedule_kwargs}: optim.schedule={optim.schedule.value} takes none. Leave them out.")


def kind_of(name: str) -> Any:
    """The class of an optimizer. Raises `ConfigError` where bitsandbytes, which has it, is missing."""
    if name not in BITSANDBYTES:
        return getattr(torch.optim, name)
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"optim.optimizer={name}: bitsandbytes is not installed. Install it with `pip install 'vlm-lab[quantised]'`, or give "
            "optim.optimizer=AdamW."
        )
    return getattr(importlib.import_module("bitsandbytes.optim"), name)


def check_names(key: str, name: str, given: dict[str, Any], function: Callable[..., Any]) -> None:
    """Raise a `ConfigError` for an argument that a function does not have."""
    legal = [one for one in inspect.signature(function).parameters if one not in GIVEN]
    for argument in given:
        if argument not in legal:
            raise ConfigError(f"optim.{key}_kwargs.{argument}: optim.{key}={name} takes no such argument. Legal: {', '.join(legal) or 'none'}.")


def optimizer(groups: Sequence[dict[str, Any]], optim: Optim, scaled: bool = False, shares: bool = False) -> torch.optim.Optimizer:
    """The optimizer over groups of parameters. scaled: gradients are, by a factor that is taken out before it sees them. shares: parameters lie
    in shares on several devices.
    """
    kind = kind_of(optim.optimizer)
    given: dict[str, Any] = {"betas": tuple(optim.betas)} if "betas" in inspect.signature(kind).parameters else {}
    if optim.optimizer in (FUSED_IN_SHARES if shares else FUSED) and not scaled:
        given["fused"] = True  # one pass over each parameter instead of a dozen
    return kind(groups, lr=optim.lr, weight_decay=optim.weight_decay, **given, **optim.optimizer_kwargs)


def in_8_bits(optimizer: torch.optim.Optimizer) -> tuple[int, int]:
    """Numbers whose moments an optimizer of 8 bits holds in so many, and numbers whose it does not: tensors under its `min_8bit_size`.

    Raises `TrainingError` for a larger one: such an optimizer would be plain AdamW by another name.
    """
    least, sizes = optimizer.args.min_8bit_size, [0, 0]  # pyright: ignore[reportAttributeAccessIssue]  # bitsandbytes' own
    for parameter, state in optimizer.state.items():
        held = state["state1"].dtype == torch.uint8
        if not held and parameter.numel() >= least:
            raise TrainingError(
                f"{type(optimizer).__name__} holds the state of a tensor of {parameter.numel():,} numbers as {state['state1'].dtype}, not in 8 "
                "bits. Choose optim.optimizer=AdamW, which says what it does, or another version of bitsandbytes."
            )
        sizes[not held] += parameter.numel()
    return sizes[0], sizes[1]


def factor(optim: Optim, steps: int, epoch: float) -> Callable[[int], float]:
    """The factor on the learning rate at an optimizer step: linear from 0 during the warm-up, then the schedule.

    steps: of the training. epoch: steps of a pass over data.train.
    """
    warmup = round(optim.warmup_fraction * steps) if optim.warmup_steps is None else optim.warmup_steps
    later = after_warmup(optim, steps, warmup, epoch)
    return lambda step: (step + 1) / warmup if step < warmup else later(step)


def after_warmup(optim: Optim, steps: int, warmup: int, epoch: float) -> Callable[[int], float]:
    """The schedule at a step that is no less than `warmup`."""

    def left(step: int) -> float:
        return (step - warmup) / max(steps - warmup, 1)

    match optim.schedule:
        case Schedule.cosine:
            return lambda step: 0.5 * (1.0 + math.cos(math.pi * left(step)))
        case Schedule.linear:
            return lambda step: 1.0 - left(step)
        case Schedule.constant:
            return lambda step: 1.0
        case Schedule.steps:
            return lambda step: optim.gamma ** sum(step >= round(milestone * epoch) for milestone in optim.milestones)
    told = optim.schedule_kwargs or NEEDED.get(optim.schedule, lambda steps: {})(steps)
    silent = torch.optim.SGD([torch.zeros(1)], lr=optim.lr or 1.0)  # Transformers reads its rate
    try:
        from transformers import get_scheduler

        made: Any = get_scheduler(optim.schedule.value, silent, warmup, steps, told)
        return made.lr_lambdas[0]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"optim.schedule={optim.schedule.value}, optim.schedule_kwargs={optim.schedule_kwargs}: {error}.") from None
