"""COCO JSON: `images`, `annotations` with `bbox` = x, y, width, height in pixels, `categories`.

One file, or a folder of `<split>/_annotations.coco.json` (Roboflow) or `annotations/instances_<split>.json` (COCO, CVAT, Datumaro), with
pictures in `<split>/`, `images/<split>/`, `images/` or the folder itself; COCO's own splits have a year behind them.
Classes go by the names of categories; ids are never read as places. A picture that is listed without boxes is taken as empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lab.data.box_file.records import Box, Boxed, Reading, number, numbers, objects, part_of, read_json, size_of, text
from lab.data.faults import BadRecord, shown
from lab.errors import DataError

NAME = re.compile(r"(?:instances_)?([A-Za-z]+(?:20\d\d)?)\.json")
"""Of a file in `annotations/`, with its split."""
YEAR = re.compile(r"20\d\d$")


def files(path: Path) -> list[tuple[Path, str]]:
    """The files of COCO in a folder, each with the word for its split; a file that is one itself, without."""
    if path.is_file():
        return [(path, "")]
    found = [(each, each.parent.name) for each in sorted(path.glob("*/_annotations.coco.json"))]
    named = [(each, NAME.fullmatch(each.name)) for each in sorted((path / "annotations").glob("*.json"))]
    return found or [(each, match[1]) for each, match in named if match]


def read(path: Path, reading: Reading) -> None:
    """Add every picture of a file or folder. Raises `DataError` for a file that is none of COCO's."""
    reading.says_reviewed = False
    for file, split in files(path):
        read_file(file, split, reading)


def read_file(file: Path, split: str, reading: Reading) -> None:
    """Add every picture of one file."""
    told = read_json(file)
    if not isinstance(told, dict) or not isinstance(told.get("images"), list):
        raise DataError(f"{file}: a file of COCO is an object with images, annotations and categories.")
    categories = {}
    for source, category in objects(told.get("categories", []), f"{file}: categories", reading.faults):
        categories[identifier(category.get("id"), source, "key 'id'")] = text(category.get("name"), source, "key 'name'")
    reading.classes = tuple(dict.fromkeys((*reading.classes, *categories.values())))
    boxes, bad = boxes_of(told.get("annotations", []), f"{file}: annotations", categories, reading)
    seen: set[int | str] = set()
    for source, image in objects(told["images"], f"{file}: images", reading.faults):
        try:
            number = identifier(image.get("id"), source, "key 'id'")
            if number in seen:
                raise BadRecord(source, f"key 'id': {number} is given a second time")
            seen.add(number)
            if number in bad:
                raise bad.pop(number)
            own = boxes.pop(number, [])
            name = text(image.get("file_name"), source, "key 'file_name'")
            folders = (*([f"{split}/", f"images/{split}/"] if split else []), "", "images/")
            picture = reading.picture([f"{folder}{name}" for folder in folders], source)
            size = size_of(image.get("width"), image.get("height"))
            found = Boxed(
                source, reading.name(picture), picture, tuple(box for box, _ in own), tuple(label for _, label in own), size=size,
                part=part_of(YEAR.sub("", split)),
            )  # fmt: skip
            reading.records.append(found)
        except BadRecord as fault:
            reading.faults.append(fault)
    reading.faults += bad.values()
    reading.faults += [BadRecord(f"{file}: annotations", f"image_id {shown(image)} is no id of images") for image in boxes]


def boxes_of(
    annotations: Any, where: str, categories: Mapping[int | str, str], reading: Reading
) -> tuple[dict[int | str, list[tuple[Box, str]]], dict[int | str, BadRecord]]:
    """The boxes with their labels by id of image, and a fault for each image that has a bad one."""
    boxes: dict[int | str, list[tuple[Box, str]]] = {}
    bad: dict[int | str, BadRecord] = {}
    for source, each in objects(annotations, where, reading.faults):
        try:
            category = identifier(each.get("category_id"), source, "key 'category_id'")
            if category not in categories:
                raise BadRecord(source, f"category_id {category} is no id of categories")
            x, y, width, height = numbers(each.get("bbox"), source, "key 'bbox'")
            if number(each.get("iscrowd", 0), source, "key 'iscrowd'"):
                reading.remarks["boxes around crowds (iscrowd), which are left out"] += 1
                continue
            boxes.setdefault(identifier(each.get("image_id"), source, "key 'image_id'"), []).append(
                ((x, y, x + width, y + height), categories[category])
            )
        except BadRecord as fault:
            image = each.get("image_id")
            bad.setdefault(image if isinstance(image, int | str) else source, fault)
    return boxes, bad


def identifier(value: Any, source: str, what: str) -> int | str:
    """A number or a text that names something. Raises `BadRecord`."""
    if not isinstance(value, int | str):
        raise BadRecord(source, f"{what}: {shown(value)} is given; a whole number is legal")
    return value
