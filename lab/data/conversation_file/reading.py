"""The records of a manifest one after the other, each with its place; any of them again by its place, without those before it.

    .jsonl, .ndjson     a record a line            place: its bytes in the mapped file
    .json               a list of records, or a record a line
    .parquet            a record a row             place: the row, in Arrow's mapped copy under `tracking.cache_dir`
"""

from __future__ import annotations

import itertools
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from lab.data import manifest, tables
from lab.data.conversation_file import json_list
from lab.data.faults import BadRecord
from lab.data.files import mark_length, open_regular
from lab.data.manifest import BLANK, MAX_RECORD
from lab.errors import ConfigError, DataError
from lab.paths import absent

DECODER = msgspec.json.Decoder()
JSON = (".json", ".jsonl", ".ndjson")
ENDINGS = (*JSON, ".parquet")
STRETCH = 16 * 1024 * 1024
"""Bytes of JSON Lines that one process reads before it is given others."""
ROWS = 1000
"""Rows of a table that are held at once."""


class Found(NamedTuple):
    """A record where it stands. offset, length: bytes, or the row of a table and 0. line: from 1, or the row from 0.

    data: what a digest is of. value: the object, or why there is none. held: by column, pictures of a table.
    """

    offset: int
    length: int
    line: int
    data: bytes
    value: dict[str, Any] | BadRecord
    held: Mapping[str, int] = {}


class Stretch(NamedTuple):
    """Bytes of a file that hold whole records. of_list: they are a piece of a JSON list."""

    start: int
    end: int
    of_list: bool = False


class JsonFile:
    """A file of JSON, mapped. keys: of which none may stand twice in a record."""

    def __init__(self, path: str, keys: Iterable[str]) -> None:
        self.path = path
        self.marks = {key: json.dumps(key).encode() for key in keys}
        self.mapped: mmap.mmap | None = None
        self.counted = 0

    def stretches(self) -> list[Stretch]:
        """The file in pieces that may be read apart. Raises `DataError` where it cannot be read, or a list is none any more."""
        try:
            opened = open_regular(self.path)
        except (OSError, ValueError) as error:
            raise DataError(f"data.sources: {self.path} cannot be read ({error}).") from None
        with opened as file:
            head = file.read(4096)
            try:
                first = mark_length(head)
            except ValueError as error:
                raise DataError(f"{self.path}: {error}.") from None
            size = file.seek(0, os.SEEK_END)
            if head[first:].lstrip(BLANK.encode()).startswith(b"["):
                file.seek(first)
                return [Stretch(start, end, True) for start, end in json_list.pieces(self.path, file)]
            ends = [first]
            while ends[-1] < size:
                file.seek(ends[-1] + STRETCH)
                while (line := file.readline(MAX_RECORD)) and not line.endswith(b"\n"):
                    pass
                ends.append(min(file.tell(), size))
        return [Stretch(start, end) for start, end in itertools.pairwise(ends)]

    def found(self, stretch: Stretch) -> Iterator[Found]:
        """Every record of a stretch, lines numbered from its own first; `counted` is then how many it has."""
        with open_regular(self.path) as file:
            file.seek(stretch.start)
            yield from self.elements(stretch.start, file.read(stretch.end - stretch.start)) if stretch.of_list else self.lines(file, stretch.end)

    def lines(self, file: BinaryIO, end: int) -> Iterator[Found]:
        """Of JSON Lines."""
        offset, number = file.tell(), 0
        while offset < end and (line := file.readline(MAX_RECORD + 1)):
            number += 1
            length = len(line)
            if length > MAX_RECORD:
                fault = BadRecord(self.place(number), f"the line is longer than {MAX_RECORD} bytes")
                while line and not line.endswith(b"\n"):
                    line = file.readline(MAX_RECORD)
                    length += len(line)
                yield Found(offset, length, number, b"", fault)
            elif not line.isspace():
                yield Found(offset, length, number, line, self.value(number, line))
            offset += length
        self.counted = number

    def value(self, line: int, data: bytes) -> dict[str, Any] | BadRecord:
        """The object in some bytes, or what is wrong with them; where a key may stand twice, by the decoder that looks at every pair."""
        try:
            value = DECODER.decode(data)
        except (msgspec.DecodeError, ValueError):
            return manifest.json_object(self.place(line), data)
        if type(value) is dict:
            for key in value:
                if key in self.marks and data.count(self.marks[key]) > 1:
                    break
            else:
                return value
        return manifest.json_object(self.place(line), data)

    def elements(self, start: int, piece: bytes) -> Iterator[Found]:
        """Of a piece of a JSON list that begins there in the file."""
        for at, line, data in json_list.elements(piece):
            too_long = len(data) > MAX_RECORD
            value = BadRecord(self.place(line), f"longer than {MAX_RECORD} bytes") if too_long else self.value(line, data)
            yield Found(start + at, len(data), line, data, value)
        self.counted = piece.count(b"\n")

    def place(self, line: int) -> str:
        """What an error calls a record."""
        return f"{self.path}:{line}"

    def record(self, offset: int, length: int) -> tuple[dict[str, Any], dict[str, int]]:
        """A record by its bytes, and the pictures that a table holds of it: none."""
        if self.mapped is None:
            with open_regular(self.path) as file:
                self.mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        data = self.mapped[offset : offset + length]
        try:
            return DECODER.decode(data), {}
        except msgspec.DecodeError:  # of a lone surrogate, say, under a key that is not read
            return json.loads(data), {}

    def tables(self) -> None:
        """Pictures lie in files."""


class TableFile:
    """A Parquet file as a table of `datasets`. columns: those that may hold pictures, by the column that is read."""

    def __init__(self, path: str, columns: Mapping[str, str], cache_dir: Path) -> None:
        self.path = path
        (dataset,) = tables.open_every_split(path, cache_dir).values()
        self.columns = {column: name for column, name in columns.items() if name in dataset.column_names and tables.is_image(dataset, name)}
        self.table = tables.Table(path, dataset, list(self.columns.values()))
        fields = dataset.select_columns([name for name in dataset.column_names if name not in self.columns.values()])
        self.fields = fields.with_format("arrow")
        self.counted = 0
        self.counts = {column: self.table.counts(name) for column, name in self.columns.items()}

    def stretches(self) -> list[Stretch]:
        """All rows at once."""
        return [Stretch(0, len(self.fields))]

    def found(self, stretch: Stretch) -> Iterator[Found]:
        """Every row; its digest is of the pictures too."""
        for start in range(0, len(self.fields), ROWS):
            for row, value in enumerate(self.fields[start : start + ROWS].to_pylist(), start):
                held = self.held(row)
                pictures = b"".join(self.encoded(row, column, place) for column, number in held.items() for place in range(number))
                yield Found(row, 0, row, json.dumps(value, default=str).encode() + pictures, value, held)

    def place(self, line: int) -> str:
        """What an error calls a record."""
        return f"{self.path}#{line}"

    def record(self, offset: int, length: int) -> tuple[dict[str, Any], dict[str, int]]:
        """A row without its pictures, and how many there are by column."""
        (value,) = self.fields[offset : offset + 1].to_pylist()
        return value, self.held(offset)

    def held(self, row: int) -> dict[str, int]:
        """By column, how many pictures the table holds of a row."""
        return {column: int(numbers[row]) for column, numbers in self.counts.items()}

    def source(self, row: int, column: str, place: int) -> str:
        """The name of a picture."""
        name = self.table.source(row, self.columns[column])
        return f"{name}/{place}" if self.table.several(self.columns[column]) else name

    def encoded(self, row: int, column: str, place: int) -> bytes:
        """The bytes of a picture."""
        return self.table.encoded(row, self.columns[column], place if self.table.several(self.columns[column]) else None)

    def tables(self) -> tables.Table:
        """Where pictures lie."""
        return self.table


File = JsonFile | TableFile


def open_file(path: str, names: Mapping[str, str], cache_dir: Path) -> File:
    """A manifest by its ending. names: of the columns that are read. Raises `ConfigError` or `DataError`."""
    ending = Path(path).suffix.lower()
    if ending not in ENDINGS:
        raise ConfigError(f"data.sources: {path}: legal endings are {', '.join(ENDINGS)}.")
    if not Path(path).is_file():
        raise DataError(absent("data.sources", path))
    pictures = {column: names[column] for column in ("image", "images")}
    return TableFile(path, pictures, cache_dir) if ending == ".parquet" else JsonFile(path, names.values())
