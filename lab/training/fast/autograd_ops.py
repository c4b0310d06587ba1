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
    """Of layers one below the other: W + s B A, all A, and s B where its outputs and ranks meet."""

    weight: torch.Tensor
    down: torch.Tensor
    up: torch.Tensor


class Frozen(NamedTuple):
    """What of layers one below the other does not train: the bias, zeros where a layer has none; s of each rank [1, ranks]."""

    bias: torch.Tensor | None
    scaling: torch.Tensor


class Stack:
    """Layers whose outputs stand side by side in one tensor.

    kept: their weights are kept side by side, and their sums for the backward, not made anew: copies of the weights.
    """

    def __init__(self, layers: Sequence[Layer], kept: bool = False) -> None:
        self.layers, self.kept = list(layers), kept
        self.factors = [layer.a for layer in layers], [layer.b for layer in layers]
        self.outs, self.ranks = [len(layer.weight) for layer in layers], [len(layer.a) for layer in layers]
        self.backward_order = [None if layer.order is None else layer.order.argsort() for layer in layers]
        self.copies = len(layers) > 1 or layers[0].order is not None
        self.known: Frozen | None = None
        self.weight: torch.Tensor | None = None

    def frozen(self) -> Frozen:
        """What does not train beside the weights, made once for a device."""
        first = self.layers[0].weight
        if self.known is None or self.known.scaling.device != first.device:
            biases = [first.new_zeros(out) if layer.bias is None else layer.bias for layer, out in zip(self.layers, self.outs, strict=True)]
            scaling = [layer.scaling for layer, rank in zip(self.layers, self.ranks, strict=True) for _ in range(rank)]
            biased = any(layer.bias is not None for layer in self.layers)
            self.known, self.weight = Frozen(self.joined(biases) if biased else None, first.new_tensor([scaling])), None
        return self.known

    def joined(self, each: Sequence[torch.Tensor]) -> torch.Tensor:
        """What each layer has of its outputs, in their order."""
        parts = [ordered(x, layer.order) for x, layer in zip(each, self.layers, strict=True)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def sums(self) -> Sums:
        """What the layers compute with now."""
        (downs, ups), scaling = self.factors, self.frozen().scaling
        weight = self.joined([layer.weight for layer in self.layers]) if self.weight is None else self.weight
        if len(self.layers) == 1:
            down, up = downs[0], self.joined(ups) * scaling
        else:
            apart = [ordered(b, layer.order) for b, layer in zip(ups, self.layers, strict=True)]
            down, up = torch.cat(downs), torch.block_diag(*apart).mul_(scaling)
        if self.copies and not self.kept:
            return Sums(weight.addmm_(up, down), down, up)
        self.weight = weight
        return Sums(torch.addmm(weight, up, down), down, up)

    def of_factors(self, of_down: torch.Tensor, of_up: torch.Tensor) -> tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]:
        """The gradients of A and of B of each layer, from those of all A [ranks, in] and, where outputs and ranks meet, of all B [out, ranks]."""
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
            sums, bias = stack.sums(), stack.frozen().bias
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
            low = (flat @ sums.down.T).mul_(stack.frozen().scaling)
            of_down, of_up = stack.of_factors((rows @ sums.up).T @ flat, rows.T @ low)
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
