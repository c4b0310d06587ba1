"""CVAT for images 1.1: one XML file with `<image name width height subset>`, in it `<box label xtl ytl xbr ybr rotation>` in pixels.

The format does not say whether anybody has looked at a picture without shapes: it is taken as one that nobody has labelled.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

from lab.data.box_file.records import Box, Boxed, Reading, enclosing, number, part_of, size_of, text, turned
from lab.data.box_file.xml import tree
from lab.data.faults import BadRecord
from lab.errors import DataError

CORNERS = ("xtl", "ytl", "xbr", "ybr")


def read(path: Path, reading: Reading) -> None:
    """Add every picture of the file. Raises `DataError` for one of a video."""
    reading.says_reviewed = False
    try:
        root = tree(path)
    except BadRecord as fault:
        raise DataError(f"{fault}.") from None
    if root.find("track") is not None:
        raise DataError(f"{path}: it holds the tracks of a video. Export it as CVAT for images 1.1.")
    reading.classes = tuple(dict.fromkeys(name.strip() for each in root.iterfind("meta//labels/label") if (name := each.findtext("name"))))
    for at, image in enumerate(root.findall("image")):
        source = f"{path}: image {image.get('id', at)}"
        try:
            reading.records.append(boxed(image, source, reading))
        except BadRecord as fault:
            reading.faults.append(fault)


def boxed(image: Element, source: str, reading: Reading) -> Boxed:
    """One picture. Raises `BadRecord`."""
    name, subset = text(image.get("name"), source, "name"), image.get("subset") or ""
    picture = reading.picture([name, f"images/{name}", *([f"images/{subset}/{name}", f"{subset}/{name}"] if subset else [])], source)
    found = [one for each in image if (one := box_of(each, source, reading)) is not None]
    boxes, labels = tuple(box for box, _ in found), tuple(label for _, label in found)
    size = size_of(image.get("width"), image.get("height"))
    return Boxed(source, reading.name(picture), picture, boxes, labels, bool(found), size, part=part_of(subset))


def box_of(shape: Element, source: str, reading: Reading) -> tuple[Box, str] | None:
    """The box of a shape with its label; None for a shape that has none. Raises `BadRecord`."""
    if shape.tag not in ("box", "polygon"):
        reading.remarks[f"shapes or tags of kind {shape.tag}, which are not read"] += 1
        return None
    label = text(shape.get("label"), source, "label")
    if shape.tag == "polygon":
        reading.remarks["polygons, whose enclosing box is read"] += 1
        pairs = [pair.split(",") for pair in (shape.get("points") or "").split(";") if pair]
        points = [(number(x, source, "points"), number(y, source, "points")) for x, y in pairs if x and y] if all(len(p) == 2 for p in pairs) else []
        if len(points) < 3:
            raise BadRecord(source, f"points: {len(points)} points of a polygon are given; 3 or more are legal")
        return enclosing(points), label
    x0, y0, x1, y1 = (number(shape.get(corner), source, corner) for corner in CORNERS)
    degrees = number(shape.get("rotation") or 0, source, "rotation")
    if degrees % 360 == 0:
        return (x0, y0, x1, y1), label
    reading.remarks["turned boxes, whose enclosing box is read"] += 1
    return turned((x0, y0, x1, y1), degrees, ((x0 + x1) / 2, (y0 + y1) / 2)), label
