"""How much memory a device has, and whether a training fits into it without gradient checkpointing.

The choice follows from the experiment, the first examples and the size of the device, not from what happens to be free, so
that an arm chooses alone as it does beside others. A run keeps its choice in its checkpoints.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from lab import lora
from lab.config import Experiment, LoraDial, Optim, TrainerSection
from lab.costs import device_memory
from lab.costs.counting import CostModel
from lab.costs.shares import gathered_bytes
from lab.model import Vlm
from lab.training.examples import Examples

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Choice:
    """Whether a training recomputes activations (gradient checkpointing). asked: the config says so.

    fixed, plain, checkpointed: bytes of weights and adapters, and of activations without and with it; there: of the device.
    """

    on: bool
    asked: bool
    fixed: float
    plain: float
    checkpointed: float
    there: float

    @property
    def needed(self) -> float:
        """Bytes that a training needs as chosen."""
        return self.fixed + (self.checkpointed if self.on else self.plain)

    @property
    def why(self) -> str:
        """Why it is on where nobody asked for it."""
        return (
            f"memory: a step would need {(self.fixed + self.plain) / 1e9:.1f} GB of {self.there / 1e9:.1f} GB, so gradient checkpointing is on, "
            "which takes about a third more compute. trainer.gradient_checkpointing=false says otherwise."
        )

    def facts(self) -> dict[str, object]:
        """The choice as plain values for `run.json`, memory in GB."""
        sizes = {"fixed": self.fixed, "activations": self.plain, "activations_with": self.checkpointed, "device": self.there}
        gigabytes = {f"{name}_gb": round(value / 1e9, 3) for name, value in sizes.items() if math.isfinite(value)}
        return {"on": self.on, "by": "trainer.gradient_checkpointing" if self.asked else "memory plan", **gigabytes}


def choose(section: TrainerSection, optim: Optim, vlm: Vlm, train: Examples, dial: LoraDial | None = None) -> Choice:
    """What `trainer.gradient_checkpointing` comes to on this machine.

    dial: of an adapter and of whole parts that are not attached yet, and are counted in.
    """
    trainable = sum(parameter.numel() for parameter in lora.trainable(vlm).values())
    trainable += 0 if dial is None else lora.full_parameters(vlm, dial) + (lora.adapter_parameters(vlm, dial) if dial.r else 0)
    kept = CostModel(vlm, dial).cost(train.longest).kept
    weights = sum(parameter.nbytes for parameter in vlm.base_model.parameters() if not parameter.requires_grad)
    weights += sum(own.base.nbytes for own in vlm.full.values())  # which is kept for the next arm
    plain, checkpointed = (device_memory.activation_bytes(section, kept, on) for on in (False, True))
    fixed = (weights + device_memory.trainable_bytes(optim) * trainable) / section.shares
    fixed += gathered_bytes(vlm, dial) if section.sharded else 0.0
    there = total(vlm.device, section.devices)
    on, asked = device_memory.recomputes(section, fixed, kept, there), section.gradient_checkpointing is not None
    return Choice(on, asked, fixed, plain, checkpointed, there)


def total(device: torch.device, processes: int = 1, proc: Path = PROC, cgroup: Path = CGROUP) -> float:
    """Bytes of memory that a device has, or that a control group allows; on a CPU a part of it for each of so many processes."""
    if device.type == "cuda":
        return float(torch.cuda.get_device_properties(device).total_memory)
    limits = [value for value in (meminfo(proc, "MemTotal"), allowed(cgroup)) if value is not None]
    return min(limits, default=math.inf) / processes


def room(proc: Path = PROC, cgroup: Path = CGROUP) -> float:
    """Bytes that processes may still take: what Linux calls available, or less where a control group allows less; else unlimited."""
    limits = [math.inf if (there := meminfo(proc, "MemAvailable")) is None else there]
    most, taken = allowed(cgroup), cgroup / "memory.current"
    if most is not None and taken.is_file():
        limits.append(most - float(taken.read_text()))
    return max(0.0, min(limits))


def meminfo(proc: Path, key: str) -> float | None:
    """A number of Linux's /proc/meminfo in bytes; None elsewhere."""
    if not (proc / "meminfo").is_file():
        return None
    values = dict(line.split(":") for line in (proc / "meminfo").read_text().splitlines())
    return 1024.0 * int(values[key].split()[0])


def allowed(cgroup: Path) -> float | None:
    """Bytes that this control group may take in all; None where nobody limits it."""
    most = cgroup / "memory.max"
    return float(most.read_text()) if most.is_file() and most.read_text().strip() != "max" else None


def settled(x: Experiment, on: bool) -> Experiment:
    """The experiment with its choice made."""
    return replace(x, trainer=replace(x.trainer, gradient_checkpointing=on))


def recompute(vlm: Vlm, on: bool) -> None:
    """Switch gradient checkpointing on a model on or off, whatever it was.

    Transformers' hooks that make embeddings require a gradient are for the reentrant kind only; they would draw a gradient
    through a frozen tower.
    """
    for block in [module for module in vlm.base_model.modules() if isinstance(module, GradientCheckpointingLayer)]:
        vars(block).pop("forward", None)
        if on and not block.training:  # of a part that rests, through which a gradient may go: Transformers would not recompute it
            block.forward = functools.partial(checkpoint, block.forward, use_reentrant=False)
    if on:
        switch(vlm, "enable")({"use_reentrant": False})
        vlm.base_model.disable_input_require_grads()
    elif any(getattr(module, "gradient_checkpointing", False) for module in vlm.base_model.modules()):
        switch(vlm, "disable")()


def switch(vlm: Vlm, way: str) -> Callable[..., None]:
    """Transformers' own switch, `enable` or `disable`; it was called gradient checkpointing before it was activation checkpointing."""
    return getattr(vlm.base_model, f"activation_checkpointing_{way}", None) or getattr(vlm.base_model, f"gradient_checkpointing_{way}")
