"""From boxes as a file has them to pixels of the picture as it is shown: which of two frames they count in, and what lies outside.

A camera stores a picture turned and says so in EXIF (orientation 1 to 8); `lab.data.images.decode` shows it upright. Some tools write
boxes of the stored picture, some of the shown one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.data.box_file.records import Box, Boxed, enclosing
from lab.data.faults import BadRecord
from lab.errors import ConfigError

SHOWN, STORED = "shown", "stored"
SLACK = 1.0
"""Pixels by which a box may leave its picture through rounding; it is then cut at the edge whatever `data.on_bad` says."""


def other_frame(size: tuple[int, int], orientation: int) -> tuple[int, int]:
    """(width, height) of the stored picture from those of the shown one, and the other way round."""
    return (size[1], size[0]) if orientation >= 5 else size


def as_shown(box: Box, orientation: int, size: tuple[int, int]) -> Box:
    """A box of the stored picture in the shown one. size: (width, height) of the stored picture."""
    width, height = size
    turns = {
        1: lambda x, y: (x, y),
        2: lambda x, y: (width - x, y),
        3: lambda x, y: (width - x, height - y),
        4: lambda x, y: (x, height - y),
        5: lambda x, y: (y, x),
        6: lambda x, y: (height - y, x),
        7: lambda x, y: (height - y, width - x),
        8: lambda x, y: (y, width - x),
    }
    return enclosing([turns[orientation](*corner) for corner in (box[:2], box[2:])])


def evidence(record: Boxed, shown: tuple[int, int], orientation: int) -> str | None:
    """The only frame that fits a turned picture: that holds all of its boxes, or else has the size that the file gives; None: both or neither."""
    frames = {SHOWN: shown, STORED: other_frame(shown, orientation)}
    holding = [
        frame for frame, (width, height) in frames.items()
        if not record.relative and all(max(x0, x1) <= width + SLACK and max(y0, y1) <= height + SLACK for x0, y0, x1, y1 in record.boxes)
    ]  # fmt: skip
    sized = [frame for frame, size in frames.items() if record.size == size]
    return next((fitting[0] for fitting in (holding, sized) if len(fitting) == 1), None)


def frame_of(
    records: Sequence[Boxed], shown: Mapping[str, tuple[int, int]], orientations: Mapping[str, int], asked: str | None
) -> tuple[str, list[str]]:
    """The frame that all boxes of a file are in, and a note where it matters. asked: `data.exif`. Raises `ConfigError` where pictures disagree.

    shown: size of each picture as it is shown, by source. orientations: of those that EXIF turns.
    """
    turned = [record for record in records if record.picture.source in orientations]
    if not turned:
        return SHOWN, []
    told: dict[str, list[str]] = {SHOWN: [], STORED: []}
    for record in turned:
        source = record.picture.source
        if (frame := evidence(record, shown[source], orientations[source])) is not None:
            told[frame].append(record.source)
    fitting = [frame for frame, sources in told.items() if sources]
    head = f"pictures that EXIF turns: {len(turned)}"
    if asked is not None:
        against = told[STORED if asked == SHOWN else SHOWN]
        doubt = f", though {len(against)} fit the other frame alone, the first {against[0]}" if against else ""
        return asked, [f"{head}; their boxes are of the {asked} picture by data.exif{doubt}."]
    if len(fitting) == 2:
        raise ConfigError(
            f"data.exif=null: {head}, and they disagree: boxes of {told[SHOWN][0]} fit the shown picture alone, those of {told[STORED][0]} the "
            "stored one. Give data.exif=shown or data.exif=stored."
        )
    if fitting:
        return fitting[0], [f"{head}; their boxes are of the {fitting[0]} picture, as sizes and boxes of {len(told[fitting[0]])} fit it alone."]
    return SHOWN, [f"{head}; nothing tells whether their boxes are of the shown or the stored picture: taken as shown (data.exif=stored: the other)."]


def resized(
    records: Sequence[Boxed], shown: Mapping[str, tuple[int, int]], orientations: Mapping[str, int]
) -> list[str]:
    """A note where the file gives pictures another size than they have in either frame: their boxes may be of a copy of another size."""
    odd = [
        record.source for record in records
        if record.size not in (None, shown[source := record.picture.source], other_frame(shown[source], orientations.get(source, 1)))
    ]  # fmt: skip
    what = "pictures whose size in the file is another than theirs, so that boxes may lie elsewhere"
    return [f"{what}: {len(odd)}, the first {odd[0]}."] if odd else []


@dataclass(frozen=True)
class Placed:
    """Boxes in pixels of the picture as it is shown. cut: how many of them left it by more than rounding, and were cut at its edge."""

    boxes: tuple[Box, ...]
    cut: int


def placed(record: Boxed, shown: tuple[int, int], orientation: int, frame: str, clamp: bool) -> Placed:
    """The boxes of one picture. clamp: cut at the edge what leaves the picture. Raises `BadRecord` for corners in the wrong order, no area,
    or what leaves the picture by more than rounding.
    """
    own = orientation if frame == STORED else 1
    width, height = other_frame(shown, own)
    size = f"{shown[0]} x {shown[1]}"
    boxes, cut = [], 0
    for label, box in zip(record.labels, record.boxes, strict=True):
        scaled = (box[0] * width, box[1] * height, box[2] * width, box[3] * height) if record.relative else box
        told = "its box of {!r}, {:g}, {:g} to {:g}, {:g},".format(label, *scaled)
        if scaled[2] < scaled[0] or scaled[3] < scaled[1]:
            raise BadRecord(record.source, f"{told} has its corners in the wrong order")
        x0, y0, x1, y1 = as_shown(scaled, own, (width, height))
        inside = max(x0, 0.0), max(y0, 0.0), min(x1, float(shown[0])), min(y1, float(shown[1]))
        beyond = max(abs(a - b) for a, b in zip(inside, (x0, y0, x1, y1), strict=True))
        if inside[2] <= inside[0] or inside[3] <= inside[1]:
            raise BadRecord(record.source, f"{told} has no area inside the picture of {size}")
        if beyond > SLACK and not clamp:
            raise BadRecord(record.source, f"{told} leaves the picture of {size}; data.on_bad=skip cuts it at the edge")
        cut += beyond > SLACK
        boxes.append(inside)
    return Placed(tuple(boxes), cut)
