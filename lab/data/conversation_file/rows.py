"""Rows of indexed manifests as samples, each made when it is asked for; a split of many of them, which holds none."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lab.data import images, video
from lab.data.conversation_file.index import Index, media_sources, number_of
from lab.data.conversation_file.media import Medium as Named
from lab.data.conversation_file.record import Conversation
from lab.data.faults import BadRecord
from lab.data.tables import Table, Tables
from lab.data.verified import Stamp
from lab.host.files import values_hash
from lab.records import Clip, Medium, Picture, Sample, Sampling, Text, Turn


class Media:
    """Pictures of tables and files side by side; see `lab.data.images.Tables`."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self.names = {table.name for table in tables}
        self.tables = Tables(tables)

    def inside(self, source: str) -> bool:
        """Whether a picture lies in a table."""
        return source.rpartition("#")[0] in self.names

    def stamp(self, source: str) -> Stamp:
        """Size [bytes] and mtime [ns] of the file, or of the table that holds the picture."""
        return self.tables.stamp(source) if self.inside(source) else images.stamp(Picture(source))

    def fetch(self, picture: Medium) -> Medium:
        """The picture with its bytes, if it lies in a table."""
        return self.tables.fetch(picture) if self.inside(picture.source) else picture


@dataclass(frozen=True)
class Manifests:
    """Several manifests, their rows numbered through. names: of the manifests, no two alike. starts: the first row of each, and the end.

    groups: uint64 [rows], equal for rows that share a medium. repeated: ids by their 64 bits that stand more than once, sorted.
    every: all answers of a conversation are learned in one sample, not the one alone that it ends with.
    """

    indices: Sequence[Index]
    names: Sequence[str]
    starts: np.ndarray
    groups: np.ndarray
    repeated: np.ndarray
    sampling: Sampling
    every: bool

    def __len__(self) -> int:
        return int(self.starts[-1])

    @functools.cached_property
    def media(self) -> Media | None:
        """Where pictures lie that are in tables; None where all are files."""
        tables = [table for index in self.indices if (table := index.file.tables()) is not None]
        return Media(tables) if any(table.images for table in tables) else None

    def at(self, row: int) -> tuple[int, int]:
        """Number of a row's manifest, and the row in it."""
        number = int(self.starts.searchsorted(row, side="right")) - 1
        return number, row - int(self.starts[number])

    def source(self, row: int) -> str:
        """File and line of a row."""
        number, own = self.at(row)
        return self.indices[number].source(own)

    def name(self, row: int, conversation: Conversation) -> str:
        """The id of a row; where it has none, or another has it too, with its place."""
        number, own = self.at(row)
        place = f"{self.names[number]}:{int(self.indices[number].columns['line'][own])}"
        if conversation.name is None:
            return place
        known = number_of(conversation.name.encode())
        at = int(self.repeated.searchsorted(np.uint64(known)))
        twice = at < len(self.repeated) and int(self.repeated[at]) == known
        return f"{conversation.name} ({place})" if twice else conversation.name

    def sample(self, row: int, place: int = -1) -> Sample:
        """A row, its media not read. place: of the answer that is asked for, without what follows it; -1: the last.

        `subset` is its manifest, where there are several.
        """
        number, own = self.at(row)
        index = self.indices[number]
        conversation = index.conversation(own)
        ends = [end for end, (role, _) in enumerate(conversation.turns) if role == "assistant"]
        *turns, (_, answer) = conversation.turns[: ends[place] + 1]
        said = tuple(Turn(role, parts, self.every and role == "assistant") for role, parts in turns)
        name = self.name(row, conversation) + (f" (answer {place + 1} of {len(ends)})" if place >= 0 and len(ends) > 1 else "")
        media = itertools.islice(self.shown(index, own, conversation), sum(isinstance(part, int) for _, parts in turns for part in parts))
        return Sample(
            name, "".join(part for part in turns[-1][1] if isinstance(part, str)).strip(), tuple(media),
            Text(("".join(map(str, answer)),)), f"{int(self.groups[row]):016x}", name, self.names[number] if len(self.names) > 1 else None, said,
        )  # fmt: skip

    def shown(self, index: Index, own: int, conversation: Conversation) -> Iterator[Medium]:
        """The media of a row. Raises `BadRecord`."""
        offset = int(index.columns["offset"][own])
        return media_of(media_sources(index.file, index.folder, index.source(own), offset, conversation.media), lambda: self.sampling)


def media_of(sources: Iterable[tuple[Named, str, tuple[str, ...]]], sampling: Callable[[], Sampling]) -> Iterator[Medium]:
    """What `media_sources` gives as pictures and clips. sampling: how these are sampled. Raises `BadRecord`."""
    for one, source, frames in sources:
        if one.kind == "image":
            yield Picture(source)
        elif one.frames:
            yield video.listed(source, frames, sampling(), one.fps, one.times or None)
        else:
            yield Clip(source, sampling=sampling())


@dataclass(frozen=True)
class Asked:
    """Samples of a part: rows of manifests, int64 in order, and of each which answer it ends with, -1 the last."""

    rows: np.ndarray
    places: np.ndarray

    @classmethod
    def last(cls, rows: np.ndarray) -> Asked:
        """Each row asked for its last answer."""
        return cls(rows, np.full(len(rows), -1, np.int32))

    @classmethod
    def each(cls, manifests: Manifests, rows: np.ndarray) -> Asked:
        """Each row once for every answer, in order."""
        answers = np.concatenate([index.columns["answers"] for index in manifests.indices])[rows]
        ends = np.cumsum(answers)
        return cls(np.repeat(rows, answers), (np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - answers, answers)).astype(np.int32))

    def __len__(self) -> int:
        return len(self.rows)


class Ids(Sequence[str]):
    """The ids of a split, each read when it is asked for."""

    def __init__(self, split: ManyRows) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        return self.split.index(index).sample_id


class ManyRows:
    """A `Split` of rows that holds their numbers alone, 8 bytes each.

    digest: of all samples, in place of reading them (`lab.data.fingerprint`).
    """

    def __init__(self, manifests: Manifests, asked: Asked) -> None:
        self.manifests, rows = manifests, asked.rows
        self.rows, self.places = rows.astype(np.int32), asked.places
        contents = [index.columns["digest"] for index in manifests.indices]
        numbers, own = manifests.starts.searchsorted(rows, side="right") - 1, rows
        known = np.empty(len(rows), np.uint64)
        for number, digests in enumerate(contents):
            here = numbers == number
            known[here] = digests[own[here] - manifests.starts[number]]
        places = [number_of(self.places.tobytes())] if (self.places >= 0).any() else []
        self.digest = values_hash([number_of(known.tobytes()), len(rows), manifests.every, repr(manifests.sampling), *places], 64)

    @property
    def sample_ids(self) -> Sequence[str]:
        return Ids(self)

    def kept(self, places: Sequence[int]) -> ManyRows:
        """Some of the rows, by their places here."""
        chosen = np.asarray(places, np.int64)
        return ManyRows(self.manifests, Asked(self.rows[chosen], self.places[chosen]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        sample = self.index(index)
        media = self.manifests.media
        if media is None:
            return sample
        return replace(sample, images=tuple(map(media.fetch, sample.images)))

    def index(self, index: int) -> Sample:
        return self.manifests.sample(int(self.rows[index]), int(self.places[index]))


def why_bad(shown: Sequence[Medium], media: Media | None) -> str | None:
    """Why one of some media cannot be used, by a look at each of them; None if all can."""
    try:
        for one in shown:
            if isinstance(one, Clip):
                video.footage(one)
            else:
                images.decode(media.fetch(one) if media else one)
    except BadRecord as fault:
        return str(fault)
    return None
