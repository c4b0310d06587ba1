"""The records of a manifest one after the other, each with its place; any of them again by its place, without those before it.

    .jsonl, .ndjson     a record a line            place: its bytes in the mapped file
    .json               a list of records, or a record a line
    .parquet            a record a row             place: the row, in Arrow's mapped copy under `tracking.cache_dir`
"""

from __future__ import annotations

import codecs
import itertools
import json
import mmap
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import msgspec

from lab.data import manifest, tables
from lab.data.faults import BadRecord, shown
from lab.data.files import mark_length, open_regular
from lab.data.manifest import BLANK, MAX_RECORD
from lab.errors import ConfigError, DataError
from lab.paths import absent

DECODER = msgspec.json.Decoder()
JSON = (".json", ".jsonl", ".ndjson")
ENDINGS = (*JSON, ".parquet")
CHUNK = 4 * 1024 * 1024
"""Bytes of a JSON list that are held at once."""
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
    """Bytes of a file that begin and end with a record. of_list: they are a JSON list."""

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
        """The file in pieces that may be read apart: a JSON list as one. Raises `DataError` where it cannot be read."""
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
                return [Stretch(first, size, True)]
            ends = [first]
            while ends[-1] < size:
                file.seek(ends[-1] + STRETCH)
                while (line := file.readline(MAX_RECORD)) and not line.endswith(b"\n"):
                    pass
                ends.append(min(file.tell(), size))
        return [Stretch(start, end) for start, end in itertools.pairwise(ends)]

    def found(self, stretch: Stretch) -> Iterator[Found]:
        """Every record of a stretch, lines numbered from its own first; `counted` is then how many. Raises `DataError` for a broken list."""
        with open_regular(self.path) as file:
            file.seek(stretch.start)
            yield from self.elements(file) if stretch.of_list else self.lines(file, stretch.end)

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

    def elements(self, file: BinaryIO) -> Iterator[Found]:
        """Of a JSON list, of which no more than `CHUNK` and a record are held at once. Raises `DataError` where it is no list any more."""
        text = Window(self.path, file)
        text.skip("[")
        while not text.skip("]"):
            value, data, offset, line = text.element()
            what = value if type(value) is dict else BadRecord(self.place(line), f"{shown(value)} is given; a JSON object {{...}} is legal")
            too_long = BadRecord(self.place(line), f"longer than {MAX_RECORD} bytes")
            yield Found(offset, len(data), line, data, too_long if len(data) > MAX_RECORD else what)
            if not text.skip(",") and not text.peek("]"):
                raise DataError(f"{self.place(text.line)}: after this element of the list ',' or ']' is legal.")
        if rest := text.rest():
            raise DataError(f"{self.path}: the JSON list is followed by {shown(rest)}.")

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


class Window:
    """A stretch of a JSON list as text, and where in the file it begins: offset in bytes, line from 1."""

    def __init__(self, path: str, file: BinaryIO) -> None:
        self.path, self.file = path, file
        self.decode = codecs.getincrementaldecoder("utf-8")().decode
        self.text, self.at, self.line, self.offset, self.ended, self.ascii = "", 0, 1, file.tell(), False, True

    def more(self) -> bool:
        """Read on; whether there was more. What is behind is let go of."""
        if self.ended:
            return False
        data = self.file.read(CHUNK)
        self.ended = not data
        try:
            self.text, self.at = self.text[self.at :] + self.decode(data, final=self.ended), 0
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}:{self.line}: not UTF-8 from about here on ({error.reason}). Save the file as UTF-8.") from None
        self.ascii = self.text.isascii()
        return True

    def advance(self, to: int) -> None:
        """Go on to a place in the text."""
        self.line += self.text.count("\n", self.at, to)
        self.offset += to - self.at if self.ascii else len(self.text[self.at : to].encode())
        self.at = to

    def peek(self, mark: str) -> bool:
        """Whether the next character that is not blank is a mark."""
        while True:
            solid = manifest.skip(self.text, self.at)
            self.advance(solid)
            if solid < len(self.text) or not self.more():
                return self.text.startswith(mark, self.at)

    def skip(self, mark: str) -> bool:
        """Go behind the next mark, if it comes next."""
        there = self.peek(mark)
        if there:
            self.advance(self.at + 1)
        return there

    def element(self) -> tuple[Any, bytes, int, int]:
        """The next value, its bytes, and its place. Raises `DataError` for what is no JSON."""
        while True:
            try:
                value, end = manifest.DECODER.raw_decode(self.text, self.at)
                break
            except (ValueError, RecursionError) as error:
                if len(self.text) - self.at > 64 * MAX_RECORD or not self.more():
                    raise DataError(f"{self.path}:{self.line}: the list is not valid JSON from here on ({str(error)[:200]}).") from None
        data, offset, line = self.text[self.at : end].encode(errors="surrogatepass"), self.offset, self.line
        self.advance(end)
        return value, data, offset, line

    def rest(self) -> str:
        """What follows that is not blank."""
        return "" if self.peek("\0") else self.text[self.at : self.at + 40].strip()


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
