"""Rows of one batch as one row that holds what begins them all once: the turns and the image marker before the first picture.

    left-padded  [B, T]          pad pad a b c 1 2 3 4        packed  [1, N], N = shared + B own
                                 a b c 5 6 7 8 9 end                  a b c | 1 2 3 4 end | 5 6 7 8 9

What acts on each token alone (norms, projections, feed-forward) then does so once for shared tokens. Attention, which does
not, reads rows: `Spread` makes them of a packed tensor, `Packed` packs what it found. The last token of a row predicts
nothing and is left out; shorter rows are filled up behind it, where no answer sees them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from lab.records import Batch, Tokens
from lab.training.fast.autograd_ops import once_differentiable


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the tokens of a packed batch stand: `shared` once, then `own` of each of `rows` rows.

    answers: int64 [rows, answers], the positions in each row, shared ones counted, whose logits the loss reads; of a row that has
    fewer, its first stands for what the loss leaves out.
    """

    shared: int
    rows: int
    own: int
    answers: torch.Tensor

    @property
    def length(self) -> int:
        """Of one row, shared tokens counted."""
        return self.shared + self.own

    def packed_answers(self) -> torch.Tensor:
        """`answers` as positions of the packed row, int64 [rows answers]."""
        starts = torch.arange(self.rows, device=self.answers.device)[:, None] * self.own
        return (starts + self.answers).flatten()

    def of_answers(self) -> Layout:
        """Where they stand among the answer positions alone."""
        rows, own = self.answers.shape
        return Layout(0, rows, own, self.answers)

    def parts(self, packed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[N, ...] as views: what is shared [1, shared, ...], and [rows, own, ...]."""
        return packed[None, : self.shared], packed[self.shared :].view(self.rows, self.own, *packed.shape[1:])

    def split(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[rows, shared + own, ...] as views of the same."""
        return rows[:, : self.shared], rows[:, self.shared :]


@dataclass(frozen=True, slots=True)
class Heads:
    """Heads of one kind: `number` that share keys in groups of `groups`, of `size` numbers each.

    folded: by position, then by group, [B, number / groups, T groups, size], what is shared in the first row alone, as
    `lab.training.fast.autograd_ops.Attended` reads queries; else [B, number, T, size]. turned: they take rotary positions.
    """

    number: int
    groups: int
    size: int
    folded: bool
    turned: bool = True

    @property
    def width(self) -> int:
        """Of all of them side by side."""
        return self.number * self.size

    def empty(self, like: torch.Tensor, rows: int, length: int) -> torch.Tensor:
        """Memory for rows of so many positions."""
        shape = (self.number // self.groups, length * self.groups) if self.folded else (self.number, length)
        return like.new_empty(rows, *shape, self.size)

    def by_position(self, x: torch.Tensor) -> torch.Tensor:
        """x, laid out as `empty` does, as a view [B, T, number / groups, groups, size]."""
        keyed = self.number // self.groups
        if self.folded:
            return x.view(x.shape[0], keyed, -1, self.groups, self.size).transpose(1, 2)
        return x.view(x.shape[0], keyed, self.groups, -1, self.size).permute(0, 3, 1, 2, 4)

    def sharing(self, shared: torch.Tensor) -> torch.Tensor:
        """Of what is shared, by rows, the rows that have it."""
        return shared[:1] if self.folded else shared

    def apart(self, x: torch.Tensor) -> torch.Tensor:
        """x [N, width] as a view [N, number / groups, groups, size]."""
        return x.view(x.shape[0], -1, self.groups, self.size)


class Spread(torch.autograd.Function):
    """x [1, N, widths of all heads] -> a tensor of rows for each kind: every row with its own copy of what is shared.

    angles: complex [N, S / 2], of modulus 1. Heads that are turned, the first kinds, are read as S / 2 complex numbers each and
    multiplied by them (RoPE, Su et al. 2021, 2104.09864, equation 13).
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, layout: Layout, kinds: tuple[Heads, ...], angles: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        ctx.layout, ctx.kinds = layout, kinds
        ctx.save_for_backward(angles)
        turned = torch.view_as_real(pairs(x[0, :, : turning(kinds)], angles) * angles[:, None]).flatten(1)
        outs, start = [], 0
        for kind in kinds:
            packed = (turned if kind.turned else x[0])[:, start : start + kind.width]
            outs.append(kind.empty(x, layout.rows, layout.length))
            (shared, own), (of_all, of_each) = layout.split(kind.by_position(outs[-1])), layout.parts(kind.apart(packed))
            kind.sharing(shared).copy_(of_all)
            own.copy_(of_each)
            start += kind.width
        return tuple(outs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        layout, kinds, (angles,) = ctx.layout, ctx.kinds, ctx.saved_tensors
        out, start = gradients[0].new_empty(len(angles), sum(kind.width for kind in kinds)), 0
        for kind, gradient in zip(kinds, gradients, strict=True):
            of_shared, of_own = layout.parts(kind.apart(out[:, start : start + kind.width]))
            shared, own = layout.split(kind.by_position(gradient))
            torch.sum(kind.sharing(shared), dim=0, keepdim=True, out=of_shared)
            of_own.copy_(own)
            start += kind.width
        pairs(out[:, : turning(kinds)], angles).mul_(angles.conj()[:, None])
        return out[None], None, None, None


def turning(kinds: tuple[Heads, ...]) -> int:
    """How many numbers of a token are turned: those of the first kinds."""
    return sum(kind.width for kind in kinds if kind.turned)


def pairs(x: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
    """x [N, heads S] as a complex view [N, heads, S / 2]."""
    return torch.view_as_complex(x.view(len(x), -1, angles.shape[-1], 2))


class Packed(torch.autograd.Function):
    """x, rows of heads of a kind -> [1, N, width], what is shared taken of the first row."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layout: Layout, kind: Heads) -> torch.Tensor:
        ctx.layout, ctx.kind = layout, kind
        out = x.new_empty(layout.shared + layout.rows * layout.own, kind.width)
        for target, part in zip(layout.parts(kind.apart(out)), layout.split(kind.by_position(x)), strict=True):
            target.copy_(part[: len(target)])
        return out[None]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        layout, kind = ctx.layout, ctx.kind
        shared, own = layout.parts(kind.apart(gradient[0]))
        out = kind.empty(gradient, layout.rows, layout.length)
        of_shared, of_own = layout.split(kind.by_position(out))
        of_shared[:1] = shared
        of_shared[1:] = 0
        of_own.copy_(own)
        return out, None, None


def pack(batch: Batch) -> tuple[Batch, Layout]:
    """A left-padded batch with answers as one packed row without a mask, and where its tokens stand."""
    tokens = batch.prompt
    rows, length = tokens.ids.shape
    assert tokens.mask is not None
    padding = (tokens.mask == 0).sum(dim=1, keepdim=True)
    places = torch.arange(length - 1, device=padding.device)
    source = (padding + places) % length  # what fills a row up is its last token, then its padding: no picture

    def packed(tensor: torch.Tensor) -> torch.Tensor:
        found = tensor.gather(-1, source.expand(*tensor.shape[:-1], -1))
        shared, own = found[..., 0, : batch.shared], found[..., batch.shared :].flatten(-2)
        return torch.cat((shared, own), dim=-1).unsqueeze(-2)

    row = Tokens(packed(tokens.ids), None, packed(tokens.positions), packed(tokens.types))
    answers = (torch.arange(length - batch.target.rows, length - 1, device=padding.device) - padding).clamp(min=0)
    return replace(batch, prompt=row), Layout(batch.shared, rows, length - 1 - batch.shared, answers)
