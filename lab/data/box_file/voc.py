"""Pascal VOC: an XML file for each picture, beside it or in `Annotations` with the pictures in `JPEGImages`.

Pixels count from 1 and both corners are inside, as the VOC devkit writes them: 1..100 of 100 pixels is 0 to 100, the whole picture.
Splits are `ImageSets/Main/<split>.txt`, or folders named so. A picture without an XML file is one that nobody has labelled.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element

from lab.data.box_file.records import Box, Boxed, Reading, number, part_of, size_of, text
from lab.data.box_file.xml import tree
from lab.data.faults import BadRecord, shown
from lab.data.files import read_text
from lab.data.question_file.unanswered import PICTURES

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read(path: Path, reading: Reading) -> None:
    """Add every picture of a folder, or of one XML file."""
    files = [path] if path.is_file() else sorted(path.rglob("*.xml"))
    splits = {name: part for part, names in listed(path).items() for name in names}
    for file in files:
        try:
            reading.records.append(boxed(file, tree(file), splits.get(file.stem) or part_in(file, path), reading))
        except BadRecord as fault:
            reading.faults.append(fault)
    if path.is_dir():
        known = {record.picture.source for record in reading.records}
        folders = sorted({Path(source).parent for source in known})
        for picture in (each for folder in folders for each in sorted(folder.iterdir()) if each.suffix.lower() in PICTURES):
            if str(picture) not in known:
                found = reading.picture([picture.relative_to(reading.root.folder).as_posix()], str(picture))
                part = splits.get(picture.stem) or part_in(picture, path)
                reading.records.append(Boxed(str(picture), reading.name(found), found, (), (), reviewed=False, part=part))


def listed(path: Path) -> dict[str, list[str]]:
    """Names of pictures without their ending, by part, as `ImageSets/Main` lists them."""
    lists = {file: part for file in sorted((path / "ImageSets" / "Main").glob("*.txt")) if (part := part_of(file.stem))}
    return {part: [line.split()[0] for line in read_text(file).split("\n") if line.strip()] for file, part in lists.items()}


def part_in(file: Path, path: Path) -> str | None:
    """The part that a folder between the data's and a file's is named by."""
    return next((part for word in file.relative_to(path).parts[:-1] if (part := part_of(word))), None) if path.is_dir() else None


def boxed(file: Path, root: Element, part: str | None, reading: Reading) -> Boxed:
    """The picture of one XML file. Raises `BadRecord`."""
    if root.tag != "annotation":
        raise BadRecord(str(file), f"its first element is {shown(root.tag)}; annotation is legal")
    given = text(root.findtext("filename") or file.stem, str(file), "filename")
    folder = file.parent.relative_to(reading.root.folder).as_posix() if file.is_relative_to(reading.root.folder) else "."
    places = [*([f"{Path(folder).parent.as_posix()}/JPEGImages/"] if file.parent.name == "Annotations" else []), f"{folder}/", ""]
    names = [given] if Path(given).suffix.lower() in PICTURES else [f"{given}{ending}" for ending in (".jpg", ".jpeg", ".png")]
    picture = reading.picture([f"{place}{name}" for place in places for name in names], str(file))
    found = [box_of(each, f"{file}: object {at}") for at, each in enumerate(root.findall("object"), 1)]
    size = size_of(root.findtext("size/width"), root.findtext("size/height"))
    boxes, labels = tuple(box for box, _ in found), tuple(label for _, label in found)
    return Boxed(str(file), reading.name(picture), picture, boxes, labels, size=size, part=part)


def box_of(each: Element, source: str) -> tuple[Box, str]:
    """The box of an object with its label. Raises `BadRecord`."""
    x0, y0, x1, y1 = (number(each.findtext(f"bndbox/{corner}"), source, f"bndbox/{corner}") for corner in CORNERS)
    return (x0 - 1, y0 - 1, x1, y1), text(each.findtext("name"), source, "name")
