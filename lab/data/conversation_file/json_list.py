"""A JSON list cut into its elements, of which no objects are made: each can then be read alone, as a line of JSON Lines is.

A piece of a list begins with what stands before its first element, `[` or the comma behind the piece before, and holds whole elements. What
is wrong within an element (NaN, a control character, bytes that are not UTF-8) is said of that element; only where none can be told from the
next the list is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

import msgspec

from lab.data.faults import shown
from lab.data.manifest import BLANK, MAX_RECORD, skip
from lab.errors import DataError

READ = 1024 * 1024
"""Bytes of a list that are read at once."""
LONGEST = 64 * MAX_RECORD
"""Bytes within which an element must end."""
GUESSES = 16
"""Places that are tried for one between two elements, before they are walked."""

UNREAD = msgspec.json.Decoder(list[msgspec.Raw])
LENIENT = json.JSONDecoder(strict=False, parse_int=str, parse_float=str, parse_constant=str)
"""Finds where a value ends, whatever Python's reader of JSON can pass over within it."""
_HEAD = re.compile(rf"[{BLANK}]*[\[,][{BLANK}]*".encode())
_COMMA = re.compile(f"[{BLANK}]*,[{BLANK}]*".encode())
_OPENING = re.compile(rf'{{[{BLANK}]*"[^"]*"'.encode())


class Walked(NamedTuple):
    """What a walk over a piece finds, places in bytes. elements: the first byte of each, and the one behind it.

    comma: the last one behind an element, 0: none. closed: the list's `]`, 0: not reached. wrong: where the walk cannot go on, and why.
    """

    elements: list[tuple[int, int]]
    comma: int = 0
    closed: int = 0
    wrong: tuple[int, str] = (0, "")


def pieces(path: str, file: BinaryIO) -> Iterator[tuple[int, int]]:
    """Where in a file that is read up to its list each piece begins and ends. Raises `DataError` where it is no list any more."""
    start, line, data, closed = file.tell(), 1, b"", False
    while not closed:
        read = file.read(READ)
        data += read
        end, closed = cut(path, line, data, last=not read)
        if end:
            yield start, start + end
        start, line, data = start + end, line + data.count(b"\n", 0, end), data[end:]
    if rest := (data[1:] + file.read(READ)).strip(BLANK.encode()):
        raise DataError(f"{path}: the JSON list is followed by {shown(rest[:40].decode(errors='replace'))}.")


def cut(path: str, line: int, data: bytes, last: bool) -> tuple[int, bool]:
    """Where a piece ends, 0 if more must be read first, and whether the list does. line: of its first byte. last: no more can be read."""
    if end := end_of_list(data) if last else between(data):
        return end, last
    walked = walk(data)
    if walked.closed:
        return walked.closed, True
    if not last and (walked.comma or len(data) <= LONGEST):
        return walked.comma, False
    at, sentence = walked.wrong
    line += data.count(b"\n", 0, at)
    raise DataError(f"{path}:{line}: {sentence}.")


def between(data: bytes) -> int:
    """The place of a comma between two elements, one of the last; 0 if none is found by looking for what begins as the first element does."""
    opening, at = _OPENING.search(data), len(data)
    for _ in range(GUESSES if opening else 0):
        assert opening is not None
        at = data.rfind(opening[0], opening.end(), at)
        comma = data.rfind(b",", 0, max(at, 0))
        if comma < 0:
            break
        if not data[comma + 1 : at].strip(BLANK.encode()) and unread(data[:comma]):
            return comma
    return 0


def end_of_list(data: bytes) -> int:
    """The place of the `]` with which a list ends behind this last piece; 0 if that cannot be told without a walk."""
    end = data.rfind(b"]")
    return end if end > 0 and unread(data[:end]) else 0


def unread(piece: bytes) -> list[msgspec.Raw]:
    """The elements of a piece as they stand there; none if there is something wrong with one, or with what stands between."""
    head = _HEAD.match(piece)
    try:
        return UNREAD.decode(b"[" + piece[head.end() :] + b"]") if head else []
    except (msgspec.DecodeError, RecursionError):
        return []


def walk(piece: bytes) -> Walked:
    """Go from element to element, past whatever is wrong within one."""
    text = piece.decode("utf-8", "surrogateescape")
    found: list[tuple[int, int]] = []
    head = _HEAD.match(piece)
    at = place = head.end() if head else 0
    comma, may_end = 0, piece[:at].strip(BLANK.encode()) == b"["

    def length(start: int, end: int) -> int:
        return len(text[start:end].encode("utf-8", "surrogateescape"))

    while True:
        if may_end and text.startswith("]", at):
            return Walked(found, comma, place)
        try:
            end = LENIENT.raw_decode(text, at)[1]
        except (ValueError, RecursionError) as error:
            return Walked(found, comma, 0, (place, f"the list is not valid JSON from here on ({str(error)[:200]})"))
        found.append((place, place + length(at, end)))
        at = skip(text, end)
        place = found[-1][1] + at - end
        if text.startswith("]", at):
            return Walked(found, comma, place)
        if not text.startswith(",", at):
            return Walked(found, comma, 0, (place, "after this element of the list ',' or ']' is legal"))
        comma, may_end = place, False
        at, place = skip(text, at + 1), place + skip(text, at + 1) - at


def elements(piece: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The place, the line (from 1) and the bytes of each element of a piece."""
    head = _HEAD.match(piece)
    at, line, counted = head.end() if head else 0, 1, 0
    for length in list(map(len, unread(piece))) or [end - start for start, end in walk(piece).elements]:
        line, counted, end = line + piece.count(b"\n", counted, at), at, at + length
        yield at, line, piece[at:end]
        comma = _COMMA.match(piece, end)
        at = comma.end() if comma else end
