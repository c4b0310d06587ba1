"""NLVR in its official layout: counts, the cut by directory, permutations, boxes; on the real files where they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.config import DataDial, OnBad
from lab.data import fingerprint, load, require_split
from lab.data.images import decode
from lab.data.sets import nlvr
from lab.data.splits import choose
from lab.errors import ConfigError, DataError
from lab.records import Sample, Splits

SHARED = Path(__file__).parents[2] / "shared" / "nlvr"
real = pytest.mark.skipif(not (SHARED / "dev" / "dev.json").exists(), reason="needs ../shared/nlvr")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def splits(cache: Path) -> Splits:
    """All statements, as if each had one image of its six, since reading all 11,874 takes 18 s."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nlvr, "PERMUTATIONS", 1)
        return load(DataDial(name="nlvr", root=str(SHARED)), cache)


def statements(samples: Sequence[Sample]) -> set[str]:
    """What samples state, whatever the order of their boxes."""
    return {sample.sample_id.rpartition("-")[0] for sample in samples}


def make(root: Path, split: str, directories: int, per: int = 2, sentence: str | None = None) -> None:
    """A stand-in split: `per` sentence groups of two statements in each directory; all images are one file."""
    lines = []
    folder = root / split
    folder.mkdir(parents=True)
    Image.new("RGBA", nlvr.SIZE, (1, 2, 3, 255)).save(folder / "one.png")
    for directory in range(directories):
        images = folder / "images" / str(directory)
        images.mkdir(parents=True)
        for group in range(per):
            for m in range(2):
                identifier = f"{directory * 100 + group}-{m}"
                for k in range(6):
                    os.link(folder / "one.png", images / f"{split}-{identifier}-{k}.png")
                text = sentence or f"Sentence {split} {directory} {group}"
                label = "true" if m else "false"
                lines.append({"identifier": identifier, "sentence": text, "label": label, "directory": str(directory)})
    (folder / f"{split}.json").write_text("\n".join(map(json.dumps, lines)))


def where(splits: Splits) -> dict[str, set[str]]:
    """Return `<split>/<directory>` of every image of each part."""
    parts = {"train": splits.train, "minival": splits.minival, "dev": splits.dev}
    folder = lambda file: f"{Path(file).parents[2].name}/{Path(file).parent.name}"  # noqa: E731
    return {name: {folder(sample.images[0].source) for sample in part} for name, part in parts.items()}


@real
def test_official_counts_and_labels(splits: Splits) -> None:
    samples = [*splits.train, *splits.minival, *splits.dev]
    true = statements([sample for sample in samples if sample.answer.right == 0])
    assert Counter(name.split("-")[0] for name in true) == {"dev": 547, "test": 556}
    assert Counter(name.split("-")[0] for name in statements(samples) - true) == {"dev": 442, "test": 434}
    groups = Counter(name.split("-")[0] for name in {sample.question_group for sample in samples})
    assert groups == {"dev": 267, "test": 266}
    assert len({sample.sample_id for sample in samples}) == len(samples) and len(statements(samples)) == 989 + 990
    assert splits.skipped == ()
    assert not any("officially" in note for note in splits.notes)


@real
def test_the_cut_by_directory(splits: Splits) -> None:
    assert (len(splits.train), len(splits.minival), len(splits.dev)) == (6792 // 6, 864 // 6, 4218 // 6)
    assert where(splits) == {
        "train": {"dev/0", "dev/1", "dev/2", "dev/3", "dev/4", "dev/5", "test/0"},
        "minival": {"test/1"},
        "dev": {f"test/{number}" for number in range(2, 7)},
    }
    groups = [{sample.question_group for sample in part} for part in (splits.train, splits.minival, splits.dev)]
    assert len(groups[0] | groups[1] | groups[2]) == sum(map(len, groups))
    assert any(note.startswith("nlvr: sentence strings in more than one split: 27") for note in splits.notes)
    assert any("no score here compares with published" in note for note in splits.notes)


@real
def test_each_statement_has_its_six_permutations_in_one_cluster(splits: Splits, cache: Path) -> None:
    sample = splits.dev[0]
    assert sample.sample_id == "test-3776-0-0"
    assert sample.image_set == sample.question_group == "test-3776"
    few = load(DataDial(name="nlvr", root=str(SHARED), num_train=4, num_minival=4, num_dev=40), cache)
    for part, number in ((few.train, 4), (few.minival, 4), (few.dev, 40)):
        assert Counter(name.rpartition("-")[2] for name in part.sample_ids) == {str(k): number for k in range(6)}
        assert {sample.image_set for sample in part} == {sample.question_group for sample in part}


@real
def test_boxes_are_where_the_pixels_and_the_structure_say(cache: Path) -> None:
    splits = load(DataDial(name="nlvr", root=str(SHARED), image_layout="boxes", num_train=20, num_dev=60), cache)
    colours = {"Black": (0, 0, 0), "Yellow": (255, 255, 0), "#0099ff": (0, 153, 255)}
    rows = {f"test-{row['identifier']}-0": row for row in map(json.loads, (SHARED / "test" / "test.json").read_text().splitlines())}
    for sample in (sample for sample in splits.dev if sample.sample_id in rows):
        assert [picture.crop for picture in sample.images] == list(nlvr.BOXES)
        seen = [np.asarray(decode(picture)) for picture in sample.images]
        assert all(box.shape == (100, 100, 3) for box in seen)
        drawn = [{name for name, rgb in colours.items() if (box == rgb).all(axis=2).any()} for box in seen]
        told = [{item["color"] for item in box} for box in rows[sample.sample_id]["structured_rep"]]
        assert drawn in (
            [told[a], told[b], told[c]]
            for a, b, c in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
        )
        whole = np.asarray(Image.open(sample.images[0].source).convert("RGB"))
        assert (whole[:, 100:150] == 128).all()
        assert (whole[:, 250:300] == 128).all()


@real
def test_the_folder_above_is_found_and_a_part_is_stable(splits: Splits, cache: Path) -> None:
    small = load(DataDial(name="nlvr", root=str(SHARED.parent), num_train=30, num_minival=4, num_dev=40, permutations=2), cache)
    larger = load(DataDial(name="nlvr", root=str(SHARED), num_train=60, num_minival=4, num_dev=40), cache)
    assert (len(small.train), len(small.dev), len(small.minival)) == (60, 240, 24)
    assert {name.rpartition("-")[2] for name in small.train.sample_ids} == {"0", "1"}
    assert set(small.train.sample_ids) < set(larger.train.sample_ids)
    assert statements(larger.train) < statements(splits.train) and len(larger.train) == 6 * len(statements(larger.train))
    assert fingerprint(small.dev) == fingerprint(larger.dev) != fingerprint(splits.dev)


def test_with_the_official_train_split_dev_is_dev_and_test(tmp_path: Path) -> None:
    for split, directories in {"train": 20, "dev": 2, "test": 3}.items():
        make(tmp_path / "nlvr", split, directories)
    splits = load(DataDial(name="nlvr", root=str(tmp_path)), tmp_path / "cache")
    parts = where(splits)
    assert parts["dev"] == {"dev/0", "dev/1", "test/0", "test/1", "test/2"}
    assert parts["minival"] == {"train/18", "train/19"} or parts["minival"] == {"train/17", "train/18", "train/19"}
    assert parts["train"] == {f"train/{number}" for number in range(20)} - parts["minival"]
    assert any("official dev and test-P together" in note for note in splits.notes)
    assert sum("officially" in note for note in splits.notes) == 3


@pytest.mark.parametrize("there", [("train", "dev", "test"), ("dev", "test"), ("test",), ("hidden",)])
def test_one_official_split_is_reported_alone(tmp_path: Path, there: tuple[str, ...]) -> None:
    """What is trained on is the official train split; without one what else has labels."""
    for split in there:
        make(tmp_path, split, 4)
    splits = load(DataDial(name="nlvr", root=str(tmp_path), split=there[-1]), tmp_path / "cache")
    parts = where(splits)
    assert parts["dev"] == {f"{there[-1]}/{number}" for number in range(4)}
    assert parts["train"] | parts["minival"] == ({f"{there[0]}/{number}" for number in range(4)} if len(there) > 1 else set())
    assert any(f"dev is the official {there[-1]}, alone" in note for note in splits.notes)
    with pytest.raises(DataError, match="test2"):
        load(DataDial(name="nlvr", root=str(tmp_path), split="test2"), tmp_path / "cache")


@pytest.mark.parametrize(("directories", "sizes"), [(1, (0, 0, 1)), (2, (1, 0, 1)), (3, (1, 1, 1)), (10, (5, 1, 4))])
def test_few_directories_are_cut_too(tmp_path: Path, directories: int, sizes: tuple[int, int, int]) -> None:
    make(tmp_path, "dev", directories)
    splits = load(DataDial(name="nlvr", root=str(tmp_path)), tmp_path / "cache")
    assert tuple(map(len, where(splits).values())) == sizes
    if directories == 1:
        with pytest.raises(DataError, match=r"train split is empty: .*too few image directories"):
            require_split(splits, "train")
        with pytest.raises(DataError, match="too few"):
            splits.train[0]
        assert list(splits.train) == []


def test_a_sentence_group_goes_whole_and_is_noted(tmp_path: Path) -> None:
    make(tmp_path, "dev", 4, sentence="The same everywhere.")
    path = tmp_path / "dev" / "dev.json"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[-1]["identifier"] = rows[0]["identifier"].replace("-0", "-7")  # group 0 now also lies in the last directory
    for k in range(6):
        os.link(
            tmp_path / "dev" / "one.png", tmp_path / "dev" / "images" / "3" / f"dev-{rows[-1]['identifier']}-{k}.png"
        )
    path.write_text("\n".join(map(json.dumps, rows)))
    splits = load(DataDial(name="nlvr", root=str(tmp_path)), tmp_path / "cache")
    groups = [{sample.question_group for sample in part} for part in (splits.train, splits.minival, splits.dev)]
    assert "dev-0" in groups[0]
    assert "dev-0" not in groups[1] | groups[2]
    assert any("sentence groups in several image directories: 1" in note for note in splits.notes)
    assert any("sentence strings in more than one split: 1" in note for note in splits.notes)


def test_bad_records_fail_together_or_are_skipped_and_never_replaced(tmp_path: Path) -> None:
    make(tmp_path, "dev", 3)
    images = tmp_path / "dev" / "images"
    (images / "2" / "dev-200-0-3.png").unlink()
    (images / "2" / "dev-200-1-0.png").unlink()
    (images / "2" / "dev-200-1-0.png").write_bytes(b"\x89PNG broken")
    path = tmp_path / "dev" / "dev.json"
    lines = path.read_text().splitlines()
    lines[0] = lines[0].replace("false", "maybe")
    path.write_text("\n".join(lines))
    with pytest.raises(
        DataError,
        match=r"(?s)images: 3\..*dev\.json:1: key 'label': 'maybe'.*200-0-3\.png: the file is missing.*200-1-0",
    ):
        load(DataDial(name="nlvr", root=str(tmp_path)), tmp_path / "cache")
    splits = load(DataDial(name="nlvr", root=str(tmp_path), on_bad=OnBad.skip), tmp_path / "cache")
    assert len(splits.skipped) == 3
    assert len(splits.dev) == 4 * 6 - 2
    assert "dev-200-0-3" not in splits.dev.sample_ids
    assert "dev sample dev-200-0-3 is left out" in splits.skipped[1].reason
    assert len(splits.train) == 3 * 6


def test_images_that_are_too_small_for_the_boxes_are_bad(tmp_path: Path) -> None:
    make(tmp_path, "dev", 3)
    Image.new("RGB", (300, 100)).save(tmp_path / "dev" / "one.png")  # the links share its content
    load(DataDial(name="nlvr", root=str(tmp_path)), tmp_path / "cache")
    with pytest.raises(DataError, match=r"crop .* does not lie inside its 300 x 100"):
        load(DataDial(name="nlvr", root=str(tmp_path), image_layout="boxes"), tmp_path / "cache")


def test_a_choice_is_drawn_by_seed_in_whole_clusters_nested_and_in_order() -> None:
    records = [f"{cluster}-{k}" for cluster in range(30) for k in range(4)]
    cluster_of = lambda record: record.partition("-")[0]  # noqa: E731
    chosen = {(n, seed): choose(records, n, "num_train", seed, cluster_of) for n in (8, 22, 120) for seed in (0, 1)}
    assert chosen[120, 0] == chosen[120, 1] == records
    assert set(chosen[8, 0]) < set(chosen[22, 0])
    assert set(chosen[22, 0]) != set(chosen[22, 1])
    assert chosen[22, 0] != records[:22]
    assert sorted(Counter(map(cluster_of, chosen[22, 0])).values()) == [2, 4, 4, 4, 4, 4]
    assert chosen[22, 0] == [record for record in records if record in chosen[22, 0]]
    without = [record for record in records if record != chosen[8, 0][0]]  # a record that is bad moves no other
    assert set(chosen[22, 0]) - set(choose(without, 21, "num_train", 0, cluster_of)) == {chosen[8, 0][0]}


def test_what_the_dial_may_say(tmp_path: Path) -> None:
    make(tmp_path, "dev", 3)
    root = str(tmp_path)
    for wrong, says in [
        ({"root": None}, r"data\.root=null"),
        ({"image_layout": "box"}, r"data\.image_layout=box: legal values are whole, boxes\. Did you mean 'boxes'"),
        ({"permutations": 0}, r"data\.permutations=0"),
        ({"permutations": 7}, r"data\.permutations=7: .* 1 to 6"),
        ({"difficulty": "hard"}, r"data\.difficulty=hard: data=nlvr does not read it"),
        ({"source": "official"}, r"data\.source=official"),
        ({"num_dev": 99}, r"data\.num_dev=99: there are 4 questions"),
        ({"num_train": -1}, r"data\.num_train=-1"),
        ({"name": "nlvr3"}, r"data\.name=nlvr3: legal values are .* Did you mean 'nlvr2?'"),
    ]:
        with pytest.raises(ConfigError, match=says):
            load(DataDial(**({"name": "nlvr", "root": root} | wrong)), tmp_path / "cache")
    with pytest.raises(DataError, match=r"looked for .*/nowhere/<split>/<split>\.json, .*/nowhere/nlvr/<split>"):
        load(DataDial(name="nlvr", root=str(tmp_path / "nowhere")), tmp_path / "cache")
    with pytest.raises(DataError, match=r"data\.num_dev is 0"):
        load(DataDial(name="nlvr", root=root, num_dev=0), tmp_path / "cache")


def test_importing_lab_data_is_light() -> None:
    code = (
        "import sys, lab.data, lab.data.sets.nlvr, lab.data.sets.nlvr2, lab.data.sets.winoground, lab.data.tables; print(*sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert not {"torch", "transformers", "datasets", "lightning", "mlflow"} & set(out.stdout.split())
