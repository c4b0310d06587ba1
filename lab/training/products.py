"""Expressions with their gradients in the fewest passes over large tensors: LoRA layers, RMSNorm, SwiGLU, rotary positions.

Each is the textbook expression with its backward written out, so that sums accumulate in place; in exact arithmetic nothing
differs. All tensors of one call have one dtype. Checked by torch.autograd.gradcheck (tests/test_lean.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Layer:
    """A frozen weight W [out, in] with bias [out] or None, and what trains: s B A with A [r, in], B [out, r]; r is 0 where nothing does."""

    weight: torch.Tensor
    bias: torch.Tensor | None
    a: torch.Tensor
    b: torch.Tensor
    scaling: float


def adapted(x: torch.Tensor, groups: Sequence[Sequence[Layer]]) -> tuple[torch.Tensor, ...]:
    """x [..., in] -> W x + bias + s B A x (LoRA, Hu et al. 2021, 2106.09685, equation 3): those of a group side by side in one tensor."""
    layers = [layer for group in groups for layer in group]
    frozen = [[(layer.weight, layer.bias, layer.scaling) for layer in group] for group in groups]
    return Adapted.apply(x, frozen, *(layer.a for layer in layers), *(layer.b for layer in layers))


class Adapted(torch.autograd.Function):
    """Layers that read one input, as products by W + s B A, which are few numbers beside what is multiplied by them.

    They are summed anew for the backward instead of kept: r / tokens of the product's cost, and no second copy of the base.
    """

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, frozen: list[list[Any]], *factors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(x, *factors)
        ctx.frozen = frozen
        return tuple(
            F.linear(x, weight, biases(group))
            for weight, group in zip(summed(frozen, factors), frozen, strict=True)
        )

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        x, *factors = ctx.saved_tensors
        half = len(factors) // 2
        downs, ups = factors[:half], factors[half:]
        flat, gradients = x.reshape(-1, x.shape[-1]), [gradient.reshape(-1, gradient.shape[-1]) for gradient in gradients]
        of_x = None
        if ctx.needs_input_grad[0]:
            for gradient, weight in zip(gradients, summed(ctx.frozen, factors), strict=True):
                of_x = gradient @ weight if of_x is None else of_x.addmm_(gradient, weight)
            of_x = of_x.view(x.shape)
        ranks = [len(a) for a in downs]
        low = flat @ torch.cat(downs).T
        of_low = torch.empty_like(low)
        layers = [layer for group in ctx.frozen for layer in group]
        rows = [row for gradient, group in zip(gradients, ctx.frozen, strict=True) for row in gradient.split(widths(group), dim=1)]
        of_ups = []
        for row, b, part, of_part, (_, _, scaling) in zip(
            rows, ups, low.split(ranks, dim=1), of_low.split(ranks, dim=1), layers, strict=True
        ):
            torch.addmm(of_part, row, b, beta=0, alpha=scaling, out=of_part)
            of_ups.append((part.T @ row).mul_(scaling).T)
        return of_x, None, *(of_low.T @ flat).split(ranks), *of_ups


def summed(frozen: list[list[Any]], factors: Sequence[torch.Tensor]) -> Iterator[torch.Tensor]:
    """W + s B A of each layer, those of a group one below the other [sum of out, in]."""
    pairs = zip(factors[: len(factors) // 2], factors[len(factors) // 2 :], strict=True)
    for group in frozen:
        if len(group) == 1:
            (weight, _, scaling), (a, b) = group[0], next(pairs)
            yield torch.addmm(weight, b, a, alpha=scaling)
            continue
        weights = torch.cat([weight for weight, _, _ in group])
        for weight, (_, _, scaling) in zip(weights.split(widths(group)), group, strict=True):
            a, b = next(pairs)
            weight.addmm_(b, a, alpha=scaling)
        yield weights


def biases(group: list[Any]) -> torch.Tensor | None:
    """Of the layers of a group one after the other, zeros where one has none; None if none has any."""
    if all(bias is None for _, bias, _ in group):
        return None
    return torch.cat([bias if bias is not None else weight.new_zeros(len(weight)) for weight, bias, _ in group])


def widths(group: list[Any]) -> list[int]:
    """How many numbers each layer of a group gives."""
    return [len(weight) for weight, _, _ in group]


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


class Attended(torch.autograd.Function):
    """Causal attention of q [B, H, T g, S] on k and v [B, H, T, S]: [B, H, T g, S]; g queries stand at each position, one after another.

    The weights are kept for the backward: over short rows that is faster than to compute them again. They are computed in
    bands of positions, so that less is computed of what a causal mask hides.
    """

    BAND = 80
    """Positions; fewer hide less of the upper triangle in more and smaller products."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float) -> torch.Tensor:
        length, groups, kept = k.shape[2], q.shape[2] // k.shape[2], []
        out = torch.empty_like(q)
        asked, keys, values, found = (x.flatten(0, 1) for x in (q, k.mT, v, out))
        for start, stop in bands(length):
            future = torch.full((stop - start, stop), -torch.inf, dtype=q.dtype, device=q.device).triu_(start + 1)
            future = future.repeat_interleave(groups, dim=0)
            band = slice(start * groups, stop * groups)
            scores = torch.baddbmm(future, asked[:, band], keys[..., :stop], alpha=scaling)
            kept.append(torch.softmax(scores, dim=-1))
            torch.bmm(kept[-1], values[:, :stop], out=found[:, band])
        ctx.scaling, ctx.groups = scaling, groups
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        outs = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        asked, keys, values, of_found, of_asked, of_keys, of_values = (x.flatten(0, 1) for x in (q, k, v, gradient, *outs))
        for (start, stop), weights in zip(bands(k.shape[2]), kept, strict=True):
            band = slice(start * ctx.groups, stop * ctx.groups)
            of_values[:, :stop].baddbmm_(weights.mT, of_found[:, band])
            of_scores = of_found[:, band] @ values[:, :stop].mT
            torch.ops.aten._softmax_backward_data.out(of_scores, weights, -1, weights.dtype, grad_input=of_scores)
            torch.baddbmm(of_asked[:, band], of_scores, keys[:, :stop], beta=0, alpha=ctx.scaling, out=of_asked[:, band])
            of_keys[:, :stop].baddbmm_(of_scores.mT, asked[:, band], alpha=ctx.scaling)
        return *outs, None


def bands(length: int) -> list[tuple[int, int]]:
    """Of so many positions, from and to; as even as can be."""
    number = -(-length // Attended.BAND)
    return list(itertools.pairwise(length * end // number for end in range(number + 1)))
