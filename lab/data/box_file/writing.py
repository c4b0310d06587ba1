"""A model's boxes as files from which labelling goes on: COCO JSON, a YOLO folder, Label Studio's pre-annotations, a FiftyOne data set.

Pictures stand most doubtful first. A box that is none inside its picture (`Region.valid`) is left out.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import yaml

from lab.answers.regions import RegionsTable
from lab.data.images import decode
from lab.errors import ConfigError
from lab.host.files import write_atomically
from lab.records import Picture, Region, Split


@dataclass(frozen=True)
class Drawn:
    """A picture's file, its (width, height) as shown, and the boxes in it with their scores, () without any."""

    path: Path
    size: tuple[int, int]
    regions: tuple[Region, ...]
    scores: tuple[float, ...]

    @property
    def boxes(self) -> list[tuple[Region, float | None]]:
        """The boxes that are some, each with its score."""
        scores = self.scores or (None,) * len(self.regions)
        return [(region, score) for region, score in zip(self.regions, scores, strict=True) if region.valid(self.size)]


def of_table(table: RegionsTable, split: Split, folder: Path) -> list[Drawn]:
    """The answers to all questions of a split, most doubtful first. folder: for pictures that have no whole file of their own."""
    made = []
    for row in np.argsort(certainty(table), kind="stable").tolist():
        picture, path = split.index(row).images[0], folder / f"{row + 1:06d}.png"
        assert isinstance(picture, Picture)  # boxes are of pictures
        if picture.data is None and picture.crop is None and Path(picture.source).is_file():
            path = Path(picture.source)
        else:
            image = decode(split[row].images[0])
            write_atomically(path, lambda to, image=image: image.save(to, "PNG"))
        made.append(Drawn(path, (int(table.width[row]), int(table.height[row])), table.regions[row], table.scores[row]))
    return made


def certainty(table: RegionsTable) -> np.ndarray:
    """How sure each answer is, [n]: the least score of its boxes, else the mean probability of its tokens; 0 where no box was read."""
    mean = np.exp(np.minimum(table.log_p, 0.0) / np.maximum(table.tokens, 1))
    least = np.array([min(scores, default=one) for scores, one in zip(table.scores, mean.tolist(), strict=True)])
    return np.where(table.status == "failed", 0.0, least)


def write(boxed: Sequence[Drawn], folder: Path, formats: Sequence[str], model: str) -> list[Path]:
    """Write every format into a folder; the files. model: who drew the boxes. Raises `ConfigError` for a format that is none."""
    check(formats)
    root = Path(os.path.commonpath([one.path.resolve().parent for one in boxed]))
    labels = sorted({region.label for one in boxed for region, _ in one.boxes})
    return [FORMATS[name](boxed, folder, root, labels, model) for name in formats]


def check(formats: Sequence[str]) -> None:
    """Raise a `ConfigError` for formats that are none, or need a package that is not here."""
    if wrong := [name for name in formats if name not in FORMATS]:
        raise ConfigError(f"--format {','.join(formats)}: {wrong[0]!r} is none. Legal: {', '.join(FORMATS)}, with commas between them.")
    if "fiftyone" in formats and importlib.util.find_spec("fiftyone") is None:
        raise ConfigError("--format fiftyone: FiftyOne is not installed. Install it with `pip install fiftyone`, or leave it out.")


def relative(one: Drawn, root: Path) -> str:
    """A picture's file below the folder that holds all."""
    return one.path.resolve().relative_to(root).as_posix()


def coco(boxed: Sequence[Drawn], folder: Path, root: Path, labels: Sequence[str], model: str) -> Path:
    """`coco.json`: ids from 1, boxes as x, y, width, height in pixels, each with its score."""
    images, annotations = [], []
    for number, one in enumerate(boxed, 1):
        images.append({"id": number, "file_name": relative(one, root), "width": one.size[0], "height": one.size[1]})
        for region, score in one.boxes:
            box = [region.x0, region.y0, region.x1 - region.x0, region.y1 - region.y0]
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": labels.index(region.label) + 1, "bbox": box, "iscrowd": 0}
            annotations.append(entry | {"area": box[2] * box[3]} | ({} if score is None else {"score": score}))
    categories = [{"id": number, "name": label} for number, label in enumerate(labels, 1)]
    values = {"info": {"description": f"boxes of {model}"}, "images": images, "annotations": annotations, "categories": categories}
    write_atomically(folder / "coco.json", json.dumps(values) + "\n")
    return folder / "coco.json"


def yolo(boxed: Sequence[Drawn], folder: Path, root: Path, labels: Sequence[str], model: str) -> Path:
    """`yolo/`: pictures and labels under numbers in their order, so that tools show them so."""
    folder = folder / "yolo"
    for number, one in enumerate(boxed, 1):
        name = f"{number:06d}_{one.path.stem}"
        lines = [
            " ".join(f"{value:.6f}".rstrip("0").rstrip(".") for value in (
                labels.index(region.label), (region.x0 + region.x1) / 2 / one.size[0], (region.y0 + region.y1) / 2 / one.size[1],
                (region.x1 - region.x0) / one.size[0], (region.y1 - region.y0) / one.size[1],
            )) for region, _ in one.boxes
        ]  # fmt: skip
        write_atomically(folder / "labels" / f"{name}.txt", "".join(f"{line}\n" for line in lines))
        write_atomically(folder / "images" / f"{name}{one.path.suffix}", lambda path, one=one: shutil.copyfile(one.path, path))
    values = {"path": ".", "train": "images", "names": list(labels)}
    write_atomically(folder / "data.yaml", yaml.safe_dump(values, sort_keys=False))
    return folder / "data.yaml"


def label_studio(boxed: Sequence[Drawn], folder: Path, root: Path, labels: Sequence[str], model: str) -> Path:
    """`label_studio.json`: tasks with predictions; pictures by Label Studio's local storage, whose root is the folder that holds all."""
    tasks = []
    for number, one in enumerate(boxed, 1):
        (width, height), result = one.size, []
        for place, (region, score) in enumerate(one.boxes, 1):
            value = {
                "x": 100 * region.x0 / width, "y": 100 * region.y0 / height, "width": 100 * (region.x1 - region.x0) / width,
                "height": 100 * (region.y1 - region.y0) / height, "rotation": 0, "rectanglelabels": [region.label],
            }  # fmt: skip
            entry = {"id": f"{number}-{place}", "type": "rectanglelabels", "from_name": "label", "to_name": "image", "value": value}
            entry |= {"original_width": width, "original_height": height, "image_rotation": 0} | ({} if score is None else {"score": score})
            result.append(entry)
        known = [score for _, score in one.boxes if score is not None]
        prediction = {"model_version": model, "result": result} | ({"score": min(known)} if known else {})
        tasks.append({"data": {"image": f"/data/local-files/?d={quote(relative(one, root))}"}, "predictions": [prediction]})
    write_atomically(folder / "label_studio.json", json.dumps(tasks) + "\n")
    return folder / "label_studio.json"


def fiftyone(boxed: Sequence[Drawn], folder: Path, root: Path, labels: Sequence[str], model: str) -> Path:
    """`fiftyone/`: a data set with the boxes in its field `predictions`."""
    fo: Any = importlib.import_module("fiftyone")
    samples = []
    for one in boxed:
        width, height = one.size
        boxes = [
            fo.Detection(
                label=region.label, confidence=score,
                bounding_box=[region.x0 / width, region.y0 / height, (region.x1 - region.x0) / width, (region.y1 - region.y0) / height],
            ) for region, score in one.boxes
        ]  # fmt: skip
        samples.append(fo.Sample(filepath=str(one.path.resolve()), predictions=fo.Detections(detections=boxes)))
    dataset = fo.Dataset()
    dataset.add_samples(samples)
    dataset.export(export_dir=str(folder / "fiftyone"), dataset_type=fo.types.FiftyOneDataset, export_media=False)
    return folder / "fiftyone"


FORMATS: dict[str, Callable[[Sequence[Drawn], Path, Path, Sequence[str], str], Path]] = {
    "coco": coco,
    "yolo": yolo,
    "label-studio": label_studio,
    "fiftyone": fiftyone,
}
