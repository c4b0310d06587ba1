"""What the machine could do at most, and how many operations a step asks of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lab.evaluation.latency import now

SIDES = (768, 1024, 1536, 2048)
"""Sides of the square matrices that are multiplied."""


def matrix_product_peak(dtype: torch.dtype, device: torch.device, seconds: float = 2.0) -> float:
    """FLOP/s of the fastest single matrix product out of several sizes, at torch's current number of threads.

    seconds: how long to look. Nothing made of matrix products can be faster for long; most of what a model does is not one.
    """
    best = 0.0
    for side in SIDES:
        left, right = (torch.randn(side, side, dtype=torch.float32).to(device, dtype) for _ in range(2))
        out = torch.empty(side, side, dtype=dtype, device=device)
        torch.mm(left, right, out=out)
        start = now(device)
        end = start + seconds / len(SIDES)
        while start < end:
            torch.mm(left, right, out=out)
            done = now(device)
            best, start = max(best, 2.0 * side**3 / (done - start)), done
    return best


def matrix_flops(act: Callable[[], Any]) -> float:
    """Floating-point operations of the matrix products, convolutions and attention that `act` executes, padding included.

    A multiply-add counts twice; a backward pass inside `act` counts with what it really computes.
    """
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        act()
    return float(counter.get_total_flops())


def in_place(_: torch.Size, left: torch.Size, right: torch.Size, **__: Any) -> int:
    """Operations of a product, or of a batch of them, that is added to a tensor in place; PyTorch's own table leaves it out."""
    return 2 * math.prod(left) * right[-1]


IN_PLACE = {torch.ops.aten.addmm_: in_place, torch.ops.aten.baddbmm_: in_place}
