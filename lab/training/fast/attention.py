"""Attention over packed rows, its weights kept for the backward: over short rows the fastest on a CPU."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from lab.training.fast.heads import HeadIndex, Level, joined, joined_backward, once_differentiable, read, read_backward

BAND = 80
"""Positions that ask together; fewer hide less of the upper triangle in more and smaller products."""


class Band(NamedTuple):
    """Positions that ask together. queries: where they stand in q. stop: how many keys they may read. hidden: added to their scores, [queries,
    stop] or [B H, queries, stop], minus infinity where they may not. first: they ask in the first row alone."""

    queries: slice
    stop: int
    hidden: torch.Tensor
    first: bool


class Attention(torch.autograd.Function):
    """x [1, N, widths of q, k and v] -> what every token finds [1, N, width of q]. at: with queries folded. angles: as of `read`."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, at: HeadIndex, angles: torch.Tensor, scaling: float) -> torch.Tensor:
        ctx.at, ctx.scaling = at, scaling
        q, k, v = read(x, at, angles)
        out, kept = torch.empty_like(q), []
        if q.dtype not in at.made:
            at.made[q.dtype] = [bands_of(level, at.queries // at.keys, at.keys, q.dtype) for level in at.levels]
        ctx.bands = at.made[q.dtype]
        for heads in zip(at.of_queries(q), at.of_keys(k), at.of_keys(v), at.of_queries(out), ctx.bands, strict=True):
            kept += attended(*heads, scaling)
        ctx.save_for_backward(angles, q, k, v, *kept)
        return joined(out, at)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        at, (angles, q, k, v, *weights) = ctx.at, ctx.saved_tensors
        of_out = joined_backward(gradient, at, q.shape[-1])
        of_q, of_k, of_v = outs = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        asking, standing = [at.of_queries(x) for x in (of_out, q, of_q)], [at.of_keys(x) for x in (k, v, of_k, of_v)]
        kept = iter(weights)
        for bands, *heads in zip(ctx.bands, *asking, *standing, strict=True):
            attended_backward(heads, list(itertools.islice(kept, len(bands))), bands, ctx.scaling)
        return read_backward(*outs, at, angles), None, None, None


def bands_of(level: Level, groups: int, heads: int, dtype: torch.dtype) -> Sequence[Band]:
    """How the positions of a level ask."""
    length, asking = level.tokens.shape[1], level.asked.shape[1]
    where = groups, level.tokens.device, dtype
    if asking == length:
        return causal_bands(length, level.first, *where)
    return hiding(later_bands(length, length - asking, *where), level.filled, heads)


def attended(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, bands: Sequence[Band], scaling: float
) -> list[torch.Tensor]:
    """What q [B, H, A g, S] finds among k and v [B, H, T, S], into out, by bands, of each of which the weights are given.

    g queries stand at each of A positions, one after another. Where only the first row asks out is not written in others.
    """
    kept = []
    asked, keys, values, found = (x.flatten(0, 1) for x in (q, k.mT, v, out))
    for queries, stop, hidden, first in bands:
        rows = slice(k.shape[1] if first else None)
        scores = torch.baddbmm(hidden, asked[rows, queries], keys[rows, :, :stop], alpha=scaling)
        kept.append(torch.softmax(scores, dim=-1))
        torch.bmm(kept[-1], values[rows, :stop], out=found[rows, queries])
    return kept


def attended_backward(heads: Sequence[torch.Tensor], kept: Sequence[torch.Tensor], bands: Sequence[Band], scaling: float) -> None:
    """heads: the gradient of what was found, q, the gradient of q, k, v, the gradients of k and v; gradients of k and v are added to."""
    whole = [x.flatten(0, 1) for x in heads]
    for (queries, stop, *_), weights in zip(bands, kept, strict=True):
        of_found, asked, of_asked, keys, values, of_keys, of_values = (x[: len(weights)] for x in whole)
        of_found, asked, of_asked = of_found[:, queries], asked[:, queries], of_asked[:, queries]
        of_values[:, :stop].baddbmm_(weights.mT, of_found)
        of_scores = of_found @ values[:, :stop].mT
        torch.ops.aten._softmax_backward_data.out(of_scores, weights, -1, weights.dtype, grad_input=of_scores)
        torch.baddbmm(of_asked, of_scores, keys[:, :stop], beta=0, alpha=scaling, out=of_asked)
        of_keys[:, :stop].baddbmm_(of_scores.mT, asked, alpha=scaling)


@functools.lru_cache(maxsize=32)
def causal_bands(length: int, shared: int, groups: int, device: torch.device, dtype: torch.dtype) -> list[Band]:
    """Of rows of so many positions that each read what is before them, and of which the first `shared` ask in the first row alone."""
    edges = [0] * bool(shared) + even(shared, length)
    return [band(start, stop, groups, 0, device, dtype, stop <= shared) for start, stop in itertools.pairwise(edges)]


@functools.lru_cache(maxsize=32)
def later_bands(length: int, before: int, groups: int, device: torch.device, dtype: torch.dtype) -> list[Band]:
    """Of rows of so many positions of which those from `before` on ask, the only ones in q."""
    return [band(start, stop, groups, before, device, dtype, False) for start, stop in itertools.pairwise(even(before, length))]


def even(start: int, stop: int) -> list[int]:
    """Where bands from start to stop begin and end, as even as can be."""
    number = -(-(stop - start) // BAND)
    return [start + (stop - start) * end // number for end in range(number + 1)]


def band(start: int, stop: int, groups: int, offset: int, device: torch.device, dtype: torch.dtype, first: bool) -> Band:
    """The positions from start to stop, of which the first in q is `offset`."""
    future = torch.full((stop - start, stop), -torch.inf, dtype=dtype, device=device).triu_(start + 1)
    return Band(slice((start - offset) * groups, (stop - offset) * groups), stop, future.repeat_interleave(groups, dim=0), first)


def hiding(bands: Sequence[Band], filled: torch.Tensor | None, heads: int) -> Sequence[Band]:
    """Bands that do not read the first positions of a row where they are filled up, bool [B, first positions]."""
    if filled is None:
        return bands
    made = []
    for each in bands:
        never = each.hidden.new_zeros(len(filled), 1, 1, each.stop)
        never[..., : filled.shape[1]].masked_fill_(filled[:, None, None], -torch.inf)
        made.append(each._replace(hidden=(each.hidden + never).expand(-1, heads, -1, -1).flatten(0, 1)))
    return made
