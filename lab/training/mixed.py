"""Examples of a mixture: those of its parts in turn, each encoded with its part's own prompt and answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from lab import data
from lab.data.mixed import Mixed
from lab.errors import DataError
from lab.model.encoded import Example, TokenizedPrompt
from lab.records import ExampleSize, Medium, Part, Sample, Source
from lab.training.examples import Examples, Shown
from lab.training.ordering import places


class MixedExamples(Examples):
    """Examples of several splits as those of one (`lab.data.mixed.Mixed`). sources: as of `Splits`, of all of them in turn."""

    split: Mixed

    def __init__(self, names: Sequence[str], members: Sequence[Examples], sources: tuple[Source, ...]) -> None:
        super().__init__(Mixed(names, [member.split for member in members]), members[0].encoder, sources)
        self.members = tuple(members)

    @property
    def alike(self) -> int:
        return self.members[0].alike

    def at(self, index: int) -> tuple[Examples, int]:
        """The examples that a row is of, and its row there."""
        member, row = self.split.at(index)
        return self.members[member], row

    @property
    def leaves(self) -> tuple[Examples, ...]:
        return tuple(leaf for member in self.members for leaf in member.leaves)

    @cached_property
    def longest(self) -> ExampleSize:
        return max((member.longest for member in self.members), key=lambda size: (size.length, size.grids))

    @cached_property
    def asked(self) -> str:
        return hashlib.sha256("".join([data.fingerprint(self.split), *(member.asked for member in self.members)]).encode()).hexdigest()

    @cached_property
    def shown(self) -> Shown | None:
        known = [shown for member in self.members if (shown := member.shown) is not None]
        if len(known) < len(self.members):
            return None
        digest = hashlib.sha256("".join(shown.digest for shown in known).encode()).hexdigest()
        return Shown(digest, max(shown.most for shown in known), all(shown.untouched for shown in known))

    def image_keys(self, index: int) -> tuple[bytes, ...]:
        member, row = self.at(index)
        return member.image_keys(row)

    def sample(self, index: int, read: bool = False) -> Sample:
        member, row = self.at(index)
        return replace(member.sample(row, read), sample_id=self.split.sample_ids[index])

    def pictured(self, index: int) -> tuple[bytes | Medium, ...]:
        member, row = self.at(index)
        return member.pictured(row)

    def text(self, index: int) -> TokenizedPrompt:
        member, row = self.at(index)
        return member.text(row)

    def __getitem__(self, index: int) -> Example:
        member, row = self.at(index)
        return replace(member[row], sample_id=self.split.sample_ids[index])


def joined(parts: Sequence[Part], made: Sequence[Mapping[str, Examples]]) -> dict[str, Examples]:
    """The examples of a mixture by split: `train` of all parts, the others of the first, and those of each other part as `<part>.<split>`.

    made: of each part by split. Raises `DataError` for a part that nothing can be learned from.
    """
    found: dict[str, Examples] = {}
    for number, (part, examples) in enumerate(zip(parts, made, strict=True)):
        found |= {f"{part.name}.{name}" if number else name: one for name, one in examples.items() if name != "train"}
    if "train" in made[0]:
        for part in parts:
            data.require_split(part.splits, "train")
        sources = tuple(sources_of(parts))
        if unseen := [source.name for source, number in zip(sources, places(sources), strict=True) if source.size and not number]:
            raise DataError(f"data.parts: an epoch would take no sample of {unseen[0]}. Raise its weight, epochs or cap, or leave it out.")
        found["train"] = MixedExamples([part.name for part in parts], [examples["train"] for examples in made], sources)
    return found


def sources_of(parts: Sequence[Part]) -> Iterator[Source]:
    """The sources of a mixture: its parts, or the sources that a part has itself, in the shares that they have there."""
    for part in parts:
        own = part.splits.sources or (Source(part.name, len(part.splits.train)),)
        numbers = places(own)
        samples = max(sum(numbers), 1)
        most = passes_of(part, samples)
        for source, number in zip(own, numbers, strict=True):
            weight = None if part.weight is None else part.weight * number / samples
            passes = None if most is None else most * number / max(source.size, 1)
            yield Source(f"{part.name}/{source.name}" if part.splits.sources else part.name, source.size, weight, passes)


def passes_of(part: Part, samples: int) -> float | None:
    """Passes over so many samples of a part in an epoch; beside a weight the most of them, None: any."""
    passes = part.epochs or (1.0 if part.weight is None else None)
    limits = [limit for limit in (passes, None if part.cap is None else part.cap / samples) if limit is not None]
    return min(limits, default=None)
