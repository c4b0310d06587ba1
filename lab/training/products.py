"""Expressions with their gradients in the fewest passes over large tensors: LoRA layers, RMSNorm, SwiGLU, rotary positions.

Each is the textbook expression with its backward written out, so that sums accumulate in place; in exact arithmetic nothing
differs. All tensors of one call have one dtype. Checked by torch.autograd.gradcheck (tests/test_lean.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Layer:
    """A frozen weight W [out, in] with bias [out] or None, and what trains: s B A with A [r, in], B [out, r]."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    a: torch.Tensor
    b: torch.Tensor
    scaling: float


def adapted(x: torch.Tensor, layers: Sequence[Layer]) -> tuple[torch.Tensor, ...]:
    """x [..., in] -> W x + bias + s B (A x) [..., out] of each layer (LoRA, Hu et al. 2021, 2106.09685, equation 3)."""
    frozen = [(layer.weight, layer.bias, layer.scaling) for layer in layers]
    return Adapted.apply(x, frozen, *(layer.a for layer in layers), *(layer.b for layer in layers))


class Adapted(torch.autograd.Function):
    """Layers that read one input: one product for all their A, one sum for the gradients that meet there."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, frozen: list[Any], *factors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        flat = x.reshape(-1, x.shape[-1])
        downs, ups = factors[: len(frozen)], factors[len(frozen) :]
        down = torch.cat(downs) if len(downs) > 1 else downs[0]
        low = flat @ down.T
        ctx.ranks = [a.shape[0] for a in downs]
        outs = []
        for (weight, bias, scaling), b, part in zip(frozen, ups, low.split(ctx.ranks, dim=1), strict=True):
            out = F.linear(flat, weight, bias).addmm_(part, b.T, alpha=scaling)
            outs.append(out.view(*x.shape[:-1], -1))
        ctx.save_for_backward(flat, down, low, *ups)
        ctx.frozen, ctx.leading = frozen, x.shape[:-1]
        return tuple(outs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        flat, down, low, *ups = ctx.saved_tensors
        rows = [gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients]
        of_low = torch.empty_like(low)
        for part, row, b, (_, _, scaling) in zip(of_low.split(ctx.ranks, dim=1), rows, ups, ctx.frozen, strict=True):
            torch.addmm(part, row, b, beta=0, alpha=scaling, out=part)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = of_low @ down
            for row, (weight, _, _) in zip(rows, ctx.frozen, strict=True):
                of_x.addmm_(row, weight)
            of_x = of_x.view(*ctx.leading, -1)
        of_downs = (of_low.T @ flat).split(ctx.ranks)
        lows = low.split(ctx.ranks, dim=1)
        of_ups = [(row.T @ part).mul_(scaling) for row, part, (_, _, scaling) in zip(rows, lows, ctx.frozen, strict=True)]
        return of_x, None, *of_downs, *of_ups


class Normed(torch.autograd.Function):
    """x [..., D] -> w x / sqrt(mean(x^2) + eps) with a frozen w [D] (RMSNorm, Zhang & Sennrich 2019, 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        inverse = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        weighted = gradient * weight
        along = torch.linalg.vecdot(weighted, x).unsqueeze(-1)
        along.mul_(inverse.pow(3)).div_(-x.shape[-1])
        return weighted.mul_(inverse).addcmul_(x, along), None, None


class Gated(torch.autograd.Function):
    """SiLU(g) u of one shape (SwiGLU's product, Shazeer 2020, 2002.05202)."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        active = F.silu(gate)
        ctx.save_for_backward(gate, up, active)
        return active * up

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        gate, up, active = ctx.saved_tensors
        of_gate = gradient * up
        torch.ops.aten.silu_backward.grad_input(of_gate, gate, grad_input=of_gate)
        return of_gate, gradient * active


class Turned(torch.autograd.Function):
    """x [B, heads, T, S] -> x cos + rotate_half(x) sin (RoPE, Su et al. 2021, 2104.09864, in halves as in Llama).

    cos: [B, 1, T, S]. signed: sin of that shape, its first half negated.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, cos: torch.Tensor, signed: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(cos, signed)
        return (x * cos).addcmul_(x.roll(x.shape[-1] // 2, -1), signed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        cos, signed = ctx.saved_tensors
        half = gradient.shape[-1] // 2
        return (gradient * cos).add_((gradient * signed).roll(half, -1)), None, None
