"""NLVR2 in its official layout and as tables with the images inside."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lab.config import DataDial, OnBad
from lab.data import load, require_split, tables
from lab.data.images import decode
from lab.data.sets import nlvr2
from lab.errors import ConfigError, DataError
from lab.records import Splits

SHARED = Path(__file__).parents[2] / "shared" / "nlvr2"
real = pytest.mark.skipif(not (SHARED / "dev.json").exists(), reason="needs ../shared/nlvr2")


def statement(name: str, label: bool | str = "True", **more: object) -> dict:
    pair = name.rpartition("-")[0]
    urls = {"left_url": f"http://x/{pair}-l.jpg", "right_url": f"http://x/{pair}-r.jpg"}
    return {"identifier": name, "sentence": f"Sentence {name}", "label": label, **urls, **more}


def write(root: Path, split: str, rows: list[dict]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{split}.json").write_text("\n".join(map(json.dumps, rows)))


def hang(folder: Path, rows: list[dict], bucket: bool = False) -> None:
    """Put a small picture at the official name of every image."""
    folder.mkdir(parents=True, exist_ok=True)
    one = folder / "one.png"
    Image.new("RGB", (4, 4), (9, 8, 7)).save(one)
    for stem in {(row.get("directory"), row["identifier"].rpartition("-")[0]) for row in rows}:
        place = folder / str(stem[0]) if bucket else folder
        place.mkdir(exist_ok=True)
        for side in (0, 1):
            os.link(one, place / f"{stem[1]}-img{side}.png")


def train_rows(buckets: int | None, sets: int = 40) -> list[dict]:
    bucket = (lambda s: {"directory": s % buckets}) if buckets else (lambda s: {})
    return [statement(f"train-{s}-{p}-0", str(bool(p)), **bucket(s)) for s in range(sets) for p in (0, 1)]


@real
def test_the_official_dev_file(tmp_path: Path) -> None:
    shutil.copy(SHARED / "dev.json", tmp_path / "dev.json")
    rows = [json.loads(line) for line in (SHARED / "dev.json").read_text().splitlines()]
    hang(tmp_path / "images" / "dev", rows)
    splits = load(DataDial(name="nlvr2", root=str(tmp_path)), tmp_path / "cache")
    dev = splits.dev
    assert len(dev) == len(set(dev.sample_ids)) == 6982
    assert len({sample.question_group for sample in dev}) == 2018
    assert len({sample.image_set for sample in dev}) == 1054
    assert len({sample.images for sample in dev}) == 4051
    assert Counter(sample.subset for sample in dev) == {"balanced": 2300, "unbalanced": 3562, "singleton": 1120}
    assert Counter(sample.answer.right == 0 for sample in dev) == {True: 3551, False: 3431}
    assert Counter(Counter(sample.question_group for sample in dev).values()) == {1: 36, 2: 196, 3: 590, 4: 1196}
    official = {json.loads(line)["identifier"] for line in (SHARED / "balanced_dev.json").read_text().splitlines()}
    assert {sample.sample_id for sample in dev if sample.subset == "balanced"} == official
    assert dev[0].sample_id == "dev-850-0-0"
    assert (dev[0].image_set, dev[0].question_group) == ("dev-850", "dev-850--0")
    assert [Path(picture.source).name for picture in dev[0].images] == ["dev-850-0-img0.png", "dev-850-0-img1.png"]
    assert "nlvr2: dev: 2300 balanced, 1120 singleton, 3562 unbalanced." in splits.notes
    assert not any("officially" in note for note in splits.notes)
    assert len(splits.train) == len(splits.minival) == 0
    with pytest.raises(DataError, match=r"train split is empty: .*holds no train\.json; .*zero-shot only"):
        require_split(splits, "train")


@pytest.mark.parametrize(
    ("manifest", "images"),
    [("", "images/dev"), ("", "dev"), ("", "images"), ("", "."), ("data", "images/dev"), ("nlvr2/data", "dev")],
)
def test_every_official_layout_is_found(tmp_path: Path, manifest: str, images: str) -> None:
    rows = [statement("dev-1-0-0"), statement("dev-1-0-1", "False"), statement("dev-1-1-0", "False")]
    write(tmp_path / manifest, "dev", rows)
    hang(tmp_path / images, rows)
    splits = load(DataDial(name="nlvr2", root=str(tmp_path)), tmp_path / "cache")
    assert [sample.subset for sample in splits.dev] == ["balanced", "balanced", "singleton"]
    assert [sample.answer.right == 0 for sample in splits.dev] == [True, False, False]
    assert decode(splits.dev[0].images[0]).size == (4, 4)
    assert any("has 3 good statements; officially dev has 6982" in note for note in splits.notes)


def test_another_labelled_split_is_reported_where_it_is_asked_for(tmp_path: Path) -> None:
    rows, dev = [statement("test1-1-0-0"), statement("test1-1-0-1", "False")], [statement("dev-1-0-0")]
    for split, several in (("test1", rows), ("dev", dev)):
        write(tmp_path, split, several)
        hang(tmp_path / split, several)
    splits = load(DataDial(name="nlvr2", root=str(tmp_path), split="test1"), tmp_path / "cache")
    assert splits.dev.sample_ids == ("test1-1-0-0", "test1-1-0-1")
    assert any("has 2 good statements; officially test1 has 6967" in note for note in splits.notes)
    with pytest.raises(DataError, match=r"no test2\.json; looked for test2\.json, data/test2\.json"):
        load(DataDial(name="nlvr2", root=str(tmp_path), split="test2"), tmp_path / "cache")


def test_train_is_cut_by_directory_bucket(tmp_path: Path) -> None:
    rows, dev = train_rows(20), [statement("dev-1-0-0")]
    write(tmp_path, "train", rows)
    write(tmp_path, "dev", dev)
    hang(tmp_path / "images" / "train", rows, bucket=True)
    hang(tmp_path / "images" / "dev", dev)
    splits = load(DataDial(name="nlvr2", root=str(tmp_path)), tmp_path / "cache")
    assert {Path(sample.images[0].source).parent.name for sample in splits.minival} == {"19"}
    assert (len(splits.train), len(splits.minival), len(splits.dev)) == (76, 4, 1)
    assert require_split(splits, "train") is splits.train
    assert any("the last 1 of 20 directory buckets" in note for note in splits.notes)


def test_train_without_buckets_is_cut_by_image_set(tmp_path: Path) -> None:
    rows, dev = train_rows(None), [statement("dev-1-0-0")]
    write(tmp_path, "train", rows)
    write(tmp_path, "dev", dev)
    hang(tmp_path / "images" / "train", rows)
    hang(tmp_path / "images" / "dev", dev)
    splits = load(DataDial(name="nlvr2", root=str(tmp_path)), tmp_path / "cache")
    sets = [{sample.image_set for sample in part} for part in (splits.train, splits.minival)]
    assert (len(sets[0]), len(sets[1])) == (38, 2)
    assert not sets[0] & sets[1]
    some = load(DataDial(name="nlvr2", root=str(tmp_path), num_train=11, num_minival=0), tmp_path / "cache")
    assert len(some.train) == 11
    assert Counter(Counter(sample.image_set for sample in some.train).values()) == {2: 5, 1: 1}


def test_sets_and_photographs_that_stray_are_noted(tmp_path: Path) -> None:
    rows, dev = train_rows(20), [statement("dev-1-0-0")]
    rows[1]["directory"] = 19
    dev[0]["left_url"] = rows[0]["left_url"]
    write(tmp_path, "train", rows)
    write(tmp_path, "dev", dev)
    hang(tmp_path / "images" / "train", rows, bucket=True)
    hang(tmp_path / "images" / "dev", dev)
    splits = load(DataDial(name="nlvr2", root=str(tmp_path)), tmp_path / "cache")
    assert {"train-0-0-0", "train-0-1-0"} <= set(splits.train.sample_ids)
    assert any("image sets in several buckets: 1" in note for note in splits.notes)
    assert any("photographs (by address) in more than one split: 1" in note for note in splits.notes)


def test_bad_records_and_images(tmp_path: Path) -> None:
    rows = [statement(f"dev-{k}-0-0") for k in range(9)]
    hang(tmp_path, rows)
    (tmp_path / "dev-5-0-img1.png").unlink()
    (tmp_path / "dev-6-0-img0.png").unlink()
    (tmp_path / "dev-6-0-img0.png").symlink_to("/etc/hostname")
    rows[1]["label"] = 1
    rows[2]["identifier"] = "train-2-0-0"
    rows[3]["identifier"] = "dev-../../x-0-0"
    rows[4]["identifier"] = "dev-0-0-0"
    write(tmp_path, "dev", rows)
    with pytest.raises(DataError, match=r"(?s)images: 6\..*dev\.json:2: key 'label': 1 is given.*and 1 more"):
        load(DataDial(name="nlvr2", root=str(tmp_path)), tmp_path / "cache")
    splits = load(DataDial(name="nlvr2", root=str(tmp_path), on_bad=OnBad.skip), tmp_path / "cache")
    assert splits.dev.sample_ids == ("dev-0-0-0", "dev-7-0-0", "dev-8-0-0")
    reasons = " | ".join(f"{skipped.source}: {skipped.reason}" for skipped in splits.skipped)
    for says in ("'train-2-0-0' is given in the dev file", "legal: '<split>-<set>-<pair>-<sentence>'", "a second time",
                 "leads out of", "dev-5-0-img1.png: the file is missing"):  # fmt: skip
        assert says in reasons


def test_what_is_not_there_says_where_it_was_looked_for(tmp_path: Path) -> None:
    dial = DataDial(name="nlvr2", root=str(tmp_path))
    with pytest.raises(DataError, match=r"no dev\.json; looked for dev\.json, data/dev\.json, nlvr2/data/dev\.json"):
        load(dial, tmp_path / "cache")
    write(tmp_path, "dev", [statement("dev-1-0-0")])
    with pytest.raises(DataError, match=r"none of the dev images is there; .*images/dev, dev/<directory>.*by a form"):
        load(dial, tmp_path / "cache")


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"root": None}, "data.root=null: data=nlvr2 (official) needs"),
        ({"source": "lmmslab"}, "Did you mean 'lmms-lab'"),
        ({"source": "tiger-lab"}, "shuffled options"),
        ({"source": "HuggingFaceM4/NLVR2"}, "loading script"),
        ({"root": "HuggingFaceM4/NLVR2", "source": "pingzhili"}, "loading script"),
        ({"image_layout": "boxes"}, "data.image_layout=boxes"),
        ({"source": "arrow", "root": None}, "data.source=arrow needs"),
        ({"source": "pingzhili", "root": "/no/such/folder"}, "neither a file or folder that is there nor a hub id"),
    ],
)
def test_what_the_dial_may_not_say(tmp_path: Path, wrong: dict, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        load(DataDial(**({"name": "nlvr2", "root": str(tmp_path)} | wrong)), tmp_path / "cache")


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (5, 3), (value, 0, 0)).save(out, "PNG")
    return out.getvalue()


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def shard(path: Path, columns: dict, images: dict[str, list], marked: bool = True) -> None:
    """Write one parquet file as the hub does: images as {bytes, path}, marked as such in the schema or not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = {name: pa.array([{"bytes": data, "path": None} for data in row], IMAGE) for name, row in images.items()}
    table = pa.table({**{name: pa.array(values) for name, values in columns.items()}, **cells})
    if marked:
        features = {name: {"_type": "Image"} for name in images}
        features |= {name: {"dtype": str(table.schema.field(name).type), "_type": "Value"} for name in columns}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(table, path)


def lmms(path: Path, names: list[str], labels: list[str]) -> None:
    text = {"question_id": list(map(str, range(len(names)))), "question": [f"Q {name}" for name in names],
            "answer": labels, "identifier": names, "writer": ["1"] * len(names)}  # fmt: skip
    urls = {"left_url": [name.rpartition("-")[0] for name in names], "right_url": ["r"] * len(names)}
    shard(
        path,
        text | urls,
        {"left_image": [png(k) for k in range(len(names))], "right_image": [png(100 + k) for k in range(len(names))]},
    )


def red(splits: Splits, index: int) -> list[int]:
    return [int(np.asarray(decode(picture))[0, 0, 0]) for picture in splits.dev[index].images]


def test_lmms_lab_tables(tmp_path: Path) -> None:
    root = tmp_path / "mirror"
    lmms(root / "data" / "balanced_dev-00000-of-00001.parquet", ["dev-1-0-0", "dev-1-0-1"], ["True", "False"])
    lmms(root / "data" / "unbalanced_dev-00000-of-00002.parquet", ["dev-2-0-0"], ["True"])
    lmms(root / "data" / "unbalanced_dev-00001-of-00002.parquet", ["dev-3-0-0"], ["False"])
    lmms(root / "data" / "balanced_test_public-00000-of-00001.parquet", ["test1-3-0-0"], ["False"])
    splits = load(DataDial(name="nlvr2", source="lmms-lab", root=str(root)), tmp_path / "cache")
    assert splits.dev.sample_ids == ("dev-1-0-0", "dev-1-0-1", "dev-2-0-0", "dev-3-0-0")
    assert [sample.subset for sample in splits.dev] == ["balanced", "balanced", "unbalanced", "unbalanced"]
    assert [sample.answer.right == 0 for sample in splits.dev] == [True, False, True, False]
    assert splits.dev[1].text == "Q dev-1-0-1"
    assert (splits.dev[1].image_set, splits.dev[1].question_group) == ("dev-1", "dev-1--1")
    assert red(splits, 1) == [1, 101]
    assert splits.dev[1].images[0].source == f"{root}[balanced_dev]#1/left_image"
    with pytest.raises(DataError, match="has no train split"):
        require_split(splits, "train")


@pytest.mark.parametrize("marked", [True, False])
def test_pingzhili_tables(tmp_path: Path, marked: bool) -> None:
    root = tmp_path / "mirror"
    for split, prefix, sets in (("train", "train", 30), ("validation", "dev", 2)):
        names = [f"{prefix}-{s}-0-{k}" for s in range(sets) for k in (0, 1)]
        text = {"identifier": names, "sentence": [f"S {name}" for name in names], "label": ["True", "False"] * sets}
        pictures = {f"image{side}": [png(k % 90 + 100 * side) for k in range(len(names))] for side in (0, 1)}
        shard(root / f"{split}.parquet", text, pictures, marked)
    splits = load(DataDial(name="nlvr2", source="pingzhili", root=str(root)), tmp_path / "cache")
    assert (len(splits.train), len(splits.minival), len(splits.dev)) == (56, 4, 4)
    assert red(splits, 3) == [3, 103]
    assert {sample.subset for sample in splits.dev} == {"balanced"}


def test_a_save_to_disk_folder(tmp_path: Path) -> None:
    import datasets

    lmms(tmp_path / "raw" / "x.parquet", ["dev-1-0-0", "dev-2-0-0"], ["True", "False"])
    table = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "raw" / "x.parquet"), split="train", cache_dir=str(tmp_path / "hf")
    )
    table.save_to_disk(str(tmp_path / "alone"))
    datasets.DatasetDict({"dev": table, "test": table}).save_to_disk(str(tmp_path / "several"))
    for name in ("alone", "several"):
        splits = load(DataDial(name="nlvr2", source="arrow", root=str(tmp_path / name)), tmp_path / "cache")
        assert splits.dev.sample_ids == ("dev-1-0-0", "dev-2-0-0")
        assert red(splits, 1) == [1, 101]
    table.remove_columns(["left_image"]).save_to_disk(str(tmp_path / "poor"))
    with pytest.raises(DataError, match="left_image, right_image or image0, image1 are legal"):
        load(DataDial(name="nlvr2", source="arrow", root=str(tmp_path / "poor")), tmp_path / "cache")
    state = tmp_path / "alone" / "state.json"
    outside = state.read_text().replace("data-00000", "../several/dev/data-00000")
    state.write_text(outside)
    with pytest.raises(DataError, match="names a file outside it"):
        load(DataDial(name="nlvr2", source="arrow", root=str(tmp_path / "alone")), tmp_path / "cache")
    state.write_text("{")
    with pytest.raises(DataError, match="not a readable save_to_disk folder"):
        load(DataDial(name="nlvr2", source="arrow", root=str(tmp_path / "alone")), tmp_path / "cache")


def test_bad_rows_of_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "mirror"
    names = ["dev-1-0-0", "dev-1-0-1", "dev-1-0-0", "oops", "dev-4-0-0", "dev-5-0-0"]
    text = {"identifier": names, "sentence": ["s"] * 6, "label": ["True", "yes", "True", "True", "True", "False"]}
    pictures = {"image0": [png(k) for k in range(6)], "image1": [png(k) for k in range(6)]}
    pictures["image0"][4] = b"broken"
    pictures["image1"][5] = None
    shard(root / "validation.parquet", text, pictures)
    dial = DataDial(name="nlvr2", source="pingzhili", root=str(root))
    with pytest.raises(DataError, match=r"(?s)images: 5\..*#1: key 'label': 'yes'"):
        load(dial, tmp_path / "cache")
    dial.on_bad = OnBad.skip
    splits = load(dial, tmp_path / "cache")
    assert splits.dev.sample_ids == ("dev-1-0-0",)
    reasons = " | ".join(f"{skipped.source}: {skipped.reason}" for skipped in splits.skipped)
    for says in ("#2: id 'dev-1-0-0' is given a second time", "#3: key 'identifier': 'oops'",
                 "#4/image0: its content is none of",
                 "#5/image1: the cell holds no encoded image"):  # fmt: skip
        assert says in reasons
    fetched: list[str] = []
    fetch = tables.Tables.fetch
    monkeypatch.setattr(
        tables.Tables, "fetch", lambda self, picture: fetch(self, fetched.append(picture.source) or picture)
    )
    load(dial, tmp_path / "cache")  # the good ones are known; only the two bad ones are asked for again
    assert sorted(source.rpartition("#")[2] for source in fetched) == ["4/image0", "5/image1"]


def test_an_image_given_as_a_path_is_never_opened(tmp_path: Path) -> None:
    root = tmp_path / "mirror"
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(1))
    cells = pa.array([{"bytes": None, "path": str(secret)}], IMAGE)
    table = pa.table(
        {"identifier": ["dev-1-0-0"], "sentence": ["s"], "label": ["True"], "image0": cells, "image1": cells}
    )
    root.mkdir()
    pq.write_table(table, root / "validation.parquet")
    with pytest.raises(DataError, match=r"holds no encoded image but only a path"):
        load(DataDial(name="nlvr2", source="pingzhili", root=str(root)), tmp_path / "cache")


def test_tables_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    dial = DataDial(name="nlvr2", source="pingzhili", root=str(tmp_path))
    with pytest.raises(DataError, match="splits wanted: train, validation; splits found as parquet: none"):
        load(dial, tmp_path / "cache")
    (tmp_path / "validation.parquet").write_bytes(b"PAR1 not parquet PAR1")
    with pytest.raises(DataError, match=r"validation\.parquet: the table cannot be read"):
        load(dial, tmp_path / "cache")
    lmms(tmp_path / "validation.parquet", ["dev-1-0-0"], ["True"])
    with pytest.raises(DataError, match="it has no column 'image0'; its columns are"):
        load(dial, tmp_path / "cache")
    text = {"identifier": ["dev-1-0-0"], "sentence": ["s"], "label": ["True"], "image0": ["x"], "image1": ["x"]}
    shard(tmp_path / "validation.parquet", text, {})
    with pytest.raises(DataError, match="column 'image0' does not hold images"):
        load(dial, tmp_path / "cache")


def test_subsets_are_counted_over_pairs() -> None:
    rows = [("a", True), ("a", False), ("b", True), ("b", True), ("c", False)]
    given = [nlvr2.Statement(f"dev-1-{k}-0", "s", label, "dev-1", (pair,), ()) for k, (pair, label) in enumerate(rows)]
    assert list(nlvr2.subsets(given).values()) == ["balanced"] * 2 + ["unbalanced"] * 2 + ["singleton"]
