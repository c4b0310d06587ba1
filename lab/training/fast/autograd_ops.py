"""Expressions with their gradients in the fewest passes over large tensors: LoRA layers, RMSNorm, SwiGLU, attention.

Each is the textbook expression with its backward written out, so that sums accumulate in place; in exact arithmetic nothing
differs. All tensors of one call have one dtype. Checked by torch.autograd.gradcheck (tests/test_lean.py).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

once_differentiable: Any = torch.autograd.function.once_differentiable
"""PyTorch's, without its annotation: by that a `backward` takes all by position alone, which `Function` does not declare."""


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
        flat = x.reshape(-1, x.shape[-1])
        outs = []
        for group, (downs, ups) in zip(frozen, by_group(frozen, factors), strict=True):
            narrows = len(group) == 1 and len(group[0][0]) <= flat.shape[1]  # then the other order pays for itself
            weight, bias = summed(group, downs, ups, transposed=narrows), biases(group)
            weight = weight if narrows else weight.T
            out = flat @ weight if bias is None else torch.addmm(bias, flat, weight)
            outs.append(out.view(*x.shape[:-1], -1))
        return tuple(outs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        x, *factors = ctx.saved_tensors
        downs = factors[: len(factors) // 2]
        flat, of_x = x.reshape(-1, x.shape[-1]), None
        low = flat @ (downs[0] if len(downs) == 1 else torch.cat(downs)).T
        of_low, of_ups, first = torch.empty_like(low), [], 0
        for group, gradient, (group_downs, group_ups) in zip(ctx.frozen, gradients, by_group(ctx.frozen, factors), strict=True):
            rows = gradient.reshape(-1, gradient.shape[-1])
            if ctx.needs_input_grad[0]:
                weight = summed(group, group_downs, group_ups)
                of_x = rows @ weight if of_x is None else of_x.addmm_(rows, weight)
            start = 0
            for (_, _, scaling), b in zip(group, group_ups, strict=True):
                row, part = rows[:, start : start + b.shape[0]], slice(first, first + b.shape[1])
                torch.addmm(of_low[:, part], row, b, beta=0, alpha=scaling, out=of_low[:, part])
                of_ups.append((low[:, part].T @ row).mul_(scaling).T)
                start, first = start + b.shape[0], part.stop
        of_downs = (of_low.T @ flat).split([a.shape[0] for a in downs])
        return None if of_x is None else of_x.view(x.shape), None, *of_downs, *of_ups


def by_group(frozen: list[list[Any]], factors: Sequence[torch.Tensor]) -> Iterator[tuple[Any, Any]]:
    """All A and then all B as the A and the B of each group."""
    half, start = len(factors) // 2, 0
    for group in frozen:
        stop = start + len(group)
        yield factors[start:stop], factors[half + start : half + stop]
        start = stop


def summed(group: list[Any], downs: Sequence[torch.Tensor], ups: Sequence[torch.Tensor], transposed: bool = False) -> torch.Tensor:
    """W + s B A of each layer of a group, one below the other [sum of out, in]; or that transposed, in memory too."""
    sums = []
    for (weight, _, scaling), a, b in zip(group, downs, ups, strict=True):
        operands = (weight.T, a.T, b.T) if transposed else (weight, b, a)
        sums.append(torch.addmm(*operands, alpha=scaling))
    return sums[0] if len(sums) == 1 else torch.cat(sums, dim=1 if transposed else 0)


def biases(group: list[Any]) -> torch.Tensor | None:
    """Of the layers of a group one after the other, zeros where one has none; None if none has any."""
    if all(bias is None for _, bias, _ in group):
        return None
    return torch.cat([bias if bias is not None else weight.new_zeros(len(weight)) for weight, bias, _ in group])


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
        along = (weighted * x).sum(dim=-1, keepdim=True)  # torch.linalg.vecdot takes four times as long on a CPU
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

    All rows begin alike with `shared` positions, which ask in the first row alone: in the others q is not read there, and
    neither the result nor the gradient of q is written. The weights are kept for the backward: over short rows that is
    faster than to compute them again. They are computed in bands of positions, so that less is computed of what a causal
    mask hides.
    """

    BAND = 80
    """Positions; fewer hide less of the upper triangle in more and smaller products."""

    @staticmethod
    def forward(ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scaling: float, shared: int) -> torch.Tensor:
        ctx.scaling, ctx.bands = scaling, bands(k.shape[2], shared, q.shape[2] // k.shape[2], q.device, q.dtype)
        out, kept = torch.empty_like(q), []
        asked, keys, values, found = (x.flatten(0, 1) for x in (q, k.mT, v, out))
        for queries, stop, future in ctx.bands:
            rows = slice(k.shape[1] if stop <= shared else None)
            scores = torch.baddbmm(future, asked[rows, queries], keys[rows, :, :stop], alpha=scaling)
            kept.append(torch.softmax(scores, dim=-1))
            torch.bmm(kept[-1], values[rows, :stop], out=found[rows, queries])
        ctx.save_for_backward(q, k, v, *kept)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v, *kept = ctx.saved_tensors
        outs = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        whole = [x.flatten(0, 1) for x in (q, k, v, gradient, *outs)]
        for (queries, stop, _), weights in zip(ctx.bands, kept, strict=True):
            asked, keys, values, of_found, of_asked, of_keys, of_values = (x[: len(weights)] for x in whole)
            asked, of_found, of_asked = asked[:, queries], of_found[:, queries], of_asked[:, queries]
            of_values[:, :stop].baddbmm_(weights.mT, of_found)
            of_scores = of_found @ values[:, :stop].mT
            torch.ops.aten._softmax_backward_data.out(of_scores, weights, -1, weights.dtype, grad_input=of_scores)
            torch.baddbmm(of_asked, of_scores, keys[:, :stop], beta=0, alpha=ctx.scaling, out=of_asked)
            of_keys[:, :stop].baddbmm_(of_scores.mT, asked, alpha=ctx.scaling)
        return *outs, None, None


@functools.lru_cache(maxsize=8)
def bands(length: int, shared: int, groups: int, device: torch.device, dtype: torch.dtype) -> list[tuple[slice, int, torch.Tensor]]:
    """Of so many positions: the queries of a band, how many keys they may see, and minus infinity where they may not.

    The mask is [queries, keys]. The first band is what is shared; the rest is as even as can be.
    """
    number, own = -(-(length - shared) // Attended.BAND), length - shared
    edges = [0] * bool(shared) + [shared + own * end // number for end in range(number + 1)]
    made = []
    for start, stop in itertools.pairwise(edges):
        future = torch.full((stop - start, stop), -torch.inf, dtype=dtype, device=device).triu_(start + 1)
        made.append((slice(start * groups, stop * groups), stop, future.repeat_interleave(groups, dim=0)))
    return made
