"""A user's own file of boxes: every format gives the same, frames and edges are told, unlabelled pictures are never negatives."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from box_files import WRITERS, Drawn, coco, draw, json_lines, label_studio, nutrition, turn, voc, written, yolo
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from lab import data
from lab.config import DataDial, OnBad, identity
from lab.data import check
from lab.data.box_file.frames import as_shown
from lab.errors import LabError
from lab.records import Regions, Sample, Splits

QUESTION = "Detect all objects: {classes}"
PARTS = ("train", "minival", "dev")
SEES_EMPTY = {"yolo", "voc", "label_studio", "json_lines"}
"""Formats that tell an empty picture from one that nobody has labelled."""


def dial(path: Path, **keys) -> DataDial:
    return DataDial(name="boxes", path=str(path), **({"question": QUESTION} | keys))


def load(path: Path, **keys) -> Splits:
    return data.load(dial(path, **keys), path.parent / "cache")


def samples(splits: Splits, *parts: str) -> list[Sample]:
    return [getattr(splits, part).index(i) for part in parts or PARTS for i in range(len(getattr(splits, part)))]


def boxes(splits: Splits) -> dict[str, tuple[tuple, ...]]:
    """Every picture's boxes by its file's name, in hundredths of a pixel."""
    found = {}
    for sample in samples(splits):
        assert isinstance(sample.answer, Regions)
        rounded = [(box.label, *(round(100 * each) / 100 for each in box[1:])) for box in sample.answer.regions]
        found[Path(sample.images[0].source).name] = tuple(rounded)
    return found


def wanted(drawn: list[Drawn]) -> dict[str, tuple[tuple, ...]]:
    """The same of what was drawn, without pictures that nobody has labelled."""
    return {one.name: tuple(sorted(one.boxes, key=lambda box: (box[2], box[1]))) for one in drawn if one.boxes is not None}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_what_was_drawn(name: str, tmp_path) -> None:
    """Also with ids from 0 and with gaps; an empty picture is asked about where the format knows it, an unlabelled one never."""
    drawn = draw(tmp_path)
    drawn[1] = Drawn(drawn[1].name, drawn[1].size, None)
    path = WRITERS[name](tmp_path, drawn)
    splits = load(path, empty="reviewed" if name == "coco" else None)
    expected = wanted(drawn) if name in SEES_EMPTY else wanted([one for one in drawn if one.boxes or name == "coco"])
    expected |= {drawn[1].name: ()} if name == "coco" else {}
    assert boxes(splits) == expected
    assert {sample.text for sample in samples(splits)} == {"Detect all objects: logo, table"}
    assert all(len(getattr(splits, part)) >= 1 for part in PARTS) and len({sample.image_set for sample in samples(splits)}) == len(expected)
    assert all(sample.answer.size == sample.images[0].size for sample in samples(splits))
    unlabelled = {"coco": 0, "cvat": 6}.get(name, 1)
    assert f"left out: {unlabelled}." in splits.notes[0] and f"empty: {sum(not one for one in expected.values())} " in splits.notes[0]
    assert any("the format does not say" in note for note in splits.notes) == (name == "cvat")
    for file in [one for one in tmp_path.rglob("*") if one.suffix in (".json", ".jsonl", ".txt", ".xml", ".yaml") and "cache" not in one.parts]:
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert boxes(load(path, empty="reviewed" if name == "coco" else None)) == expected, "a byte-order mark changes nothing"


def test_an_unlabelled_picture_is_no_negative_whatever_is_asked(tmp_path) -> None:
    with pytest.raises(LabError, match="data.empty=reviewed: Label Studio's JSON export says itself"):
        load(label_studio(tmp_path, draw(tmp_path)), empty="reviewed")


def test_a_format_that_does_not_tell_empty_from_unlabelled_says_so(tmp_path) -> None:
    drawn = draw(tmp_path)
    path = coco(tmp_path, drawn)
    taken, left_out = load(path), load(path, empty="unlabelled")
    assert len(boxes(taken)) == 20 and len(boxes(left_out)) == 15 and all(boxes(left_out).values())
    assert any("taken as empty (data.empty=unlabelled: the other)" in note for note in taken.notes)


@pytest.mark.parametrize("ids", [(0, 7), (1, 0), (91, 2)])
def test_category_ids_are_never_places(ids, tmp_path) -> None:
    drawn = draw(tmp_path)
    assert boxes(load(coco(tmp_path, drawn, ids=ids))) == wanted(drawn)


@given(st.integers(1, 8), st.tuples(*[st.integers(0, 40)] * 2), st.tuples(*[st.integers(1, 20)] * 2))
def test_a_stored_box_is_where_the_shown_picture_has_it(orientation: int, corner, sides) -> None:
    """Against Pillow: a rectangle painted into the stored picture, turned as EXIF says, lies in the converted box."""
    box = (*corner, corner[0] + sides[0], corner[1] + sides[1])
    stored = np.zeros((61, 73), np.uint8)
    stored[box[1] : box[3], box[0] : box[2]] = 255
    image = Image.fromarray(stored)
    image.getexif()[0x0112] = orientation
    ys, xs = np.nonzero(np.asarray(ImageOps.exif_transpose(image)))
    assert as_shown(box, orientation, (73, 61)) == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def held_sideways(folder: Path, orientation: int = 6, number: int = 12) -> list[Drawn]:
    """Pictures 60 x 120 as shown, stored turned, with a box that fits the shown frame alone."""
    drawn = []
    for at in range(number):
        one = Drawn(f"{at}.jpg", (60, 120 + at), (("table", 5, 90, 50, 115 + at % 2),))
        turn(folder / one.name, Image.new("RGB", one.size, (at * 9, 90, 120)), orientation)
        drawn.append(one)
    return drawn


def stored(one: Drawn, orientation: int = 6) -> Drawn:
    """The picture as a tool sees it that does not read EXIF."""
    undone = {6: 8, 8: 6}.get(orientation, orientation)
    (label, *box), *_ = one.boxes or ()
    return Drawn(one.name, one.size[::-1], ((label, *as_shown((box[0], box[1], box[2], box[3]), undone, one.size)),))


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_the_frame_that_alone_fits_decides(orientation: int, tmp_path) -> None:
    drawn = held_sideways(tmp_path, orientation)
    as_stored = [stored(one, orientation) for one in drawn]
    for of_tool, frame in ((drawn, "shown"), (as_stored, "stored")):
        splits = load(coco(tmp_path, of_tool))
        assert boxes(splits) == wanted(drawn)
        assert any(f"EXIF turns: 12; their boxes are of the {frame} picture, as sizes and boxes" in note for note in splits.notes)
    for of_tool, frame in ((drawn, "shown"), (as_stored, "stored")):  # shares of the sides fit both, the size in the file decides
        assert boxes(load(label_studio(tmp_path, of_tool))) == wanted(drawn)
        assert boxes(load(json_lines(tmp_path, of_tool), exif=frame)) == wanted(drawn)


def test_a_frame_that_nothing_tells_is_told(tmp_path) -> None:
    drawn = held_sideways(tmp_path, orientation=3)
    splits = load(json_lines(tmp_path, drawn))
    assert boxes(splits) == wanted(drawn) and any("nothing tells" in note and "data.exif=stored" in note for note in splits.notes)
    assert boxes(load(json_lines(tmp_path, drawn), exif="stored")) != wanted(drawn)
    mixed = [stored(one) if at == 3 else one for at, one in enumerate(held_sideways(tmp_path))]
    with pytest.raises(LabError, match="data.exif=null: .*disagree.*Give data.exif=shown or data.exif=stored"):
        load(json_lines(tmp_path, mixed))


def test_voc_counts_from_one_and_the_whole_picture_stays_whole(tmp_path) -> None:
    drawn = draw(tmp_path, 4)
    drawn[0] = Drawn("0.png", (100, 80), (("table", 0, 0, 100, 80),))
    path = voc(tmp_path, drawn)
    assert "<xmin>1</xmin><ymin>1</ymin><xmax>100</xmax>" in (path / "Annotations" / "0.xml").read_text()
    assert boxes(load(path))["0.png"] == (("table", 0, 0, 100, 80),)
    (path / "ImageSets" / "Main").mkdir(parents=True)
    for split, names in {"train": "0\n1", "val": "2", "test": "3"}.items():
        (path / "ImageSets" / "Main" / f"{split}.txt").write_text(names)
    splits = load(path)
    assert [len(getattr(splits, part)) for part in PARTS] == [2, 1, 1]


def test_columns_of_yolo_are_counted(tmp_path) -> None:
    path = yolo(tmp_path, draw(tmp_path))
    labels = tmp_path / "train" / "labels" / "1.txt"
    labels.write_text("1 0.1 0.2 0.5 0.2 0.5 0.6 0.1 0.4")
    splits = load(path)
    assert boxes(splits)["1.png"] == (("table", 10.2, 16.0, 51.0, 48.0),)
    assert any("polygons, whose enclosing box is read: 1" in note for note in splits.notes)
    for line, sentence in {
        "1 0.1 0.2 0.5 0.2 0.9": "1.txt:1: 6 columns are given; a sixth column is the score",
        "1 0.1 0.2": "1.txt:1: 3 columns are given; 5 are a box",
        "2 0.5 0.5 0.1 0.1": "1.txt:1: class '2' is none of the 2 names",
        "1 0.5 nan 0.1 0.1": "1.txt:1: a column: 'nan' is given; a number is legal",
    }.items():
        labels.write_text(line)
        with pytest.raises(LabError, match=sentence):
            load(path)


def test_boxes_outside_are_refused_or_cut_as_on_bad_says(tmp_path) -> None:
    drawn = draw(tmp_path)
    drawn[3] = Drawn("3.png", drawn[3].size, (("logo", -20, 4, 40, 40), ("logo", 50, 50, 106.6, 80.7)))
    drawn[7] = Drawn("7.png", drawn[7].size, (("logo", 300, 4, 340, 40), ("table", 5, 5, 20, 20)))
    drawn[11] = Drawn("11.png", drawn[11].size, (("logo", 40, 4, 20, 40),))
    path = json_lines(tmp_path, drawn)
    with pytest.raises(LabError) as refused:
        load(path)
    for sentence in ("boxes.jsonl:4: .*-20, 4 to 40, 40, leaves the picture of 106 x 80", ":8: .*has no area inside", ":12: .*corners in the wrong"):
        assert refused.match(sentence)
    splits = load(path, on_bad=OnBad.skip)
    found = boxes(splits)
    assert found["3.png"] == (("logo", 0, 4, 40, 40), ("logo", 50, 50, 106, 80)) and {"7.png", "11.png"}.isdisjoint(found)
    assert len(splits.skipped) == 2 and any("cut at its edge (data.on_bad=skip): 1." in note for note in splits.notes)


def test_what_is_told_of_classes_sizes_and_repeats(tmp_path) -> None:
    drawn = draw(tmp_path)
    drawn[3] = Drawn("3.png", drawn[3].size, (("Tables", 10, 10, 40, 50), ("logo", 60, 10, 61, 11), ("logo", 60, 10, 61, 11)))
    path = json_lines(tmp_path, drawn)
    told = "\n".join(load(path).notes)
    for sentence in (
        "boxes: JSON Lines with image, boxes, labels: 30 boxes in 15 pictures; reviewed and empty: 5 pictures", "classes: 3: logo",
        "may be one: Tables, table; data.aliases.table=Tables", "below 32 x 32 px", "pictures by number of boxes: 0: 5, 1: 5",
        "twice in a picture: 1",
    ):  # fmt: skip
        assert sentence in told
    splits = load(path, aliases={"Tables": "table"})
    assert {sample.text for sample in samples(splits)} == {"Detect all objects: logo, table"} and "may be one" not in "\n".join(splits.notes)


def test_a_question_about_each_class_has_an_honest_none(tmp_path) -> None:
    path = json_lines(tmp_path, draw(tmp_path))
    splits = load(path, question="Where is the {class}?")
    found = samples(splits)
    assert len(found) == 40 == len({sample.sample_id for sample in found}) and {sample.subset for sample in found} == {"logo", "table"}
    assert {box.label for sample in found for box in sample.answer.regions if sample.text == "Where is the table?"} == {"table"}
    assert sum(not sample.answer.regions for sample in found) == 5 + 10
    for part in PARTS:
        assert {s.image_set for s in samples(splits, part)}.isdisjoint(s.image_set for s in found if s not in samples(splits, part))
    assert {sample.text for sample in samples(load(path, question="Find them."))} == {"Find them."}
    for wrong in ("{classes} and {class}", "{label}?", "{", " "):
        with pytest.raises(LabError, match="data.question="):
            load(path, question=wrong)


def test_splits_of_the_file_and_val_without_test(tmp_path) -> None:
    path = yolo(tmp_path, draw(tmp_path, split=lambda at: "train" if at < 14 else "valid" if at < 17 else "test"))
    told = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({"val" if key == "valid" else key: value for key, value in told.items()}))
    splits = load(path)
    assert [len(getattr(splits, part)) for part in PARTS] == [14, 3, 3]
    path.write_text(yaml.safe_dump({"val" if key == "valid" else key: value for key, value in told.items() if key != "test"}))
    splits = load(path)
    assert len(splits.dev) == 3 and 1 <= len(splits.minival) <= 2 and any("no test is given, so that val is dev" in note for note in splits.notes)
    (tmp_path / "valid" / "images" / "copy.png").write_bytes((tmp_path / "train" / "images" / "3.png").read_bytes())
    written(tmp_path / "valid" / "labels" / "copy.txt", "0 .5 .5 .2 .2")
    with pytest.raises(LabError, match="several parts, by their pixels: 1.*data.allow_shared_images=true"):
        load(path)


def test_a_changed_label_is_another_run(tmp_path, composer) -> None:
    path = yolo(tmp_path, draw(tmp_path, 4))
    labels = tmp_path / "train" / "labels" / "1.txt"
    for place in (path, tmp_path):
        before = composer("data=boxes", f"data.path={place}")
        assert identity(before) == identity(composer("data=boxes", f"data.path={place}"))
        labels.write_text(f"{labels.read_text()}\n1 0.5 0.5 0.1 0.1")
        assert identity(before) != identity(composer("data=boxes", f"data.path={place}"))
        with pytest.raises(LabError, match="the file has changed"):
            data.load(before.data, tmp_path / "cache")


def test_the_layout_of_coco_itself_and_names_of_ones_own(tmp_path) -> None:
    drawn = draw(tmp_path)
    for split, some in {"train2017": drawn[:15], "val2017": drawn[15:]}.items():
        (tmp_path / split).mkdir()
        for one in some:
            (tmp_path / one.name).rename(tmp_path / split / one.name)
        written(tmp_path / "annotations" / f"instances_{split}.json", coco(tmp_path, some).read_text())
    (tmp_path / "coco.json").unlink()
    written(tmp_path / "annotations" / "captions_train2017.json", "[]")
    splits = load(tmp_path)
    assert boxes(splits) == wanted(drawn) and len(splits.dev) == 5
    (tmp_path / "own").mkdir()
    path = json_lines(tmp_path / "own", draw(tmp_path / "own"))
    path.write_text(path.read_text().replace('"image"', '"file_name"'))
    assert len(boxes(load(path, columns={"image": "file_name"}))) == 20
    for place, columns in ((path, {"imege": "file_name"}), (tmp_path, {"image": "file_name"})):
        with pytest.raises(LabError, match="data.columns.im.ge: .*(legal are image, boxes|it has no names)"):
            load(place, columns=columns)


def test_label_studio_states_of_a_task(tmp_path) -> None:
    """Skipped is unlabelled; of several annotations the ground truth counts; a turned box is read as the box around it; predictions are not."""
    drawn = draw(tmp_path, 8)
    path = label_studio(tmp_path, drawn)
    tasks = json.loads(path.read_text())
    tasks[1]["annotations"][0]["was_cancelled"] = True
    truth = tasks[2]["annotations"][0] | {"ground_truth": True}
    tasks[2]["annotations"] = [truth, {"result": [], "updated_at": "2030"}]
    tasks[6]["annotations"][0]["result"][1]["value"]["rotation"] = 90
    label, x0, y0, x1, y1 = drawn[6].boxes[1]
    tasks[4]["predictions"] = [{"result": tasks[3]["annotations"][0]["result"]}]
    tasks[6]["annotations"][0]["result"] += [{"type": "choices", "value": {"choices": ["x"]}}]
    path.write_text(json.dumps(tasks))
    splits = load(path)
    found = boxes(splits)
    assert "1.png" not in found and found["2.png"] == wanted(drawn)["2.png"] and found["4.png"] == ()
    assert found["6.png"][1] == (label, x0 - (y1 - y0), y0, x0, y0 + (x1 - x0))
    told = "\n".join(splits.notes)
    for sentence in ("several annotations", "turned boxes, whose enclosing box is read: 1", "results of kind choices, which are not read: 1"):
        assert sentence in told


def changed(name: str, old: str, new: str):
    """A writer's file with a piece of its text as given."""

    def write(folder: Path) -> Path:
        path = WRITERS[name](folder, draw(folder, 8))
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        return path

    return write


BROKEN = {
    "unknown category": (changed("coco", '"category_id": 0', '"category_id": 3'), r"annotations\[0\]: category_id 3 is no id"),
    "three numbers": (changed("coco", '"bbox": [10, ', '"bbox": ['), r"key 'bbox': \[.*4 numbers are legal"),
    "an id twice": (changed("coco", '"id": 1, "file_name"', '"id": 2, "file_name"'), "key 'id': 2 is given a second time"),
    "a box of no picture": (changed("coco", '"image_id": 1', '"image_id": 99'), "image_id 99 is no id of images"),
    "not a number": (changed("coco", '"bbox": [10', '"bbox": [NaN'), "a number is legal"),
    "a path that leaves": (changed("json_lines", '"0.png"', '"../0.png"'), "it must lie inside"),
    "a picture that is gone": (changed("json_lines", '"1.png"', '"gone.png"'), "gone.png: the file is missing"),
    "a label too few": (changed("json_lines", '["logo"]', "[]"), "a label for each of 1 boxes is legal"),
    "a picture twice": (changed("json_lines", '"1.png"', '"2.png"'), "'2.png' is given a second time; first in"),
    "a video": (changed("cvat", "</annotations>", "<track/></annotations>"), "tracks of a video. Export it as CVAT for images"),
    "entities": (changed("cvat", "<annotations>", '<!DOCTYPE x [<!ENTITY a "b">]><annotations>'), "declares a document type"),
    "no XML": (changed("cvat", "</annotations>", ""), "it is no XML"),
    "no names": (changed("yolo", "names:", "nomes:"), "names is None; a list of the classes"),
    "JSON-MIN": (changed("label_studio", '"data": {', '"data": 3, "x": {'), "export as JSON, not as JSON-MIN"),
    "a zip": (lambda folder: written(folder / "export.zip", "x"), "Unpack it first"),
    "a table": (lambda folder: written(folder / "boxes.csv", "image,boxes"), "it is none of COCO JSON"),
    "nothing": (lambda folder: folder / "gone.json", "no such file or folder"),
}


def test_boxes_of_a_copy_of_another_size_are_told(tmp_path) -> None:
    drawn = draw(tmp_path)
    Image.new("RGB", (300, 200)).save(tmp_path / drawn[2].name)
    assert any("size in the file is another than theirs, so that boxes may lie elsewhere: 1, " in note for note in load(coco(tmp_path, drawn)).notes)


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_each_get_a_sentence(name: str, tmp_path) -> None:
    make, sentence = BROKEN[name]
    with pytest.raises(LabError, match=sentence) as error:
        load(make(tmp_path))
    assert len(str(error.value)) < 1500


def test_the_check_reads_boxes_too(tmp_path, capsys, monkeypatch) -> None:
    drawn = draw(tmp_path)
    path = coco(tmp_path, drawn)

    def ran(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["check", str(path), "--cache-dir", str(tmp_path / "cache"), *arguments])
        code = check.main()
        return code, "".join(capsys.readouterr())

    code, printed = ran()
    assert code == 0 and "it can train.\n" in printed
    for words in ("20 good questions (regions: 20)", "30 boxes in 15 pictures", "classes: 2: logo 20, table 10", "minival", "areas: below"):
        assert words in printed
    drawn[3] = Drawn("3.png", drawn[3].size, (("logo", -30, 4, 40, 40),))
    path = coco(tmp_path, drawn)
    code, printed = ran()
    assert code == 1 and "problem: " in printed and "leaves the picture" in printed and "it cannot train." in printed
    assert ran("data.on_bad=skip")[0] == 0 and ran("data.empty=unlabelled", "data.on_bad=skip")[1].count("20 good") == 0


def test_positions_are_finite_whatever_is_given() -> None:
    from lab.data.box_file.records import number

    for value in (math.nan, math.inf, "nan", "1e999", None, True, [1]):
        with pytest.raises(LabError, match="a number is legal"):
            number(value, "here", "x")


def packages(number: int, first: int = 0) -> list[tuple[str, tuple[int, int], list[list[float]]]]:
    """Two pictures of each barcode; an asymmetric box, two, or none."""
    shapes = ([[0.125, 0.25, 0.875, 0.75]], [[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 0.5]], [])
    return [(f"{first + at // 2:013d}_{at % 2 + 1 + first}", (64 + 2 * at, 48), shapes[at % 3]) for at in range(number)]


def test_nutrition_tables_in_their_public_layout(tmp_path) -> None:
    nutrition(tmp_path, packages(40), "train")
    nutrition(tmp_path, packages(6, 17), "val")
    splits = data.load(DataDial(name="nutrition_tables", root=str(tmp_path), question=QUESTION), tmp_path / "cache")
    assert len(splits.dev) == 6 and len(splits.train) + len(splits.minival) == 40 and len(splits.minival) == 4
    answers = {sample.sample_id: sample.answer for sample in samples(splits)}
    one, two, none = (answers[f"{name}"] for name in ("0000000000000_1", "0000000000000_2", "0000000000001_1"))
    assert one.regions == (("nutrition-table", 16, 6, 48, 42),) and one.size == (64, 48), "y0, x0, y1, x1 in shares"
    assert two.regions == (("nutrition-table", 0, 0, 66, 24), ("nutrition-table", 0, 24, 33, 48)) and none.regions == ()
    barcodes = {part: {sample.sample_id.split("_")[0] for sample in samples(splits, part)} for part in PARTS}
    assert barcodes["train"].isdisjoint(barcodes["minival"]) and {sample.image_set for sample in samples(splits)} == set.union(*barcodes.values())
    told = "\n".join(splits.notes)
    assert "train has 40 good pictures; officially 1083" in told and "barcodes that train and val share: 3" in told
    assert splits.dev[0].images[0].data


def test_the_snippet_of_the_tutorial_writes_a_file_that_is_read(tmp_path, monkeypatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "tutorials" / "own_boxes.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for at in (1, 2):
        Image.new("RGB", (400, 500), (at, 0, 0)).save(tmp_path / "photos" / f"{at}.jpg")
    exec(compile(page.partition("```python\n")[2].partition("```")[0], "own_boxes.md", "exec"), {})
    assert boxes(load(tmp_path / "boxes.jsonl")) == {"1.jpg": (("table", 40, 30, 310, 420),), "2.jpg": ()}
