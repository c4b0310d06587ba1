"""Which format a file or folder of boxes is in, by its content, and its reader."""

from __future__ import annotations

import re
from pathlib import Path

from lab import paths
from lab.config import DataDial
from lab.data import manifest
from lab.data.box_file import coco, cvat, json_lines, label_studio, voc, yolo
from lab.data.box_file.records import Reading
from lab.data.files import open_regular
from lab.errors import ConfigError, DataError, did_you_mean

NAMES = {
    "coco": "COCO JSON (.json, or a folder of <split>/_annotations.coco.json or annotations/*.json)",
    "yolo": "a YOLO folder (data.yaml)",
    "voc": "Pascal VOC (.xml, or a folder of them)",
    "cvat": "CVAT for images 1.1 (.xml)",
    "label_studio": "Label Studio's JSON export (.json)",
    "json_lines": "JSON Lines with image, boxes, labels (.jsonl, .json)",
}
HEAD = 1 << 16
"""Bytes of a file by which its format is told."""


def format_of(path: Path) -> str | None:
    """The key of `NAMES` that a file or folder is; None for another. Raises `DataError` for one that cannot be read."""
    if path.is_dir():
        if yolo.file_in(path):
            return "yolo"
        return "coco" if coco.files(path) else "voc" if next(path.rglob("*.xml"), None) else None
    ending = path.suffix.lower()
    if not path.is_file() or ending not in (".yaml", ".yml", ".json", ".jsonl", ".ndjson", ".xml"):
        return None
    if ending in (".yaml", ".yml"):
        return "yolo"
    try:
        with open_regular(path) as file:
            head = file.read(HEAD).decode("utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    except (OSError, ValueError) as error:
        raise DataError(f"data.path={path}: it cannot be read ({error}).") from None
    return of_xml(head) if ending == ".xml" else of_json(head, ending)


def of_xml(head: str) -> str | None:
    """The format of an XML file, by its first element."""
    root = re.search(r"<([A-Za-z]+)[\s>]", head)
    return {"annotations": "cvat", "annotation": "voc"}.get(root[1]) if root else None


def of_json(head: str, ending: str) -> str | None:
    """The format of a JSON file by its beginning: an object over several lines, a list of tasks, or records."""
    if '"boxes"' in head.partition("\n")[0] or (head.startswith("[") and re.search(r'"boxes"\s*:', head)):
        return "json_lines"
    if head.startswith("[") and re.search(r'"(annotations|completions)"\s*:', head):
        return "label_studio"
    return "coco" if ending == ".json" and head.startswith("{") and re.search(r'"(images|annotations|categories|info|licenses)"\s*:', head) else None


def check_columns(dial: DataDial, name: str) -> None:
    """Raise a `ConfigError` for a key of `data.columns` that a format does not read."""
    legal = {"json_lines": json_lines.COLUMNS, "label_studio": ("image",)}.get(name, ())
    for column in dial.columns:
        if column not in legal:
            told = f"legal are {', '.join(legal)}" if legal else "it has no names of one's own"
            raise ConfigError(f"data.columns.{column}: {dial.path} is {NAMES[name].partition(' (')[0]}; {told}.{did_you_mean(column, legal)}")


def read(dial: DataDial) -> tuple[str, Reading]:
    """The format of the file that `data.path` names, and all of it. Raises `ConfigError` or `DataError`."""
    path = Path(str(dial.path)).resolve()
    if not path.exists():
        raise DataError(paths.absent("data.path", str(dial.path), "file or folder"))
    name = format_of(path)
    if name is None:
        unpack = " Unpack it first." if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz") else ""
        raise ConfigError(f"data.path={dial.path}: it is none of {'; '.join(NAMES.values())}.{unpack}")
    folder = paths.path(dial.root, "data.root") if dial.root else path if path.is_dir() else path.parent
    check_columns(dial, name)
    reading = Reading(manifest.Root(folder))
    match name:
        case "coco":
            coco.read(path, reading)
        case "yolo":
            yolo.read(path, reading)
        case "voc":
            voc.read(path, reading)
        case "cvat":
            cvat.read(path, reading)
        case "label_studio":
            label_studio.read(path, reading, dial.columns.get("image"))
        case _:
            json_lines.read(path, reading, dial.columns)
    return name, reading
