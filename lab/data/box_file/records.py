"""What a reader gives of each picture of a file of boxes, and what readers share: where pictures lie, which part a word names."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from lab.data.faults import BadRecord, shown
from lab.data.files import read_text
from lab.data.manifest import Root
from lab.data.question_file.rows import PART_OF
from lab.errors import DataError
from lab.records import Picture

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1."""


@dataclass(frozen=True)
class Boxed:
    """One picture with its boxes, as a file has them.

    source: the place in the file. name: of the picture, unique. boxes: in pixels of the picture, or as shares of its sides where `relative`.
    size: (width, height) that the file gives of the picture, or None. reviewed: somebody has looked at it; without boxes it is then known
    to be empty. part: of a split of the file's own. group: what the file says belongs together.
    """

    source: str
    name: str
    picture: Picture
    boxes: tuple[Box, ...]
    labels: tuple[str, ...]
    reviewed: bool = True
    size: tuple[int, int] | None = None
    relative: bool = False
    part: str | None = None
    group: str | None = None


@dataclass
class Reading:
    """A file while it is read. remarks: what is read in a way of its own, in words, with how often. classes: that the file declares.

    says_reviewed: the format tells a picture without boxes from one that nobody has labelled.
    """

    root: Root = field(default_factory=lambda: Root(Path()))
    records: list[Boxed] = field(default_factory=list)
    faults: list[BadRecord] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)
    classes: tuple[str, ...] = ()
    says_reviewed: bool = True

    def picture(self, names: Sequence[str], source: str) -> Picture:
        """The first of some paths below the root that is there, or else the first. Raises `BadRecord` for one that leads elsewhere."""
        paths = [self.root.file(name, source) for name in names]
        return Picture(str(next((path for path in paths if path.is_file()), paths[0])))

    def name(self, picture: Picture) -> str:
        """The path of a picture below the root."""
        return Path(picture.source).relative_to(self.root.folder).as_posix()


def part_of(word: str | None) -> str | None:
    """The part that a word such as `valid` names, or None."""
    return PART_OF.get((word or "").lower())


def named_part(word: Any, source: str) -> str | None:
    """The part that a record names itself, or None where it names none. Raises `BadRecord` for a word that is none."""
    if word in (None, ""):
        return None
    return part_of(str(word)) or fail(source, f"key 'split': {shown(word)} is given; legal: {', '.join(PART_OF)}")


def fail(source: str, reason: str) -> NoReturn:
    """Refuse a record."""
    raise BadRecord(source, reason)


def number(value: Any, source: str, what: str) -> float:
    """A finite number, written as one or in a text. Raises `BadRecord`."""
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise BadRecord(source, f"{what}: {shown(value)} is given; a number is legal")
    return found


def numbers(values: Any, source: str, what: str, count: int = 4) -> tuple[float, ...]:
    """So many finite numbers. Raises `BadRecord`."""
    if not isinstance(values, Sequence) or isinstance(values, str) or len(values) != count:
        raise BadRecord(source, f"{what}: {shown(values)} is given; {count} numbers are legal")
    return tuple(number(value, source, what) for value in values)


def size_of(width: Any, height: Any) -> tuple[int, int] | None:
    """A size that a file gives of a picture; None where it gives none."""
    try:
        size = round(float(width)), round(float(height))
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


def text(value: Any, source: str, what: str) -> str:
    """A text that is not blank. Raises `BadRecord`."""
    if not isinstance(value, str) or not value.strip():
        raise BadRecord(source, f"{what}: {shown(value)} is given; a text that is not blank is legal")
    return value.strip()


def enclosing(points: Sequence[tuple[float, float]]) -> Box:
    """The box around some points."""
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def turned(box: Box, degrees: float, centre: tuple[float, float]) -> Box:
    """The box around a box that is turned clockwise about a point, in pixels."""
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    (x0, y0, x1, y1), (cx, cy) = box, centre
    corners = [(x - cx, y - cy) for x in (x0, x1) for y in (y0, y1)]
    return enclosing([(cx + x * cos - y * sin, cy + x * sin + y * cos) for x, y in corners])


def read_json(path: Path) -> Any:
    """A JSON file whole. Raises `DataError`."""
    try:
        return json.loads(read_text(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: it cannot be read as JSON ({str(error)[:200]}).") from None


def objects(value: Any, where: str, faults: list[BadRecord]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each object of a JSON list with its place; one that is none is added to `faults`. Raises `DataError` for no list."""
    if not isinstance(value, list):
        raise DataError(f"{where}: {shown(value)} is given; a list of objects is legal.")
    for index, each in enumerate(value):
        if isinstance(each, dict):
            yield f"{where}[{index}]", each
        else:
            faults.append(BadRecord(f"{where}[{index}]", f"{shown(each)} is given; an object is legal"))
