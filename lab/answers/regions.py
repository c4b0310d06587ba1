"""Regions: boxes with labels. How they are read from a text and written in one, and what a table of such answers holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from lab.answers.box_formats import FORMATS, WRITTEN, Format, Mark
from lab.answers.table import PredictionTable, read_only
from lab.errors import ConfigError, DataError, did_you_mean
from lab.records import Answer, Located, Prediction, Region, Regions, Said

TOLERANCE = 1e-4
"""Rounding allowed to a probability computed in float32."""
STATUSES = ("ok", "partial", "empty", "failed")
REGIONS = pa.list_(pa.struct([pa.field("label", pa.string()), *(pa.field(name, pa.float64()) for name in Region._fields[1:])]))


@dataclass(frozen=True, slots=True)
class Reading:
    """What a text says of boxes.

    status: ok, partial (some boxes lost, or a cut), empty (it says that there is none) or failed (no box). regions: in pixels of the
    picture as shown, as they are written: corners may be swapped or lie outside. points: of clicks, without an area; they are no regions.
    spans: where in the text each region or point stands.
    """

    status: str
    regions: tuple[Region, ...] = ()
    points: tuple[Region, ...] = ()
    spans: tuple[tuple[int, int], ...] = ()


def read(text: str, boxes: str = "qwen2_5", *, size: tuple[int, int], resized: tuple[int, int] | None = None, repair: bool = False) -> Reading:
    """Read an answer in one of the formats of `lab.answers.box_formats`.

    size: (width, height) of the picture as shown; resized: as the processor shows it to the model, for formats in its pixels. A box with
    swapped corners, without an area or beyond the picture is kept as written, and counts as wrong (`Region.valid`); repair=True sorts its
    corners and clamps it. Raises `ConfigError` for a format that is none.
    """
    one = format_of(boxes)
    scan = one.scan(text)
    grid = grid_of(boxes, one, size, resized)
    places = tuple(placed(mark, one, size, grid) for mark in scan.marks)
    spans = tuple(mark.span for mark in scan.marks)
    if not places:
        return Reading("empty" if scan.none and not scan.lost else "failed")
    status = "partial" if scan.lost else "ok"
    if one.points:
        return Reading(status, points=places, spans=spans)
    return Reading(status, tuple(repaired(place, size) for place in places) if repair else places, spans=spans)


def write(regions: Sequence[Region], boxes: str = "qwen2_5", *, size: tuple[int, int], resized: tuple[int, int] | None = None) -> str:
    """The text that says where regions are, `read`'s inverse to within one bin; what has an area keeps one.

    Raises `ConfigError` for a format that is only read.
    """
    one = format_of(boxes)
    if one.write is None:
        raise ConfigError(f"boxes={boxes}: such boxes are only read. Write {', '.join(WRITTEN)}.")
    grid = grid_of(boxes, one, size, resized)
    return one.write([(region.label, numbers_of(region, one, size, grid)) for region in regions])


def labels_of(text: str, boxes: str) -> list[str]:
    """The labels that an answer gives its boxes, as it writes them."""
    return [mark.label for mark in format_of(boxes).scan(text).marks]


def plain(label: str) -> str:
    """A label without capitals, signs and an s at its end: equal for names that may be one class."""
    return "".join(filter(str.isalnum, label.lower())).removesuffix("s")


def format_of(boxes: str) -> Format:
    """A format by name."""
    if boxes not in FORMATS:
        raise ConfigError(f"boxes={boxes}: no such format; legal: {', '.join(FORMATS)}.{did_you_mean(boxes, FORMATS)}")
    return FORMATS[boxes]


def grid_of(boxes: str, one: Format, size: tuple[int, int], resized: tuple[int, int] | None) -> tuple[int, int]:
    """What numbers along x and y count to."""
    if not one.resized:
        return size if one.grid is None else (one.grid, one.grid)
    if resized is None:
        raise ConfigError(f"boxes={boxes}: they are in pixels of the resized picture. Say resized=(width, height).")
    return resized


def placed(mark: Mark, one: Format, size: tuple[int, int], grid: tuple[int, int]) -> Region:
    """The region of some numbers, or the point."""
    values = [(number + one.middle / 2) * size[axis % 2] / grid[axis % 2] for axis, number in enumerate(mark.numbers)]
    x0, y0, x1, y1 = map(math.trunc, values) if one.middle else (values if len(values) == 4 else values * 2)
    return Region(mark.label, x0, y0, x1, y1)


def repaired(region: Region, size: tuple[int, int]) -> Region:
    """Corners sorted, and clamped to the picture."""
    x0, x1 = sorted(min(max(x, 0.0), float(size[0])) for x in (region.x0, region.x1))
    y0, y1 = sorted(min(max(y, 0.0), float(size[1])) for y in (region.y0, region.y1))
    return Region(region.label, x0, y0, x1, y1)


def numbers_of(region: Region, one: Format, size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, ...]:
    """The whole numbers of a region: its corners, or its centre."""
    if one.points:
        return round((region.x0 + region.x1) / 2 * grid[0] / size[0]), round((region.y0 + region.y1) / 2 * grid[1] / size[1])
    x0, x1 = whole(region.x0, region.x1, size[0], grid[0], one.most)
    y0, y1 = whole(region.y0, region.y1, size[1], grid[1], one.most)
    return x0, y0, x1, y1


def whole(low: float, high: float, extent: int, grid: int, most: int | None) -> tuple[int, int]:
    """The nearest numbers of an edge's ends, from 0 to `most`; two where there are two ends."""
    most = grid if most is None else most
    first, last = (min(max(round(end * grid / extent), 0), most) for end in (low, high))
    if first == last and low < high:
        first = min(max(math.floor(low * grid / extent), 0), most - 1)
        last = first + 1
    return first, last


class RegionsTable(PredictionTable):
    """references, regions: object [n] of tuples of `Region`; scores: object [n] of tuples of float, one a region, or () without any

    status: object [n] of str, of `STATUSES`; boxes: object [n] of str, the format that `text` was read by; text: object [n] of str
    width, height: int32 [n], of the picture as shown; tokens: int32 [n]; ended: bool [n]; log_p: float64 [n], as in `lab.records.Located`
    """

    kind = Regions.kind
    FIELDS = (
        pa.field("references", REGIONS, nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("regions", REGIONS, nullable=False),
        pa.field("scores", pa.list_(pa.float64()), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("boxes", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("ended", pa.bool_(), nullable=False),
        pa.field("log_p", pa.float64(), nullable=False),
    )

    @classmethod
    def cells(cls, rows: Iterable[Prediction]) -> dict[str, list[Any]]:
        rows = list(rows)
        answers = [row.answer for row in rows if isinstance(row.answer, Regions)]
        cells: dict[str, list[Any]] = {field.name: [getattr(row.said, field.name) for row in rows] for field in cls.FIELDS[3:]}
        cells["regions"] = [[region._asdict() for region in regions] for regions in cells["regions"]]
        references = [[region._asdict() for region in answer.regions] for answer in answers]
        width, height = ([answer.size[axis] for answer in answers] for axis in (0, 1))
        return cells | {"references": references, "width": width, "height": height}

    @classmethod
    def answer_of(cls, row: Mapping[str, Any]) -> tuple[Answer, Said]:
        said = {field.name: row[field.name] for field in cls.FIELDS[3:]}
        said |= {"regions": regions_of(row["regions"]), "scores": tuple(row["scores"])}
        return Regions(regions_of(row["references"]), (row["width"], row["height"])), Located(**said)

    @classmethod
    def decode(cls, name: str, column: pa.ChunkedArray) -> np.ndarray:
        if name not in ("references", "regions", "scores", "status", "boxes", "text"):
            return column.to_numpy()
        values = np.empty(len(column), dtype=object)
        read = {"references": regions_of, "regions": regions_of, "scores": tuple}.get(name, str)
        values[:] = [read(each) for each in column.to_pylist()]
        return values

    def check(self, source: str) -> None:
        """Refuse impossible probabilities, scores that are not one a region, and a status that is none."""
        bad = ~(self.log_p <= TOLERANCE) if "log_p" in self.columns else np.zeros(0, dtype=bool)  # true for NaN as well
        if bad.any():
            raise DataError(f"{source}: column 'log_p' holds {self.log_p[bad][0]} in row {int(bad.argmax())}; legal: at most 0.")
        if "status" in self.columns and (unknown := set(self.status) - set(STATUSES)):
            raise DataError(f"{source}: column 'status' holds {min(unknown)!r}; legal: {', '.join(STATUSES)}.")
        for row, each in enumerate(self.scores.tolist() if "scores" in self.columns else []):
            if not all(0 <= score <= 1 + TOLERANCE for score in each):
                raise DataError(f"{source}: column 'scores' holds {each} in row {row}; legal: from 0 to 1.")
            if each and "regions" in self.columns and len(each) != len(self.regions[row]):
                number = len(self.regions[row])
                raise DataError(f"{source}: row {row} has {len(each)} scores for {number} regions; legal: one each, or none.")

    @property
    def answered(self) -> np.ndarray:
        """What was written, object [n] of str."""
        return self.text

    @cached_property
    def confidence(self) -> np.ndarray:
        """The probability of what was written, all of its tokens, [n]."""
        return read_only(np.exp(np.minimum(self.log_p, 0.0)))


def regions_of(values: Iterable[Mapping[str, Any]]) -> tuple[Region, ...]:
    """Regions from a cell of a file."""
    return tuple(Region(**value) for value in values)
