"""Label Studio's JSON export: a list of tasks, each with `data` and `annotations`, whose boxes are per cent of the picture's sides.

A task without an annotation, or with skipped ones alone, is a picture that nobody has labelled; one with an annotation that holds no box
was reviewed and is empty. Predictions are not read. Of several annotations the one marked as ground truth is read, else the last.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from lab.data.box_file.records import Box, Boxed, Reading, enclosing, named_part, number, objects, read_json, size_of, text, turned
from lab.data.faults import BadRecord, shown
from lab.data.question_file.unanswered import PICTURES


def read(path: Path, reading: Reading, column: str | None = None) -> None:
    """Add the picture of every task. column: of `data`, that names it; None: the only one that does."""
    for source, task in objects(read_json(path), str(path), reading.faults):
        try:
            reading.records.append(boxed(task, source, column, reading))
        except BadRecord as fault:
            reading.faults.append(fault)


def boxed(task: Mapping[str, Any], source: str, column: str | None, reading: Reading) -> Boxed:
    """The picture of one task. Raises `BadRecord`."""
    data = task.get("data")
    if not isinstance(data, dict):
        raise BadRecord(source, "key 'data': it is no object; export as JSON, not as JSON-MIN")
    address = address_of(data, source, column)
    picture = reading.picture(names_of(address), source)
    annotation = annotation_of(task, source, reading)
    results = [] if annotation is None else annotation.get("result") or []
    if not isinstance(results, list) or not all(isinstance(each, dict) for each in results):
        raise BadRecord(source, f"key 'result': {shown(results)} is given; a list of objects is legal")
    found = [pair for each in results if (pair := box_of(each, source, reading)) is not None]
    size = next((size for each in results if (size := size_of(each.get("original_width"), each.get("original_height")))), None)
    boxes, labels = tuple(box for box, _ in found), tuple(label for _, label in found)
    part, group = named_part(data.get("split"), source), None if data.get("group") is None else str(data["group"])
    return Boxed(source, reading.name(picture), picture, boxes, labels, annotation is not None, size, True, part, group)


def address_of(data: Mapping[str, Any], source: str, column: str | None) -> str:
    """Where a task's picture lies, as Label Studio names it. Raises `BadRecord` where no value of `data` does, or several."""
    if column is not None:
        return text(data.get(column), source, f"key {column!r}")
    found = {key: value for key, value in data.items() if isinstance(value, str) and PurePosixPath(names_of(value)[0]).suffix.lower() in PICTURES}
    if len(found) != 1:
        which = f"keys {', '.join(map(repr, found))} each name" if found else "no key names"
        raise BadRecord(source, f"key 'data': {which} a picture; give the key's name as data.columns.image=NAME")
    return next(iter(found.values()))


def names_of(address: str) -> list[str]:
    """Paths below the root that an address may mean: as it is, without the server's folders, without the mark that an upload gets."""
    parsed = urlsplit(address)
    local = parse_qs(parsed.query).get("d", [""])[0]
    path = local or unquote(parsed.path)
    last = PurePosixPath(path).name
    marked = last[9:] if last[8:9] == "-" and all(each in "0123456789abcdef" for each in last[:8]) else ""
    outside = parsed.scheme or path.startswith("/")
    return list(dict.fromkeys(filter(None, ["" if outside else path, last, marked, f"images/{last}", marked and f"images/{marked}"]))) or [address]


def annotation_of(task: Mapping[str, Any], source: str, reading: Reading) -> Mapping[str, Any] | None:
    """The annotation that counts, or None. Raises `BadRecord`."""
    given = task.get("annotations") or task.get("completions") or []
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        raise BadRecord(source, f"key 'annotations': {shown(given)} is given; a list of objects is legal")
    whole = [each for each in given if not each.get("was_cancelled")]
    if len(whole) > 1:
        reading.remarks["pictures with several annotations, of which the ground truth is read, else the last"] += 1
    return next((each for each in whole if each.get("ground_truth")), max(whole, key=lambda each: str(each.get("updated_at") or ""), default=None))


def box_of(result: Mapping[str, Any], source: str, reading: Reading) -> tuple[Box, str] | None:
    """The box of a region with its label; None for one that has none. Raises `BadRecord`."""
    kind, value = str(result.get("type")), result.get("value")
    if kind not in ("rectanglelabels", "polygonlabels") or not isinstance(value, dict):
        reading.remarks[f"results of kind {kind}, which are not read"] += 1
        return None
    labels = value.get(kind)
    if not isinstance(labels, list) or len(labels) != 1:
        raise BadRecord(source, f"key {kind!r}: {shown(labels)} is given; one label is legal")
    label = text(labels[0], source, f"key {kind!r}")
    if kind == "polygonlabels":
        reading.remarks["polygons, whose enclosing box is read"] += 1
        points = value.get("points")
        if not isinstance(points, list) or len(points) < 3 or not all(isinstance(each, list) and len(each) == 2 for each in points):
            raise BadRecord(source, f"key 'points': {shown(points)} is given; 3 or more pairs are legal")
        pairs = [(number(x, source, "key 'points'") / 100, number(y, source, "key 'points'") / 100) for x, y in points]
        return enclosing(pairs), label
    x, y, width, height = (number(value.get(key), source, f"key {key!r}") / 100 for key in ("x", "y", "width", "height"))
    return upright((x, y, x + width, y + height), result, source, reading), label


def upright(box: Box, result: Mapping[str, Any], source: str, reading: Reading) -> Box:
    """The box around a rectangle that is turned about its upper left corner, in shares of the sides."""
    degrees = number(result["value"].get("rotation") or 0, source, "key 'rotation'")
    if degrees % 360 == 0:
        return box
    reading.remarks["turned boxes, whose enclosing box is read"] += 1
    size = size_of(result.get("original_width"), result.get("original_height"))
    if size is None:
        raise BadRecord(source, "key 'rotation': a turned box needs original_width and original_height")
    width, height = size
    x0, y0, x1, y1 = turned((box[0] * width, box[1] * height, box[2] * width, box[3] * height), degrees, (box[0] * width, box[1] * height))
    return x0 / width, y0 / height, x1 / width, y1 / height
