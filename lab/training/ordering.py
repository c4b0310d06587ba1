"""The order in which samples are learned from: a function of the seed, the epoch and the position alone. Nothing is kept between two epochs."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.data import Sampler

from lab.host.files import text_hash
from lab.records import Source

CHUNK = 4096
"""Places that are Python's own integers at once."""


class SeededOrder(Sampler[int]):
    """Every sample once an epoch, or as often as its source says, shuffled by (seed, epoch) alone; for as many epochs as are asked for.

    num_samples: of an epoch. start: how many of the first samples are left out, because a run before this one has seen them. views: each
    epoch counts on, so that a place says its epoch too (`lab.training.augmentation`). sources: whose rows the split has, in turn; () is one.
    """

    def __init__(
        self, num_samples: int, seed: int, epochs: int, start: int = 0, views: bool = False, sources: Sequence[Source] = ()
    ) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.epochs = epochs
        self.start = start
        self.views = views
        self.sources = tuple(sources)

    def __len__(self) -> int:
        return self.num_samples * self.epochs - self.start

    def __iter__(self) -> Iterator[int]:
        rows = sum(source.size for source in self.sources) or self.num_samples
        for epoch in range(self.start // max(self.num_samples, 1), self.epochs):
            order = epoch_order(self.num_samples, self.seed, epoch, self.sources)
            for at in range(max(0, self.start - epoch * self.num_samples), self.num_samples, CHUNK):
                yield from (order[at : at + CHUNK] + (epoch * rows if self.views else 0)).tolist()


def seen(sources: tuple[Source, ...], seed: int, number: int) -> list[int]:
    """How many of the first samples of an order are of each source."""
    epochs, rest = divmod(number, sum(places(sources)))
    ends = torch.tensor(list(itertools.accumulate(source.size for source in sources)))
    last = torch.bucketize(epoch_order(sum(places(sources)), seed, epochs, sources)[:rest], ends, right=True).bincount(minlength=len(sources))
    return [epochs * taken + more for taken, more in zip(places(sources), last.tolist(), strict=True)]


@functools.lru_cache(maxsize=2)
def epoch_order(num_samples: int, seed: int, epoch: int, sources: tuple[Source, ...] = ()) -> torch.Tensor:
    """The rows of an epoch in order, int64 [num_samples]."""
    order = torch.randperm(num_samples, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
    return torch.cat([order[:0], *rows_of(sources, seed, epoch)])[order] if sources else order


def rows_of(sources: Sequence[Source], seed: int, epoch: int) -> Iterator[torch.Tensor]:
    """The rows of each source in an epoch: all of them as often as goes evenly, and those whose turn the rest is."""
    starts = itertools.accumulate((source.size for source in sources), initial=0)
    for source, first, number in zip(sources, starts, places(sources), strict=False):
        if number:
            times, rest = divmod(number, source.size)
            yield torch.cat([torch.arange(source.size).repeat(times), *turns(source, seed, epoch * rest, rest)]) + first


def turns(source: Source, seed: int, start: int, number: int) -> Iterator[torch.Tensor]:
    """The next rows of a walk through a source from a position on: each row once, in an order of that pass, before any comes again."""
    while number:
        walk, at = divmod(start, source.size)
        drawn = int(text_hash(str(seed), source.name, str(walk), digits=15), 16)
        taken = torch.randperm(source.size, generator=torch.Generator().manual_seed(drawn))[at : at + number]
        yield taken
        start, number = start + len(taken), number - len(taken)


def places(sources: Sequence[Source]) -> list[int]:
    """How many samples of an epoch are of each source.

    Weights share out as many as there are rows; `Source.epochs` is then the most that a row is seen, and an epoch is shorter by what that takes.
    """
    rows, weights = sum(source.size for source in sources), sum(source.weight or 0.0 for source in sources if source.size)
    if not weights:
        return [round(source.size * (1.0 if source.epochs is None else source.epochs)) for source in sources]
    shares = [round(rows * (source.weight or 0.0) / weights) if source.size else 0 for source in sources]
    most = [number if source.epochs is None else round(source.size * source.epochs) for source, number in zip(sources, shares, strict=True)]
    return list(map(min, shares, most))


@dataclass(frozen=True)
class Realised:
    """What training sees of a source. share: of an epoch. times: that each of its rows is seen in an epoch."""

    name: str
    rows: int
    places: int
    share: float
    times: float


def realised(sources: Sequence[Source]) -> list[Realised]:
    """The mixture as it is learned from, which weights, caps and epochs come to."""
    numbers = places(sources)
    total = sum(numbers)
    return [
        Realised(source.name, source.size, number, number / total if total else 0.0, number / source.size if source.size else 0.0)
        for source, number in zip(sources, numbers, strict=True)
    ]


def facts(sources: tuple[Source, ...], seed: int, number: int) -> list[dict[str, Any]]:
    """The mixture as plain values, and of so many samples of an order how many were of each source, `seen`."""
    known = zip(realised(sources), seen(sources, seed, number), strict=True) if sources else ()
    return [{**asdict(source), "seen": times} for source, times in known]
