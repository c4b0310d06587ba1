"""Samples of one forward as one row that holds what several begin with once: the turns before the first image, and of trees the images.

    left-padded  [B, T]          pad pad a b c 1 2 3 4        packed  [1, N]     a b c | 1 2 3 | 5 6 7 8
                                 a b c 5 6 7 8 9

    trees        a b c X X | 1 2 | 3 4 5, a b c Y 6 7         packed  [1, N]     a b c | X X | Y 6 7 | 1 2 | 3 4 5

What acts on each token alone (norms, projections, feed-forward) then does so once for shared tokens, and nothing is padding. Attention,
which does not, reads rows (`lab.training.fast.heads`): a level of roots, and one of the branches that go on from some of them. The last
token of a sample predicts nothing and is left out.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch

from lab.records import Batch, Tokens
from lab.training.fast.heads import HeadIndex, Level, index

Numbers = Sequence[int]


@dataclass(frozen=True, slots=True)
class Layout:
    """How the tokens of a packed batch attend.

    tokens: of the packed row. levels: rows that attend together. answers: int64 [n], the tokens whose logits the loss reads.
    last: samples whole, in which answers ask, by their place in `answers`; reads: bool [samples, 1, A, T], which positions each reads.
    """

    tokens: int
    levels: tuple[Level, ...]
    answers: torch.Tensor
    last: Level
    reads: torch.Tensor
    made: dict[tuple[int, int, bool], HeadIndex] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """The most positions of a row."""
        return max(level.tokens.shape[1] for level in self.levels)

    def index(self, queries: int, keys: int, folded: bool) -> HeadIndex:
        """Where so many heads stand in the levels; made for the first block, used by all."""
        if (queries, keys, folded) not in self.made:
            self.made[queries, keys, folded] = index(self.levels, self.tokens, queries, keys, folded)
        return self.made[queries, keys, folded]

    def index_of_last(self, queries: int, keys: int) -> tuple[HeadIndex, HeadIndex]:
        """Where the heads of the answers' queries stand, and those of all keys."""
        asking, standing = replace(self.last, tokens=self.last.tokens[:, :0]), replace(self.last, asked=self.last.asked[:, :0])
        return index([asking], len(self.answers), queries, 0, False), index([standing], self.tokens, 0, keys, False)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Tokens of a batch that stand one after another, by their places in its rows laid end to end.

    trunk: the number of the stretch that these go on from; None: from what begins all. asked: of a sample's last stretch, the places whose
    logits the loss reads; () of what several samples share, and where nothing is learned.
    """

    places: range
    trunk: int | None = None
    asked: tuple[int, ...] = ()


def pack(batch: Batch) -> tuple[Batch, Layout]:
    """A left-padded batch with answers as one packed row, and how it attends; its answers are [rows, answers]."""
    rows, length = batch.prompt.ids.shape
    assert batch.prompt.mask is not None
    padding = (batch.prompt.mask == 0).sum(dim=1).tolist()
    found = []
    for row, padded in enumerate(padding):
        start, stop = row * length + padded, (row + 1) * length - 1
        asked = tuple(max(start, place) for place in range(stop + 1 - batch.target.rows, stop))  # of fewer the first
        found.append(Stretch(range(start + batch.shared, stop), asked=asked))
    return packed(batch, range(padding[0], padding[0] + batch.shared), found)


def pack_trees(batch: Batch) -> tuple[Batch, Layout]:
    """A row of trees (`lab.model.trees`) without a mask, and how it attends; its answers are what predicts the labels, in their order."""
    assert batch.target.places is not None
    places = batch.target.places.tolist()
    starts = list(itertools.accumulate(map(sum, batch.prompt.branches), initial=0))
    common = alike(batch, starts, places)
    found: list[Stretch] = []
    for start, (shared, *branches) in zip(starts, batch.prompt.branches, strict=False):
        trunk, first = (len(found) if shared else None), start + shared
        found += [Stretch(range(start + common, first))] if shared else []
        for stop in itertools.accumulate(branches, initial=first):
            asked = tuple(place for place in places if first <= place < stop)
            found.append(Stretch(range(first if shared else start + common, stop), trunk, asked))
            first = stop
    return packed(batch, range(common), found)


def alike(batch: Batch, starts: Numbers, places: Numbers) -> int:
    """How many tokens begin all trees of a row alike, before any image and any token that predicts a label, and inside every trunk."""
    ids, types, heads = batch.prompt.ids[0].tolist(), batch.prompt.types[0].tolist(), []
    for (start, stop), (shared, *_) in zip(itertools.pairwise(starts), batch.prompt.branches, strict=True):
        most = start + shared if shared else next((place for place in places if start <= place < stop), stop - 1)
        heads.append(ids[start : next((at for at in range(start, most) if types[at]), most)])
    return next((at for at, each in enumerate(zip(*heads, strict=False)) if len(set(each)) > 1), min(map(len, heads)))


def packed(batch: Batch, begins: range, stretches: Sequence[Stretch]) -> tuple[Batch, Layout]:
    """What begins all samples, then all stretches, as a row."""
    ends = itertools.accumulate((len(stretch.places) for stretch in stretches), initial=len(begins))
    own = [range(*each) for each in itertools.pairwise(ends)]
    device, first = batch.prompt.ids.device, range(len(begins))
    roots = [at for at, stretch in zip(own, stretches, strict=True) if stretch.trunk is None]
    branches = [(own[stretch.trunk], at) for at, stretch in zip(own, stretches, strict=True) if stretch.trunk is not None]
    taken = torch.from_numpy(concatenated([begins, *(stretch.places for stretch in stretches)])).to(device)
    given = (batch.prompt.ids, batch.prompt.positions, batch.prompt.types)
    ids, positions, types = (x.flatten(-2).index_select(-1, taken).unsqueeze(-2) for x in given)
    levels = (of_roots(first, roots, device), *([of_branches(first, branches, device)] if branches else []))
    return replace(batch, prompt=Tokens(ids, None, positions, types)), Layout(len(taken), levels, *whole(first, own, stretches, device))


def of_roots(first: range, own: Sequence[range], device: torch.device) -> Level:
    """Rows of what begins all, which asks in the first of them, and of what each has by itself."""
    tokens = filled_up([concatenated([first, at]) for at in own], 0, device)
    asked = filled_up([concatenated([first, at]) for at in own], -1, device)
    asked[1:, : len(first)] = -1
    return Level(tokens, asked, len(first))


def of_branches(first: range, branches: Sequence[tuple[range, range]], device: torch.device) -> Level:
    """Rows of trunks and of what each goes on with, which alone asks."""
    trunks = filled_up([concatenated([first, trunk]) for trunk, _ in branches], 0, device)
    own = filled_up([at for _, at in branches], -1, device)
    lengths = torch.tensor([len(first) + len(trunk) for trunk, _ in branches], device=device)
    filled = torch.arange(trunks.shape[1], device=device) >= lengths[:, None]
    return Level(torch.cat([trunks, own.clamp(min=0)], dim=1), own, 0, filled if filled.any() else None)


def whole(first: range, own: Sequence[range], stretches: Sequence[Stretch], device: torch.device) -> tuple[torch.Tensor, Level, torch.Tensor]:
    """`answers`, `last` and `reads` of a `Layout`."""
    answers, tokens, asked, at = [], [], [], []
    for stretch, mine in zip(stretches, own, strict=True):
        if stretch.asked:
            before = [first] if stretch.trunk is None else [first, own[stretch.trunk]]
            offsets = [place - stretch.places.start for place in stretch.asked]
            asked.append(range(len(answers), len(answers) + len(offsets)))
            answers += [mine.start + offset for offset in offsets]
            at.append([sum(map(len, before)) + offset for offset in offsets])
            tokens.append(concatenated([*before, mine]))
    last = Level(filled_up(tokens, 0, device), filled_up(asked, -1, device))
    reads = torch.arange(last.tokens.shape[1], device=device) <= filled_up(at, 0, device)[:, None, :, None]
    return torch.tensor(answers, device=device), last, reads


def concatenated(parts: Sequence[range]) -> np.ndarray:
    """Numbers one after another, int64."""
    return np.concatenate([np.arange(part.start, part.stop) for part in parts])


def filled_up(rows: Sequence[Numbers | np.ndarray], value: int, device: torch.device) -> torch.Tensor:
    """Numbers as int64 [rows, the most of them], a value behind those of shorter rows."""
    found = np.full((len(rows), max(map(len, rows))), value, dtype=np.int64)
    for to, row in zip(found, rows, strict=True):
        to[: len(row)] = row
    return torch.from_numpy(found).to(device)
