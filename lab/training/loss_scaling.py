"""Training over a float16 base: the loss is scaled, so that gradients of activations do not vanish in 16 bits.

Micikevicius et al. 2018, 1710.03740, by torch's GradScaler: a step whose gradients overflow is left out and counted, and the factor
halved. The base is in float16 as it is loaded and adapters in float32 beside it, so that nothing is cast on the way (no autocast).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from lab.model import Vlm

START = 2.0**10
"""The factor of the first step. From torch's own, 2**16, a short run may leave all its steps out, one for each halving; fairseq starts at
2**7. It grows as torch's does, twofold after 2,000 steps without an overflow."""


def needed(vlm: Vlm) -> bool:
    """Whether a model computes in float16. bfloat16 has the range of float32."""
    return vlm.dtype == torch.float16


def left_out(trainer: L.Trainer) -> int:
    """How many of the optimizer steps so far have changed nothing."""
    plugin = trainer.precision_plugin
    return plugin.left_out if isinstance(plugin, LossScaling) else 0


class LossScaling(MixedPrecision):
    """Lightning's own, without its autocast. left_out: optimizer steps whose gradients overflowed."""

    scaler: torch.amp.GradScaler

    def __init__(self, device: str) -> None:
        super().__init__("16-mixed", device, torch.amp.GradScaler(device, init_scale=START))
        self.left_out = 0

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """Nothing around a forward."""
        yield

    def optimizer_step(self, *args: Any, **kwargs: Any) -> Any:
        """Take a step, or leave it out."""
        before = self.scaler.get_scale()
        done = super().optimizer_step(*args, **kwargs)
        self.left_out += self.scaler.get_scale() < before
        return done

    def state_dict(self) -> dict[str, Any]:
        """As plain values."""
        return {**super().state_dict(), "left_out": self.left_out}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from them."""
        self.left_out = state_dict["left_out"]
        super().load_state_dict({name: value for name, value in state_dict.items() if name != "left_out"})
