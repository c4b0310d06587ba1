"""A YOLO folder: `data.yaml` with `names` and `train`, `val`, `test`; beside each picture of `images/` a text file in `labels/`.

A line holds the class's number and x, y of the centre, width and height as shares of the picture's sides. Six columns are a prediction
with its score, and refused; an odd number from seven on is a polygon, whose enclosing box is read. An empty text file says that the
picture is empty; without a text file nobody has labelled it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lab.data.box_file.records import Box, Boxed, Reading, enclosing, number, part_of, text
from lab.data.faults import BadRecord, shown
from lab.data.files import read_text, why_unreadable
from lab.data.question_file.unanswered import PICTURES
from lab.errors import DataError

FILES = ("data.yaml", "data.yml", "dataset.yaml")


def file_in(folder: Path) -> Path | None:
    """The file of a YOLO folder that names its classes."""
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def read(path: Path, reading: Reading) -> None:
    """Add every picture of each split. Raises `DataError` for a file that names no classes or no pictures."""
    file = path if path.is_file() else file_in(path)
    assert file is not None
    try:
        told = yaml.safe_load(read_text(file))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise DataError(f"{file}: it cannot be read as YAML ({' '.join(str(error).split())[:200]}).") from None
    told = told if isinstance(told, dict) else {}
    names = names_of(told.get("names"), file)
    reading.classes = tuple(names.values())
    given = {word: places for word in ("train", "val", "test") if (places := told.get(word))}
    if not given:
        raise DataError(f"{file}: it names no pictures; train, val and test name folders of them.")
    for word, places in given.items():
        for place in places if isinstance(places, list) else [places]:
            for picture in pictures_of(str(place), file, reading):
                add(picture, word, names, reading)


def names_of(given: Any, file: Path) -> dict[int, str]:
    """The classes by number, of a list or of an object. Raises `DataError`."""
    named = dict(enumerate(given)) if isinstance(given, list) else given
    if not isinstance(named, dict) or not named or not all(type(key) is int for key in named):
        raise DataError(f"{file}: names is {shown(given)}; a list of the classes is legal, or their names by number.")
    try:
        return {key: text(str(name), str(file), "names") for key, name in named.items()}
    except BadRecord as fault:
        raise DataError(f"{fault}.") from None


def pictures_of(place: str, file: Path, reading: Reading) -> list[Path]:
    """The pictures in a folder, or in a list of them, below the root; `../` before it, as some exports write it, leads nowhere."""
    try:
        found = reading.root.file(place.removeprefix("../").removeprefix("./") or ".", str(file))
    except BadRecord as fault:
        raise DataError(f"{fault}. Give the folder that all pictures lie in as data.root.") from None
    if found.is_dir():
        return sorted(each for each in found.rglob("*") if each.suffix.lower() in PICTURES)
    try:
        lines = read_text(found).split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: {place}: {why_unreadable(error)}; a folder of pictures is legal, or a text file with one path a line.") from None
    return [reading.root.file(line.strip().removeprefix("./"), f"{found}:{at}") for at, line in enumerate(lines, 1) if line.strip()]


def add(picture: Path, word: str, names: Mapping[int, str], reading: Reading) -> None:
    """Add one picture with the boxes of its text file."""
    at = next((at for at in range(len(picture.parts) - 2, 0, -1) if picture.parts[at] == "images"), None)
    beside = picture if at is None else Path(*picture.parts[:at], "labels", *picture.parts[at + 1 :])
    file = beside.with_suffix(".txt")
    try:
        found = [box_of(line.split(), f"{file}:{row}", names, reading) for row, line in enumerate(lines_of(file), 1) if line.strip()]
        shown_as = reading.picture([picture.relative_to(reading.root.folder).as_posix()], str(picture))
        boxes, labels = tuple(box for box, _ in found), tuple(label for _, label in found)
        made = Boxed(str(picture), reading.name(shown_as), shown_as, boxes, labels, file.is_file(), relative=True, part=part_of(word))
        reading.records.append(made)
    except BadRecord as fault:
        reading.faults.append(fault)


def lines_of(file: Path) -> list[str]:
    """The lines of a text file; none where it is not there. Raises `BadRecord`."""
    try:
        return read_text(file).split("\n") if file.exists() else []
    except (OSError, ValueError) as error:
        raise BadRecord(str(file), why_unreadable(error)) from None


def box_of(columns: list[str], source: str, names: Mapping[int, str], reading: Reading) -> tuple[Box, str]:
    """The box of one line with its label. Raises `BadRecord`."""
    if not columns[0].isdecimal() or int(columns[0]) not in names:
        raise BadRecord(source, f"class {shown(columns[0])} is none of the {len(names)} names in data.yaml")
    values = [number(column, source, "a column") for column in columns[1:]]
    label = names[int(columns[0])]
    if len(values) == 4:
        x, y, width, height = values
        return (x - width / 2, y - height / 2, x + width / 2, y + height / 2), label
    if len(values) >= 6 and len(values) % 2 == 0:
        reading.remarks["polygons, whose enclosing box is read"] += 1
        return enclosing(list(zip(values[::2], values[1::2], strict=True))), label
    legal = "5 are a box, an odd number from 7 on is a polygon"
    reason = "a sixth column is the score of a prediction, which is no annotation" if len(values) == 5 else legal
    raise BadRecord(source, f"{len(columns)} columns are given; {reason}")
