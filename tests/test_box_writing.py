"""A model's boxes as files for labelling tools: the most doubtful pictures first, and no box that is none."""

from __future__ import annotations

import csv
import json
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from lab import predict
from lab.answers import predictions
from lab.answers.regions import RegionsTable
from lab.config import DataDial
from lab.data.box_file import formats, writing
from lab.data.box_file.writing import Drawn
from lab.data.splits import Records
from lab.errors import ConfigError
from lab.records import AnswerSpace, Located, Picture, Prediction, Region, Regions, Sample, Splits
from lab.run.predicting import Predicted
from lab.store.runs import Run

SIZES = ((60, 40), (33, 77), (50, 50))


@pytest.fixture
def boxed(tmp_path: Path) -> list[Drawn]:
    """Two boxes, one of them none; one box; no box. Two pictures share a name."""
    paths = [tmp_path / "pictures" / name for name in ("a/one.png", "b/one.png", "a/two.png")]
    for i, (path, size) in enumerate(zip(paths, SIZES, strict=True)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (i, i, i)).save(path)
    first = (Region("table", 3.0, 4.0, 30.5, 20.25), Region("table", 30.0, 4.0, 3.0, 20.0))
    return [
        Drawn(paths[1], SIZES[1], (Region("logo", 0.0, 1.0, 33.0, 77.0),), (0.25,)),
        Drawn(paths[0], SIZES[0], first, (0.5, 0.9)),
        Drawn(paths[2], SIZES[2], (), ()),
    ]


def test_a_yolo_folder_has_shares_of_each_picture_under_numbers_in_their_order(boxed: list[Drawn], tmp_path: Path) -> None:
    (path,) = writing.write(boxed, tmp_path / "out", ["yolo"], "run")
    assert yaml.safe_load(path.read_text())["names"] == ["logo", "table"]
    names = ["000001_one", "000002_one", "000003_two"]
    assert sorted(each.stem for each in (path.parent / "images").iterdir()) == names
    first, second, third = ((path.parent / "labels" / f"{name}.txt").read_text().split() for name in names)
    assert first == ["0", "0.5", "0.506494", "1", "0.987013"] and third == []
    assert [float(value) for value in second] == pytest.approx([1, 16.75 / 60, 12.125 / 40, 27.5 / 60, 16.25 / 40], abs=1e-6)


@pytest.mark.parametrize("name", ["coco", "yolo"])
def test_what_was_written_is_read(boxed: list[Drawn], tmp_path: Path, name: str) -> None:
    """By the readers of `data=boxes`, the pictures' folder given: labels, corners to a thousandth of a pixel, an empty picture."""
    (path,) = writing.write(boxed, tmp_path / "out", [name], "run")
    found, reading = formats.read(DataDial(name="boxes", path=str(path), root=str(tmp_path / "pictures") if name == "coco" else None))
    assert found == name and not reading.faults
    records = sorted(reading.records, key=lambda record: record.labels)
    assert [record.labels for record in records] == [(), ("logo",), ("table",)]
    for record, (width, height), corners in zip(records[1:], SIZES[1::-1], ((0, 1, 33, 77), (3, 4, 30.5, 20.25)), strict=True):
        scale = (width, height, width, height) if record.relative else (1, 1, 1, 1)
        assert [value * by for value, by in zip(record.boxes[0], scale, strict=True)] == pytest.approx(corners, abs=1e-3)


def test_label_studio_gets_predictions_whose_score_is_their_least(boxed: list[Drawn], tmp_path: Path) -> None:
    (path,) = writing.write(boxed, tmp_path / "out", ["label-studio"], "run")
    tasks = json.loads(path.read_text())
    assert [task["data"]["image"] for task in tasks] == [f"/data/local-files/?d={name}" for name in ("b/one.png", "a/one.png", "a/two.png")]
    assert [task["predictions"][0].get("score") for task in tasks] == [0.25, 0.5, None]
    (result,) = tasks[1]["predictions"][0]["result"]
    assert result["value"] == {
        "x": pytest.approx(5.0), "y": pytest.approx(10.0), "width": pytest.approx(100 * 27.5 / 60), "height": pytest.approx(100 * 16.25 / 40),
        "rotation": 0, "rectanglelabels": ["table"],
    }  # fmt: skip
    assert (result["original_width"], result["original_height"]) == (60, 40)


def test_ids_of_coco_count_from_one_and_boxes_that_are_none_are_left_out(boxed: list[Drawn], tmp_path: Path) -> None:
    (path,) = writing.write(boxed, tmp_path / "out", ["coco"], "run")
    told = json.loads(path.read_text())
    assert [image["id"] for image in told["images"]] == [1, 2, 3] and [one["id"] for one in told["annotations"]] == [1, 2]
    assert [one["score"] for one in told["annotations"]] == [0.25, 0.5]
    assert [one["name"] for one in told["categories"]] == ["logo", "table"]


def test_a_format_that_is_none_or_not_installed_is_said(monkeypatch) -> None:
    with pytest.raises(ConfigError, match="'voc' is none. Legal: coco, yolo, label-studio, fiftyone"):
        writing.check(["coco", "voc"])
    monkeypatch.setattr(writing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="FiftyOne is not installed"):
        writing.check(["fiftyone"])


def test_fiftyone_is_given_shares_of_the_picture(boxed: list[Drawn], tmp_path: Path, monkeypatch) -> None:
    """Of a package that is not installed here: what it would be called with."""
    added: list[Any] = []

    class Dataset:
        def add_samples(self, samples: list[Any]) -> None:
            added.extend(samples)

        def export(self, **given: Any) -> None:
            assert given["export_dir"] == str(tmp_path / "out" / "fiftyone") and not given["export_media"]

    made = types.SimpleNamespace(Dataset=Dataset, Sample=dict, Detection=dict, Detections=dict)
    made.types = types.SimpleNamespace(FiftyOneDataset="FiftyOneDataset")
    monkeypatch.setitem(sys.modules, "fiftyone", made)
    monkeypatch.setattr(writing.importlib.util, "find_spec", lambda name: object())
    writing.write(boxed, tmp_path / "out", ["fiftyone"], "run")
    (found,) = added[1]["predictions"]["detections"]
    assert found["bounding_box"] == pytest.approx([0.05, 0.1, 27.5 / 60, 16.25 / 40]) and found["confidence"] == 0.5


def test_the_most_doubtful_pictures_come_first(tmp_path: Path) -> None:
    """By the least score of their boxes; an answer that could not be read before all; a crop gets a file of its own."""
    Image.new("RGB", (50, 40)).save(tmp_path / "whole.png")
    pictures = [Picture(str(tmp_path / "whole.png"))] * 3 + [Picture(str(tmp_path / "whole.png"), crop=(0, 0, 30, 20))]
    split = Records([Sample(str(i), "where?", (one,), Regions((), (50, 40)), str(i), str(i)) for i, one in enumerate(pictures)])
    box, columns = Region("table", 1.0, 2.0, 3.0, 4.0), np.empty((2, 4), dtype=object)
    columns[0] = [(box,), (), (), (box, box)]
    columns[1] = [(0.9,), (), (), (0.8, 0.3)]
    table = RegionsTable(
        regions=columns[0], scores=columns[1], status=np.array(["ok", "empty", "failed", "ok"], dtype=object), tokens=np.full(4, 2),
        log_p=np.log([0.5, 0.25, 1.0, 0.1]), width=np.array([50, 50, 50, 30]), height=np.array([40, 40, 40, 20]),
    )  # fmt: skip
    assert writing.certainty(table).tolist() == pytest.approx([0.9, 0.5, 0.0, 0.3])
    found = writing.of_table(table, split, tmp_path / "pictures")
    assert [one.scores for one in found] == [(), (0.8, 0.3), (), (0.9,)]
    with Image.open(found[1].path) as cut:
        assert cut.size == (30, 20) == found[1].size
    assert found[3].path == tmp_path / "whole.png"


def test_a_prediction_writes_boxes_in_a_table_a_page_and_files_for_labelling(boxed: list[Drawn], tmp_path: Path) -> None:
    """Lists stand as JSON in CSV; on the page no box is called true or false, as nobody knows."""
    rows, samples = [], []
    for i, one in enumerate(boxed):
        answer = Regions((), one.size)
        said = Located("text", "json", "ok" if one.regions else "empty", one.regions, one.scores, 3, True, -0.5)
        rows.append(Prediction(str(i), str(i), str(i), None, answer, said, (0,), (4,)))
        samples.append(Sample(str(i), "where?", (Picture(str(one.path)),), answer, str(i), str(i)))
    splits = Splits(Records(()), Records(()), Records(samples), answers=AnswerSpace(Regions.kind, ()))
    run = Run("1a2b", "an arm", {}, "python -m lab.train")
    predict.write(Predicted(run, splits, predictions.table(rows), {}), tmp_path / "out", 10)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["image", "question", "answer", "regions", "scores", "status", "width", "height", "probability", "id"]
    assert json.loads(table[1]["regions"])[0] == {"label": "table", "x0": 3.0, "y0": 4.0, "x1": 30.5, "y1": 20.25}
    assert json.loads(table[1]["scores"]) == [0.5, 0.9] and table[2]["status"] == "empty"
    page = (tmp_path / "out" / "gallery.html").read_text()
    assert page.count('class="box predicted"') == 3 and 'class="box false"' not in page and "least F1" not in page
    held = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {"coco.json", "label_studio.json", "yolo/data.yaml", "yolo/images/000001_one.png", "predictions.parquet", "failed.csv"} <= held
    assert json.loads((tmp_path / "out" / "coco.json").read_text())["annotations"][0]["score"] == 0.25
