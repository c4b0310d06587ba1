"""Drawn pictures with boxes, and writers of every format that `data=boxes` reads."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import ExifTags, Image, ImageDraw

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Drawn:
    """A picture of a folder. boxes: (label, x0, y0, x1, y1) in pixels; None: nobody has labelled it."""

    name: str
    size: tuple[int, int]
    boxes: tuple[tuple[str, float, float, float, float], ...] | None
    split: str | None = None


def draw(folder: Path, number: int = 20, split: Callable[[int], str | None] = lambda at: None) -> list[Drawn]:
    """Pictures of sizes of their own with none to three boxes of two classes, whole numbers of pixels inside."""
    found = []
    for at in range(number):
        width, height = 100 + 2 * at, 80
        boxes = tuple(("table" if k % 2 else "logo", 10 + 30 * k, 8 + k + at % 5, 30 + 30 * k, 40 + at % 5) for k in range(at % 4))
        found.append(Drawn(f"{at}.png", (width, height), boxes, split(at)))
        paint(folder / found[-1].name, found[-1])
    return found


def paint(path: Path, drawn: Drawn) -> None:
    """The picture, with a dark rectangle for each box."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", drawn.size, (220, 220, 200))
    for label, *box in drawn.boxes or ():
        ImageDraw.Draw(image).rectangle([box[0], box[1], box[2] - 1, box[3] - 1], "navy" if label == "table" else "olive")
    image.save(path)


def turn(path: Path, shown: Image.Image, orientation: int) -> None:
    """Store a picture as a camera does that was held otherwise: turned, with the EXIF tag that says so."""
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    (shown if undo is None else shown.transpose(Image.Transpose(undo))).save(path, exif=exif, quality=95)


def coco(folder: Path, drawn: Sequence[Drawn], first: int = 0, ids: Sequence[int] = (0, 7)) -> Path:
    """COCO JSON; ids of categories, pictures and boxes as given, the classes' names after two others."""
    categories = dict(zip(("logo", "table"), ids, strict=True))
    images = [{"id": first + at, "file_name": one.name, "width": one.size[0], "height": one.size[1]} for at, one in enumerate(drawn)]
    boxes = [(at, box) for at, one in enumerate(drawn) for box in one.boxes or ()]
    annotations = [
        {"id": number, "image_id": first + at, "category_id": categories[label], "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0}
        for number, (at, (label, x0, y0, x1, y1)) in enumerate(boxes)
    ]
    told = {"images": images, "annotations": annotations, "categories": [{"id": i, "name": name} for name, i in categories.items()]}
    return written(folder / "coco.json", json.dumps(told))


def yolo(folder: Path, drawn: Sequence[Drawn]) -> Path:
    """A YOLO folder, all of it under `train` unless pictures have splits."""
    places = {}
    for one in drawn:
        word = one.split or "train"
        places[word] = f"../{word}/images"
        (folder / word / "images").mkdir(parents=True, exist_ok=True)
        (folder / one.name).rename(folder / word / "images" / one.name)
        lines = [
            f"{('logo', 'table').index(label)} {(x0 + x1) / 2 / one.size[0]:.8f} {(y0 + y1) / 2 / one.size[1]:.8f} "
            f"{(x1 - x0) / one.size[0]:.8f} {(y1 - y0) / one.size[1]:.8f}"
            for label, x0, y0, x1, y1 in one.boxes or ()
        ]
        if one.boxes is not None:
            written(folder / word / "labels" / one.name.replace(".png", ".txt"), "\n".join(lines))
    return written(folder / "data.yaml", yaml.safe_dump({"names": ["logo", "table"], "nc": 2, **places}))


def voc(folder: Path, drawn: Sequence[Drawn]) -> Path:
    """VOC: pixels from 1, both corners inside."""
    for one in drawn:
        (folder / "JPEGImages").mkdir(exist_ok=True)
        (folder / one.name).rename(folder / "JPEGImages" / one.name)
        corners = ("xmin", "ymin", "xmax", "ymax")
        objects = "".join(
            f"<object><name>{label}</name><bndbox>{''.join(f'<{k}>{v}</{k}>' for k, v in zip(corners, (x0 + 1, y0 + 1, x1, y1), strict=True))}"
            "</bndbox></object>"
            for label, x0, y0, x1, y1 in one.boxes or ()
        )
        size = f"<size><width>{one.size[0]}</width><height>{one.size[1]}</height></size>"
        if one.boxes is not None:
            file = folder / "Annotations" / one.name.replace(".png", ".xml")
            written(file, f"<annotation><filename>{one.name}</filename>{size}{objects}</annotation>")
    return folder


def cvat(folder: Path, drawn: Sequence[Drawn]) -> Path:
    """CVAT for images 1.1."""
    lines = ["<annotations><version>1.1</version><meta><task><labels><label><name>logo</name></label></labels></task></meta>"]
    for at, one in enumerate(drawn):
        lines.append(f'<image id="{at}" name={quoteattr(one.name)} width="{one.size[0]}" height="{one.size[1]}">')
        lines += [f'<box label="{label}" xtl="{x0}" ytl="{y0}" xbr="{x1}" ybr="{y1}"/>' for label, x0, y0, x1, y1 in one.boxes or ()]
        lines.append("</image>")
    return written(folder / "annotations.xml", "\n".join([*lines, "</annotations>"]))


def label_studio(folder: Path, drawn: Sequence[Drawn]) -> Path:
    """Label Studio's JSON, of uploaded pictures with one annotation each; none for pictures that nobody has labelled."""
    tasks = []
    for at, one in enumerate(drawn):
        width, height = one.size
        results = [
            {
                "type": "rectanglelabels", "original_width": width, "original_height": height, "to_name": "image",
                "value": {
                    "x": 100 * x0 / width, "y": 100 * y0 / height, "width": 100 * (x1 - x0) / width, "height": 100 * (y1 - y0) / height,
                    "rotation": 0, "rectanglelabels": [label],
                },
            }
            for label, x0, y0, x1, y1 in one.boxes or ()
        ]  # fmt: skip
        annotations = [] if one.boxes is None else [{"result": results, "was_cancelled": False}]
        tasks.append({"id": at, "annotations": annotations, "data": {"image": f"/data/upload/1/0a1b2c3d-{one.name}", "note": "x"}})
    return written(folder / "tasks.json", json.dumps(tasks))


def json_lines(folder: Path, drawn: Sequence[Drawn]) -> Path:
    """JSON Lines; `boxes` null for pictures that nobody has labelled."""
    rows = [
        {"image": one.name, "boxes": None if one.boxes is None else [box[1:] for box in one.boxes], "labels": [box[0] for box in one.boxes or ()]}
        | ({"split": one.split} if one.split else {})
        for one in drawn
    ]
    return written(folder / "boxes.jsonl", "\n".join(map(json.dumps, rows)))


def nutrition(folder: Path, rows: Sequence[tuple[str, tuple[int, int], Sequence[Sequence[float]]]], split: str) -> None:
    """A split in the layout of openfoodfacts/nutrition-table-detection. rows: image_id, size, boxes as y0, x0, y1, x1 in 0-1."""
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    objects = pa.struct([("bbox", pa.list_(pa.list_(pa.float32()))), ("category_id", pa.list_(pa.int64())), ("category_name", pa.list_(pa.string()))])
    meta = pa.struct([("barcode", pa.string()), ("off_image_id", pa.string()), ("image_url", pa.string())])
    images, told = [], []
    for at, (_, size, boxes) in enumerate(rows):
        image = Image.new("RGB", size, (at % 250, 60 if split == "val" else 160, 90))
        for y0, x0, y1, x1 in boxes:
            image.paste("white", (round(x0 * size[0]), round(y0 * size[1]), round(x1 * size[0]), round(y1 * size[1])))
        out = io.BytesIO()
        image.save(out, "PNG")
        images.append({"bytes": out.getvalue(), "path": None})
        told.append({"bbox": boxes, "category_id": [0] * len(boxes), "category_name": ["nutrition-table"] * len(boxes)})
    names = [name for name, *_ in rows]
    table = pa.table({
        "image_id": names, "image": pa.array(images, cell), "width": [size[0] for _, size, _ in rows], "height": [size[1] for _, size, _ in rows],
        "meta": pa.array([{"barcode": name.split("_")[0], "off_image_id": name.split("_")[1], "image_url": ""} for name in names], meta),
        "objects": pa.array(told, objects),
    })  # fmt: skip
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")


WRITERS: dict[str, Callable[[Path, Sequence[Drawn]], Path]] = {
    "coco": coco, "yolo": yolo, "voc": voc, "cvat": cvat, "label_studio": label_studio, "json_lines": json_lines,
}  # fmt: skip


def written(path: Path, text: str) -> Path:
    """A text file in a folder that is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path
