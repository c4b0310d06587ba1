"""A parametrization by which a float32 weight is computed with in another dtype (`lab.lora.full`)."""

from __future__ import annotations

import torch


class InDtype(torch.nn.Module):
    """A weight in a dtype; its gradient comes back in float32."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight.to(self.dtype)
