"""The samples of several splits as one split, in turn. Light."""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from typing import overload

from lab.records import Sample, Split


class Mixed:
    """Splits one after another. names: of each, before the ids of its samples, so that all are distinct."""

    def __init__(self, names: Sequence[str], splits: Sequence[Split]) -> None:
        self.names, self.splits = tuple(names), tuple(splits)
        self.ends = list(itertools.accumulate(map(len, splits)))
        self.sample_ids = Ids(self)

    def __len__(self) -> int:
        return self.ends[-1]

    def at(self, index: int) -> tuple[int, int]:
        """The split that a row is of, and its row there."""
        index = range(len(self))[index]
        split = bisect_right(self.ends, index)
        return split, index - (self.ends[split - 1] if split else 0)

    def id_of(self, split: int, sample_id: str) -> str:
        """The id of a sample of one of the splits."""
        return f"{self.names[split]}/{sample_id}"

    def __getitem__(self, index: int) -> Sample:
        split, row = self.at(index)
        return self.named(split, self.splits[split][row])

    def index(self, index: int) -> Sample:
        split, row = self.at(index)
        return self.named(split, self.splits[split].index(row))

    def named(self, split: int, sample: Sample) -> Sample:
        return replace(sample, sample_id=self.id_of(split, sample.sample_id))


class Ids(Sequence[str]):
    """The ids of mixed samples, each made when it is asked for."""

    def __init__(self, of: Mixed) -> None:
        self.of = of

    def __len__(self) -> int:
        return len(self.of)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        split, row = self.of.at(index)
        return self.of.id_of(split, self.of.splits[split].sample_ids[row])
