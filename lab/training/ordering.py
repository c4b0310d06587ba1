"""The order in which samples are learned from: a function of the seed, the epoch and the position alone. Nothing is kept between two epochs."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.data import Sampler

from lab.host.files import text_hash
from lab.records import Source

CHUNK = 4096
"""Places that are Python's own integers at once."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Questions of one picture that are learned from one after another (`data.order=by_image`).

    pictures: int64 [rows], equal for rows that show the same. most: rows of one block.
    """

    pictures: torch.Tensor
    most: int


class SeededOrder(Sampler[int]):
    """Every sample once an epoch, or as often as its source says, shuffled by (seed, epoch) alone; for as many epochs as are asked for.

    num_samples: of an epoch. start: how many of the first samples are left out, because a run before this one has seen them. views: each
    epoch counts on, so that a place says its epoch too (`lab.training.augmentation`). sources: whose rows the split has, in turn; () is one.
    blocks: that are shuffled in place of samples.
    """

    def __init__(
        self, num_samples: int, seed: int, epochs: int, start: int = 0, views: bool = False, sources: Sequence[Source] = (),
        blocks: Blocks | None = None,
    ) -> None:
        self.num_samples = num_samples
        self.seed = seed
        self.epochs = epochs
        self.start = start
        self.views = views
        self.sources = tuple(sources)
        self.blocks = blocks

    def __len__(self) -> int:
        return self.num_samples * self.epochs - self.start

    def __iter__(self) -> Iterator[int]:
        rows = sum(source.size for source in self.sources) or self.num_samples
        for epoch in range(self.start // max(self.num_samples, 1), self.epochs):
            order = epoch_order(self.num_samples, self.seed, epoch, self.sources, self.blocks)
            for at in range(max(0, self.start - epoch * self.num_samples), self.num_samples, CHUNK):
                yield from (order[at : at + CHUNK] + (epoch * rows if self.views else 0)).tolist()


def seen(sources: tuple[Source, ...], seed: int, number: int, blocks: Blocks | None = None) -> list[int]:
    """How many of the first samples of an order are of each source."""
    epochs, rest = divmod(number, sum(places(sources)))
    ends = torch.tensor(list(itertools.accumulate(source.size for source in sources)))
    last = torch.bucketize(epoch_order(sum(places(sources)), seed, epochs, sources, blocks)[:rest], ends, right=True).bincount(minlength=len(sources))
    return [epochs * taken + more for taken, more in zip(places(sources), last.tolist(), strict=True)]


@functools.lru_cache(maxsize=2)
def epoch_order(
    num_samples: int, seed: int, epoch: int, sources: tuple[Source, ...] = (), blocks: Blocks | None = None
) -> torch.Tensor:
    """The rows of an epoch in order, int64 [num_samples]."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(num_samples, generator=generator)
    order = torch.cat([order[:0], *rows_of(sources, seed, epoch)])[order] if sources else order
    return order if blocks is None else in_blocks(order, blocks, generator)


def in_blocks(order: torch.Tensor, blocks: Blocks, generator: torch.Generator) -> torch.Tensor:
    """Rows in an order, as shuffled blocks: which of a picture's rows a block has, and how they follow each other, is as in that order."""
    pictures = blocks.pictures[order]
    together = pictures.argsort(stable=True)
    counts = pictures[together].unique_consecutive(return_counts=True)[1]
    among = torch.arange(len(order)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    block = (among % blocks.most == 0).cumsum(0) - 1
    place = torch.randperm(int((among % blocks.most == 0).sum()), generator=generator)[block]
    return order[together][place.argsort(stable=True)]


def hash_by_step(order: Iterable[int], sample_ids: Sequence[str], samples_per_step: int) -> str:
    """sha256 of the ids of the samples in an order, those of an optimizer step in one line."""
    digest, rows = hashlib.sha256(), iter(order)
    while step := list(itertools.islice(rows, samples_per_step)):
        digest.update(("\t".join(sample_ids[row] for row in step) + "\n").encode())
    return digest.hexdigest()


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


def facts(sources: tuple[Source, ...], seed: int, number: int, blocks: Blocks | None = None) -> list[dict[str, Any]]:
    """The mixture as plain values, and of so many samples of an order how many were of each source, `seen`."""
    known = zip(realised(sources), seen(sources, seed, number, blocks), strict=True) if sources else ()
    return [{**asdict(source), "seen": times} for source, times in known]
