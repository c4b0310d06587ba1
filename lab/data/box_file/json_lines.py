"""JSON Lines, or a JSON list, of `image`, `boxes` as [[x0, y0, x1, y1], ...] in pixels, and `labels`, one a box.

Optional: `id`, `group`, `split`, `width`, `height`. `boxes: []` says that the picture is empty; null, that nobody has labelled it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.data import manifest
from lab.data.box_file.records import Boxed, Reading, named_part, numbers, size_of, text
from lab.data.faults import BadRecord, shown

COLUMNS = ("image", "boxes", "labels", "id", "group", "split", "width", "height")


def read(path: Path, reading: Reading, columns: Mapping[str, str]) -> None:
    """Add the picture of every record. columns: names of one's own."""
    names = {column: columns.get(column, column) for column in COLUMNS}
    for source, fields in manifest.objects(path):
        try:
            if isinstance(fields, BadRecord):
                raise fields
            reading.records.append(boxed({column: fields.get(name) for column, name in names.items()}, source, reading))
            reading.remarks.update(f"values of key {key!r}, which is not read" for key in fields if key not in names.values())
        except BadRecord as fault:
            reading.faults.append(fault)


def boxed(fields: Mapping[str, Any], source: str, reading: Reading) -> Boxed:
    """One record. Raises `BadRecord`."""
    picture = reading.picture([text(fields["image"], source, "key 'image'")], source)
    boxes, labels = fields["boxes"], fields["labels"] or []
    if boxes is not None and not isinstance(boxes, list):
        raise BadRecord(source, f"key 'boxes': {shown(boxes)} is given; [[x0, y0, x1, y1], ...] is legal, or null")
    if not isinstance(labels, list) or len(labels) != len(boxes or ()):
        raise BadRecord(source, f"key 'labels': {shown(labels)} is given; a label for each of {len(boxes or ())} boxes is legal")
    corners = []
    for box in boxes or ():
        x0, y0, x1, y1 = numbers(box, source, "key 'boxes'")
        corners.append((x0, y0, x1, y1))
    names = tuple(text(label, source, "key 'labels'") for label in labels)
    name = str(fields["id"]) if fields["id"] is not None else reading.name(picture)
    size = size_of(fields["width"], fields["height"])
    group = None if fields["group"] is None else str(fields["group"])
    return Boxed(source, name, picture, tuple(corners), names, boxes is not None, size, False, named_part(fields["split"], source), group)
