"""Strict reading of annotation files that others wrote: JSON-lines, or one JSON list of objects.

Every record is checked on its own and a bad one becomes a `BadRecord` naming `file:line`, the key, what was given and
what is legal. Nothing is guessed, repaired or replaced. Only what makes the whole file unreadable is raised here.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO, NoReturn, TypeVar

from lab.data.faults import BadRecord, not_unicode, shown
from lab.data.files import mark_length, open_regular
from lab.errors import DataError

T = TypeVar("T")

MAX_RECORD = 1024 * 1024
"""Longest record: bytes of a line, or characters of an element of a list."""

MAX_LIST_BYTES = 1024**3
"""Largest file that is read as one JSON list; JSON-lines files are streamed and have no limit."""

LABELS = {"True": True, "true": True, "TRUE": True, "False": False, "false": False, "FALSE": False}
BLANK = " \t\r\n"


def label(value: Any) -> bool:
    """Read a truth value by a table, never by `bool()`: `bool("False")` is True. Raises `ValueError`."""
    if type(value) is bool:
        return value
    if type(value) is str and value in LABELS:
        return LABELS[value]
    raise ValueError(f"{shown(value)} is given; legal: {', '.join(map(repr, LABELS))}, true, false")


class Row:
    """One record with typed access; every access that fails raises a `BadRecord` with the record's place."""

    def __init__(self, source: str, fields: Mapping[str, Any]) -> None:
        self.source = source
        self.fields = fields

    def fail(self, key: str, reason: str) -> NoReturn:
        """Refuse the record because of one key."""
        raise BadRecord(self.source, f"key {key!r}: {reason}")

    def has(self, key: str) -> bool:
        """Say whether the key is there and not null."""
        return self.fields.get(key) is not None

    def with_value(self, key: str, value: Any) -> Row:
        """The same record with another value of one key."""
        return Row(self.source, {**self.fields, key: value})

    def text(self, key: str) -> str:
        """Return a string that is not blank and is valid Unicode."""
        if key not in self.fields:
            raise BadRecord(self.source, f"key {key!r} is missing; the record has {shown(sorted(self.fields))}")
        value = self.fields[key]
        if type(value) is not str:
            self.fail(key, f"{shown(value)} is given; a string is legal")
        if not value.strip():
            self.fail(key, f"{shown(value)} is given; a string that is not blank is legal")
        if wrong := not_unicode(value):
            self.fail(key, wrong)
        return value

    def label(self, key: str) -> bool:
        """Return a truth value, by the strict table."""
        if key not in self.fields:
            raise BadRecord(self.source, f"key {key!r} is missing; the record has {shown(sorted(self.fields))}")
        try:
            return label(self.fields[key])
        except ValueError as error:
            self.fail(key, str(error))

    def match(self, key: str, pattern: re.Pattern[str], legal: str) -> re.Match[str]:
        """Return the match of a string that must have one form, such as an identifier."""
        found = pattern.fullmatch(self.text(key))
        if found is None:
            self.fail(key, f"{shown(self.fields[key])} is given; legal: {legal}")
        return found

    def number(self, key: str) -> int:
        """Return a whole number from 0, written as a number or as a string of digits."""
        value = self.fields.get(key)
        if type(value) is int and value >= 0:
            return value
        if type(value) is str and re.fullmatch(r"[0-9]{1,9}", value):
            return int(value)
        self.fail(key, f"{shown(value)} is given; a whole number from 0 is legal")


class Root:
    """A folder that no path may leave, by `..`, by an absolute path or through a symbolic link."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self._real: dict[Path, Path] = {}

    def file(self, relative: str, source: str) -> Path:
        """Return the absolute path of a file inside; it need not exist. source: the record that names it."""
        windows = PureWindowsPath(relative)
        if not relative.strip("./ ") or "\0" in relative or "\\" in relative or windows.drive:
            raise BadRecord(source, f"path {shown(relative)} is given; a relative path with '/' is legal")
        parts = PurePosixPath(relative)
        if parts.is_absolute() or ".." in parts.parts:
            raise BadRecord(source, f"path {shown(relative)} is given; it must lie inside {self.folder}, without '..'")
        path = self.folder / parts
        try:
            if path.parent not in self._real:
                self._real[path.parent] = path.parent.resolve()
            real = path.resolve() if path.is_symlink() else self._real[path.parent] / path.name
        except (OSError, RuntimeError, ValueError) as error:  # too long, or a loop of links
            raise BadRecord(source, f"path {shown(relative)} cannot be followed ({error})") from None
        if not real.is_relative_to(self.folder):
            raise BadRecord(source, f"path {shown(relative)} leads out of {self.folder} through a symbolic link to {real}")
        return path


def read(path: Path, parse: Callable[[Row], T], unique: Callable[[T], str]) -> tuple[list[T], list[BadRecord]]:
    """Return the parsed records in order, and a fault for every bad one.

    parse: makes a record of a `Row` or raises `BadRecord`. unique: the id of a record; one seen before is a fault.
    Raises `DataError` if the file cannot be read as a whole.
    """
    records: list[T] = []
    faults: list[BadRecord] = []
    lines: dict[str, str] = {}
    for source, found in objects(path):
        try:
            if isinstance(found, BadRecord):
                raise found
            record = parse(Row(source, found))
            name = unique(record)
            if name in lines:
                raise BadRecord(source, f"id {shown(name)} is given a second time; first in {lines[name]}")
        except BadRecord as fault:
            faults.append(fault)
        else:
            lines[name] = source
            records.append(record)
    return records, faults


def objects(path: Path) -> Iterator[tuple[str, dict[str, Any] | BadRecord]]:
    """Yield (`file:line`, object or what is wrong with it)."""
    try:
        opened = open_regular(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: the manifest cannot be read ({error}).") from None
    with opened as file:
        head = file.read(4096)
        try:
            file.seek(mark_length(head))
        except ValueError as error:
            raise DataError(f"{path}: {error}.") from None
        if not head[file.tell() :].lstrip(BLANK.encode()).startswith(b"["):
            yield from _lines(path, file)
            return
        data = file.read(MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        raise DataError(f"{path}: the JSON list is longer than the {MAX_LIST_BYTES} bytes read; use JSON-lines.")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 ({error.reason} at byte {error.start}).") from None
    yield from _elements(path, text)


def _lines(path: Path, file: BinaryIO) -> Iterator[tuple[str, dict[str, Any] | BadRecord]]:
    number = 0
    while line := file.readline(MAX_RECORD + 1):
        number += 1
        source = f"{path}:{number}"
        if len(line) > MAX_RECORD:
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_RECORD)
            yield source, BadRecord(source, f"the line is longer than {MAX_RECORD} bytes")
        elif line.strip():
            yield source, json_object(source, line)


def json_object(source: str, line: bytes) -> dict[str, Any] | BadRecord:
    """The object on a line of JSON Lines, or what is wrong with it."""
    try:
        return _checked(source, DECODER.decode(line.decode("utf-8").strip(BLANK)))
    except UnicodeDecodeError as error:
        return BadRecord(source, f"not UTF-8 ({error.reason} at byte {error.start})")
    except (ValueError, RecursionError) as error:
        return BadRecord(source, f"not a JSON object ({str(error)[:200]})")


def _elements(path: Path, text: str) -> Iterator[tuple[str, dict[str, Any] | BadRecord]]:
    """Walk one JSON list element by element, so that each has a line and is checked alone."""
    at = skip(text, text.index("[") + 1)
    line, counted = 1, 0
    ended = text.startswith("]", at)
    while not ended:
        line, counted = line + text.count("\n", counted, at), at
        source = f"{path}:{line}"
        try:
            value, end = DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{source}: the list is not valid JSON from here on ({str(error)[:200]}).") from None
        too_long = end - at > MAX_RECORD
        yield source, BadRecord(source, f"longer than {MAX_RECORD} characters") if too_long else _checked(source, value)
        at = skip(text, end)
        ended = text.startswith("]", at)
        if not ended and not text.startswith(",", at):
            given = shown(text[at : at + 9])
            raise DataError(f"{source}: after this element of the list ',' or ']' is legal, not {given}.")
        at = at if ended else skip(text, at + 1)
    if text[at + 1 :].strip(BLANK):
        raise DataError(f"{path}: the JSON list is followed by {shown(text[at + 1 : at + 40].strip())}.")


def skip(text: str, at: int) -> int:
    """Return the place of the first character from `at` on that is not blank."""
    found = _SOLID.search(text, at)
    return found.start() if found else len(text)


def _checked(source: str, value: Any) -> dict[str, Any] | BadRecord:
    if type(value) is dict:
        return value
    return BadRecord(source, f"{shown(value)} is given; a JSON object {{...}} is legal")


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:40]} is beyond the range of a float")
    return value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {shown(twice)} is given twice")
    return found


DECODER = json.JSONDecoder(parse_constant=_constant, parse_float=_float, object_pairs_hook=_pairs)
_SOLID = re.compile(f"[^{BLANK}]")
