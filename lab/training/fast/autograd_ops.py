"""Expressions with their gradients in the fewest passes over large tensors: LoRA layers, RMSNorm, SwiGLU.

Each is the textbook expression with its backward written out, so that sums accumulate in place; in exact arithmetic nothing
differs. All tensors of one call have one dtype. Checked by torch.autograd.gradcheck (tests/test_lean.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from lab.training.fast.heads import once_differentiable


@dataclass(frozen=True, slots=True)
class Layer:
    """A frozen weight W [out, in] with bias [out] or None, and what trains: s B A with A [r, in], B [out, r]; r is 0 where nothing does.

    order: int64 [out], in which its outputs come; None: as they are.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    a: torch.Tensor
    b: torch.Tensor
    scaling: float
    order: torch.Tensor | None = None


class Sums(NamedTuple):
    """Of layers one below the other: W + s B A, s A, and s B where its outputs and ranks meet."""

    weight: torch.Tensor
    down: torch.Tensor
    up: torch.Tensor


class Stack:
    """Layers whose outputs stand side by side in one tensor. kept: their sums are kept for the backward, not made anew: a copy of the weights."""

    def __init__(self, layers: Sequence[Layer], kept: bool = False) -> None:
        self.layers, self.kept = list(layers), kept
        self.factors = [layer.a for layer in layers], [layer.b for layer in layers]
        self.outs, self.ranks = [len(layer.weight) for layer in layers], [len(layer.a) for layer in layers]
        self.backward_order = [None if layer.order is None else layer.order.argsort() for layer in layers]
        self.joined_bias: torch.Tensor | None = None

    def bias(self) -> torch.Tensor | None:
        """Of all layers one after the other, zeros where one has none; None if none has any. They do not train."""
        if all(layer.bias is None for layer in self.layers):
            return None
        if self.joined_bias is None or self.joined_bias.device != self.layers[0].weight.device:
            each = [layer.weight.new_zeros(len(layer.weight)) if layer.bias is None else layer.bias for layer in self.layers]
            self.joined_bias = torch.cat([ordered(bias, layer.order) for bias, layer in zip(each, self.layers, strict=True)])
        return self.joined_bias

    def sums(self) -> Sums:
        """What the layers compute with now."""
        first = self.layers[0]
        if len(self.layers) == 1 and first.order is None:
            return Sums(torch.addmm(first.weight, first.b, first.a, alpha=first.scaling), first.a * first.scaling, first.b * first.scaling)
        weight, up = first.weight.new_empty(sum(self.outs), first.weight.shape[1]), first.b.new_zeros(sum(self.outs), sum(self.ranks))
        top = left = 0
        for layer, out, rank in zip(self.layers, self.outs, self.ranks, strict=True):
            own, b = weight[top : top + out], ordered(layer.b, layer.order)
            if layer.order is None:
                torch.addmm(layer.weight, b, layer.a, alpha=layer.scaling, out=own)
            else:
                torch.index_select(layer.weight, 0, layer.order, out=own).addmm_(b, layer.a, alpha=layer.scaling)
            torch.mul(b, layer.scaling, out=up[top : top + out, left : left + rank])
            top, left = top + out, left + rank
        return Sums(weight, torch.cat([layer.a * layer.scaling for layer in self.layers]), up)

    def of_factors(self, of_down: torch.Tensor, of_up: torch.Tensor) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """The gradients of A and of B of each layer, from those of s A [ranks, in] and of s B [out, ranks] with s in them."""
        if len(self.layers) == 1:
            return [of_down], [ordered(of_up, self.backward_order[0])]
        ups, top, left = [], 0, 0
        for out, rank, order in zip(self.outs, self.ranks, self.backward_order, strict=True):
            ups.append(ordered(of_up[top : top + out, left : left + rank], order))
            top, left = top + out, left + rank
        return of_down.split_with_sizes(self.ranks), ups


def ordered(x: torch.Tensor, order: torch.Tensor | None) -> torch.Tensor:
    """x with its first dimension in another order."""
    return x if order is None else x.index_select(0, order)


def adapted(x: torch.Tensor, stacks: Sequence[Stack]) -> tuple[torch.Tensor, ...]:
    """x [..., in] -> W x + bias + s B A x (LoRA, Hu et al. 2021, 2106.09685, equation 3), of each stack in one tensor."""
    return Adapted.apply(x, stacks, *(a for stack in stacks for a in stack.factors[0]), *(b for stack in stacks for b in stack.factors[1]))


class Adapted(torch.autograd.Function):
    """Layers that read one input, as products by W + s B A, which are few numbers beside what is multiplied by them."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, stacks: Sequence[Stack], *factors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        ctx.save_for_backward(x, *factors)  # factors, so that one changed in place before the backward is an error
        ctx.stacks, ctx.sums = stacks, []
        flat = x.reshape(-1, x.shape[-1])
        outs = []
        for stack in stacks:
            sums, bias = stack.sums(), stack.bias()
            out = flat @ sums.weight.T if bias is None else torch.addmm(bias, flat, sums.weight.T)
            outs.append(out.view(*x.shape[:-1], -1))
            ctx.sums.append(sums if stack.kept else None)
        return tuple(outs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[Any, ...]:
        x = ctx.saved_tensors[0]
        flat, of_x, downs, ups = x.reshape(-1, x.shape[-1]), None, [], []
        for stack, kept, gradient in zip(ctx.stacks, ctx.sums, gradients, strict=True):
            sums, rows = kept or stack.sums(), gradient.reshape(-1, gradient.shape[-1])
            if ctx.needs_input_grad[0]:
                of_x = rows @ sums.weight if of_x is None else of_x.addmm_(rows, sums.weight)
            of_down, of_up = stack.of_factors((rows @ sums.up).T @ flat, rows.T @ (flat @ sums.down.T))
            downs += of_down
            ups += of_up
        return None if of_x is None else of_x.view(x.shape), None, *downs, *ups


class Normed(torch.autograd.Function):
    """x [..., D] -> w x / sqrt(mean(x^2) + eps) with a frozen w [D] (RMSNorm, Zhang & Sennrich 2019, 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        inverse = (x * x).sum(dim=-1, keepdim=True).div_(x.shape[-1]).add_(eps).rsqrt_()  # torch.linalg.vector_norm takes three times as long
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
