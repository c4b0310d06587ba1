"""The rows of a file of questions as records: pictures, texts and lists of texts as its columns hold them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab import paths
from lab.config import DataDial
from lab.data import manifest, records_file
from lab.data.faults import BadRecord, shown
from lab.data.manifest import Row
from lab.data.records_file import RecordsFile
from lab.errors import ConfigError
from lab.records import Clip, Medium, Picture, Turn

PART_OF = {
    "train": "train", "training": "train", "minival": "minival", "val": "minival", "valid": "minival", "validation": "minival",
    "dev": "dev", "test": "dev", "testing": "dev",
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """One row. part: of a given split, or None. choices: () where there are none. turns: of a conversation, as of `Sample`."""

    source: str
    name: str
    question: str
    pictures: tuple[Medium, ...]
    answers: tuple[str, ...]
    choices: tuple[str, ...]
    group: str | None
    subset: str | None
    part: str | None
    turns: tuple[Turn, ...] = ()


def records_of(
    file: RecordsFile, names: Mapping[str, str], dial: DataDial, clip: Callable[[str], Clip] | None = None
) -> tuple[list[Record], list[BadRecord]]:
    """The records of the good rows, and what is wrong with the others. clip: of a file; where given, clips are read, answer and split not."""
    if dial.root and file.tables:
        raise ConfigError(f"data.root={dial.root}: {dial.path} holds its pictures itself; leave it out.")
    path = Path(str(dial.path))
    folder = paths.path(dial.root, "data.root") if dial.root else path if path.is_dir() else path.parent
    root = manifest.Root(folder)
    records: list[Record] = []
    faults: list[BadRecord] = []
    seen: dict[str, str] = {}
    for row in file.rows:
        try:
            record = record_of(row, names, root, file.splits.get(row.source), clip)
            if record.name in seen:
                row.fail(names["id"], f"{shown(record.name)} is given a second time; first in {seen[record.name]}")
            seen[record.name] = row.source
            records.append(record)
        except BadRecord as fault:
            faults.append(fault)
    return records, faults


def record_of(row: Row, names: Mapping[str, str], root: manifest.Root, split: str | None, clip: Callable[[str], Clip] | None) -> Record:
    """One record. split: of the file's own. clip: as of `records_of`. Raises `BadRecord` naming place and column."""
    answered = clip is None
    given = (text_or_none(row, names["split"]) or split) if answered else None
    if given and given.lower() not in PART_OF:
        row.fail(names["split"], f"{shown(given)} is given; legal: {', '.join(PART_OF)}")
    choices = texts(row, names["choices"])
    if len(set(choices)) < len(choices) or len(choices) == 1:
        row.fail(names["choices"], f"{shown(list(choices))} is given; two or more that differ are legal")
    return Record(
        source=row.source,
        name=text_or_none(row, names["id"]) or Path(row.source).name,
        question=text_or_none(row, names["question"]) or row.fail(names["question"], "it is empty"),
        pictures=tuple(media_of(row, names, root, clip)),
        answers=one_or_several(row, names["answer"], names["answers"]) if answered else (),
        choices=choices,
        group=text_or_none(row, names["group"]),
        subset=text_or_none(row, names["subset"]),
        part=PART_OF[given.lower()] if given else None,
    )


def media_of(row: Row, names: Mapping[str, str], root: manifest.Root, clip: Callable[[str], Clip] | None) -> Iterator[Medium]:
    """The pictures of a row, then its clips; at least one. Raises `BadRecord`."""
    clips = clip is not None and any(row.has(names[column]) for column in ("video", "videos"))
    if not clips or any(row.has(names[column]) for column in ("image", "images")):
        for each in one_or_several(row, names["image"], names["images"]):
            yield each if isinstance(each, Picture) else Picture(str(root.file(each, row.source)))
    if clip is not None and clips:
        for each in one_or_several(row, names["video"], names["videos"]):
            yield clip(str(root.file(each, row.source)))


def text_or_none(row: Row, key: str) -> str | None:
    """A single text."""
    return row.text(key) if row.has(key) else None


def one_or_several(row: Row, one: str, several: str) -> tuple:
    """What either column of a pair holds: pictures, or texts of at least one. A list may stand in both; `one` is never taken apart."""
    given = [key for key in (one, several) if row.has(key)]
    if len(given) != 1:
        row.fail(one, f"{several!r} is given too; one of them is legal" if given else "it is empty")
    value = row.fields[given[0]]
    return (value,) if given == [one] and isinstance(value, str) else texts(row, given[0])


def texts(row: Row, key: str) -> tuple:
    """A list, or a text whose parts a bar divides, or a JSON list in a text; () where the cell is empty."""
    value = row.fields.get(key)
    if isinstance(value, str) and value.startswith("["):
        try:
            value = records_file.cell(row.source, key, json.loads(value))
        except ValueError as error:
            row.fail(key, f"{shown(value)} is given and is no JSON list ({error})")
    parts = [part.strip() for part in value.split("|")] if isinstance(value, str) else value or []
    if not all(parts):
        row.fail(key, f"{shown(value)} is given; texts that are not blank are legal, as a|b|c or as a list")
    return tuple(parts)
