"""From a packed row to rows of heads and back: gathers whose indices are made once for a batch and used by all blocks.

What several rows begin with stands once in the packed row and once in each row that reads it; its gradient is summed over them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

once_differentiable: Any = torch.autograd.function.once_differentiable
"""PyTorch's, without its annotation: by that a `backward` takes all by position alone, which `Function` does not declare."""

Three = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Level:
    """Rows that attend together, each position on itself and what is before it.

    tokens: int64 [B, T], the token of the packed row that stands at each position; what fills up is any.
    asked: int64 [B, A], the token that asks at each of the last A positions, or -1 where none does: behind a row's end, and of what begins all
    rows in all but the first. Every token asks once. first: how many of these A begin all rows.
    filled: bool [B, T - A], which of the positions that do not ask fill a row up; None: none does.
    """

    tokens: torch.Tensor
    asked: torch.Tensor
    first: int = 0
    filled: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class HeadIndex:
    """Where the numbers of heads stand, level by level one after another, for N tokens of `queries` and `keys` heads.

    q, k: int64, of each place, of the turned heads [N (queries + keys)]; v: of all heads [N (queries + 2 keys)]. Places of q are [B, keys, A,
    queries / keys], or [B, queries, A] where they are not folded; those of k and v [B, keys, T].
    out: int64 [N queries], where each has asked. asking, asking_starts: of each place of q what asks there, none or one, as bags.
    read, read_starts: of each of [N keys] the places of k that hold it, as bags. made: what blocks make of it alike, by dtype.
    """

    levels: tuple[Level, ...]
    queries: int
    keys: int
    folded: bool
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    out: torch.Tensor
    asking: torch.Tensor
    asking_starts: torch.Tensor
    read: torch.Tensor
    read_starts: torch.Tensor
    made: dict[torch.dtype, Any] = field(default_factory=dict)

    def of_queries(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Places of q [places, S], level by level [B, keys, A groups, S] if folded, else [B, queries, A, S]."""
        number = self.keys if self.folded else self.queries
        parts = x.split_with_sizes([level.asked.numel() * self.queries for level in self.levels])
        return [part.view(len(level.asked), number, -1, x.shape[-1]) for part, level in zip(parts, self.levels, strict=True)]

    def of_keys(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Places of k or v [places, S], level by level [B, keys, T, S]."""
        parts = x.split_with_sizes([level.tokens.numel() * self.keys for level in self.levels])
        return [part.view(*level.tokens.shape[:1], self.keys, -1, x.shape[-1]) for part, level in zip(parts, self.levels, strict=True)]


def index(levels: Sequence[Level], tokens: int, queries: int, keys: int, folded: bool) -> HeadIndex:
    """The index of levels over so many tokens of so many heads; either number may be 0."""
    device, groups = levels[0].tokens.device, queries // keys if folded else 1
    heads, keyed = torch.arange(queries, device=device).view(-1, 1, groups), torch.arange(keys, device=device)[:, None]
    asked = torch.cat([level.asked[:, None, :, None].expand(-1, len(heads), -1, groups).flatten() for level in levels])
    head = torch.cat([heads.expand(len(level.asked), -1, level.asked.shape[1], -1).flatten() for level in levels])
    stands = torch.cat([level.tokens[:, None].expand(-1, keys, -1).flatten() for level in levels])
    keyed = torch.cat([keyed.expand(len(level.tokens), -1, level.tokens.shape[1]).flatten() for level in levels])
    asks = asked >= 0
    whose = (asked * queries + head)[asks]
    out = torch.empty(tokens * queries, dtype=torch.int64, device=device)
    out[whose] = asks.nonzero()[:, 0]
    bins = stands * keys + keyed
    counts = torch.bincount(bins, minlength=tokens * keys)
    turned = queries + keys
    return HeadIndex(
        tuple(levels), queries, keys, folded,
        q=asked.clamp(min=0) * turned + head,
        k=stands * turned + queries + keyed,
        v=stands * (turned + keys) + turned + keyed,
        out=out,
        asking=whose,
        asking_starts=asks.cumsum(0) - asks.long(),
        read=bins.argsort(stable=True),
        read_starts=counts.cumsum(0) - counts,
    )  # fmt: skip


def bags(x: torch.Tensor, places: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Sums of rows of x [places, S], a bag of them from each start: [bags, S], zeros of an empty one."""
    return torch.embedding_bag(x, places, starts, False, 0)[0]


def read(x: torch.Tensor, at: HeadIndex, angles: torch.Tensor) -> Three:
    """x [1, N, widths of q, k and v] -> their places.

    angles: complex [N, S / 2], of modulus 1. Heads of q and k are read as S / 2 complex numbers each and multiplied by them (RoPE, Su et al.
    2021, 2104.09864, equation 13).
    """
    size = 2 * angles.shape[-1]
    turned = torch.view_as_real(pairs(x, at, angles) * angles[:, None]).view(-1, size)
    return turned.index_select(0, at.q), turned.index_select(0, at.k), x.view(-1, size).index_select(0, at.v)


def read_backward(of_q: torch.Tensor, of_k: torch.Tensor, of_v: torch.Tensor, at: HeadIndex, angles: torch.Tensor) -> torch.Tensor:
    """The gradient of `read` [1, N, widths of q, k and v]."""
    parts = of_q.index_select(0, at.out), *(bags(each, at.read, at.read_starts) for each in (of_k, of_v))
    out = torch.cat([part.view(len(angles), -1) for part in parts], dim=1)[None]
    pairs(out, at, angles).mul_(angles.conj()[:, None])
    return out


def pairs(x: torch.Tensor, at: HeadIndex, angles: torch.Tensor) -> torch.Tensor:
    """The heads of q and k in x [1, N, widths of q, k and v] as a complex view [N, heads, S / 2]."""
    width = 2 * angles.shape[-1] * (at.queries + at.keys)
    return torch.view_as_complex(x[0, :, :width].view(len(angles), -1, angles.shape[-1], 2))


def joined(found: torch.Tensor, at: HeadIndex) -> torch.Tensor:
    """Places of q, what each has found, as [1, N, width of q]."""
    return found.index_select(0, at.out).view(1, -1, at.queries * found.shape[-1])


def joined_backward(gradient: torch.Tensor, at: HeadIndex, size: int) -> torch.Tensor:
    """The gradient of `joined`: places of q, zeros where none asks."""
    return bags(gradient.reshape(-1, size), at.asking, at.asking_starts)


class Read(torch.autograd.Function):
    """`read`, one tensor of places each."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, at: HeadIndex, angles: torch.Tensor) -> Three:
        ctx.at, ctx.angles = at, angles
        return read(x, at, angles)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_q: torch.Tensor, of_k: torch.Tensor, of_v: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return read_backward(of_q, of_k, of_v, ctx.at, ctx.angles), None, None


class Joined(torch.autograd.Function):
    """`joined`."""

    @staticmethod
    def forward(ctx: Any, found: torch.Tensor, at: HeadIndex) -> torch.Tensor:
        ctx.at, ctx.size = at, found.shape[-1]
        return joined(found, at)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return joined_backward(gradient, ctx.at, ctx.size), None
