"""Benchmarks as data options: every one from both layouts, what cannot be asked is named, pictures are read when they are asked for."""

from __future__ import annotations

import io
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import benchmark_twins as twins
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lab import data
from lab.benchmark_specs import ALIASES, SPECS
from lab.config import DataDial
from lab.data import images
from lab.data.benchmarks.tables import Pictures
from lab.errors import ConfigError, DataError
from lab.records import Choice, Picture, Splits, Text
from lab.statistics.marking import RULES

ASKED = {name: 3 for name in SPECS} | {"seed": 2, "pope": 4}


def load(root: Path, name: str, cache: Path | None = None, **keys: Any) -> Splits:
    return data.load(DataDial(name=name, root=str(root), profile="ours", **keys), cache or root / "cache")


@pytest.mark.parametrize("metadata", [True, False], ids=["with metadata", "without"])
@pytest.mark.parametrize("name", SPECS)
def test_every_benchmark_is_read_from_parquet(name: str, metadata: bool, tmp_path: Path) -> None:
    splits = load(twins.parquet(tmp_path, name, metadata), name)
    assert len(splits.dev) == ASKED[name] and len(splits.train) == len(splits.minival) == 0
    assert data.named(name).diagnostic and data.named(name).kind in (splits.kind, None) and SPECS[name].rule in RULES
    assert f"{ASKED[name]} questions asked" in splits.notes[0] and f"officially {[*SPECS[name].splits.values()][0]}" in splits.notes[0]
    for sample in splits.dev:
        assert sample.text.strip() and "<image" not in sample.text
        assert [images.decode(picture).size for picture in sample.images] == [(64, 48)] * len(sample.images)


@pytest.mark.parametrize("name", SPECS)
def test_what_pandas_has_rewritten_is_the_same(name: str, tmp_path: Path) -> None:
    """Without the metadata of datasets, and with its own idea of what is missing."""
    before, after = twins.parquet(tmp_path / "before", name), twins.parquet(tmp_path / "after", name)
    for file in after.rglob("*.parquet"):
        pd.read_parquet(file).to_parquet(file)
    one, other = load(before, name), load(after, name)
    assert one.dev.sample_ids == other.dev.sample_ids and one.skipped == other.skipped
    for a, b in ((one.dev[k], other.dev[k]) for k in range(len(one.dev))):
        assert (a.text, a.answer, a.image_set, a.subset, a.turns) == (b.text, b.answer, b.image_set, b.subset, b.turns)
        assert [picture.data for picture in a.images] == [picture.data for picture in b.images]


@pytest.mark.parametrize("name", SPECS)
def test_every_benchmark_is_read_from_a_tsv(name: str, tmp_path: Path) -> None:
    splits = load(twins.tsv(tmp_path, name), name)
    left_out = {skipped.source: skipped.reason for skipped in splits.skipped}
    assert len(splits.dev) + len(left_out) == (2 if name == "mmmu" else 3), left_out
    assert not left_out, left_out
    for sample in splits.dev:
        assert all(images.decode(picture).size == (64, 48) for picture in sample.images)


def test_the_traps_of_a_tsv(tmp_path: Path) -> None:
    splits = load(twins.tsv(tmp_path / "seed", "seed"), "seed")
    first, second, third = splits.dev
    assert first.answer == Choice(0, ("A", "B", "C", "D")) and "D. None" in first.text and "A. N/A\nB. null" in third.text
    assert second.answer == Choice(1, ("A", "B")) and second.text.startswith("Count.\nHow many?"), "empty cells are missing, words are not"
    assert second.image_set == first.image_set != third.image_set, "a picture that a row refers to is the same picture"
    assert images.decode(second.images[0]).getpixel((0, 0)) == images.decode(first.images[0]).getpixel((0, 0))
    assert load(twins.tsv(tmp_path / "textvqa", "textvqa"), "textvqa").dev[0].answer == Text(("stop", "halt"), (2, 1))
    assert [sample.subset for sample in load(twins.tsv(tmp_path / "chartqa", "chartqa"), "chartqa").dev] == ["human", "augmented", "human"]
    assert [sample.sample_id for sample in load(twins.tsv(tmp_path / "mmmu", "mmmu"), "mmmu", split="dev").dev] == ["3"]


def test_pictures_of_mmmu_stand_in_their_places(tmp_path: Path) -> None:
    first, second, third = load(twins.parquet(tmp_path, "mmmu"), "mmmu").dev
    options = ". Which?\nA. $6\nB. $7, or more\nC. $8\nD. $9"
    assert first.turns[0].parts == ("Look at ", 0, f"{options}\nAnswer with the option's letter from the given choices directly.")
    assert second.turns[0].parts[:5] == (0, " Which one?\nA. ", 1, "\nB. ", 2) and len(second.images) == 3
    assert second.images[0] == second.images[1] != second.images[2], "each mention is a picture"
    assert second.answer == Text(("A",)) and third.answer == Text(("3.5",)) and "single word" in third.text


def test_what_cannot_be_asked_is_named_and_counted(tmp_path: Path) -> None:
    splits = load(twins.parquet(tmp_path / "seed", "seed"), "seed")
    assert [(each.source, each.reason) for each in splits.skipped] == [("102", "it is about a video")] and "1 left out" in splits.notes[0]
    ((file, rows),) = twins.PARQUET["ai2d"].items()
    broken = [{**rows[0], "answer": "4"}, {**rows[1], "answer": ""}, {**rows[2], "image": None}, rows[0]]
    found = load(twins.parquet(tmp_path / "ai2d", "ai2d", rows={file: broken}), "ai2d")
    assert [each.reason for each in found.skipped] == ["its answer '4' is none of its 4 options", "its answer is empty", "its picture is missing"]
    assert found.dev.sample_ids == ("3",), "the row's number from 0"
    ((file, rows),) = twins.PARQUET["mmmu"].items()
    found = load(twins.parquet(tmp_path / "mmmu", "mmmu", rows={file: [{**rows[1], "image_2": None}, rows[0]]}), "mmmu")
    assert [each.reason for each in found.skipped] == ["it mentions <image 2>, which is missing"]


def test_ids_and_clusters(tmp_path: Path) -> None:
    ids = {name: load(twins.parquet(tmp_path / name, name), name).dev for name in SPECS}
    assert {name: dev.sample_ids[0] for name, dev in ids.items()} == {
        "gqa": "200", "scienceqa": "0", "textvqa": "34602", "mmmu": "validation_Accounting_1", "seed": "100", "mathvista": "1", "ai2d": "0",
        "chartqa": "0", "docvqa": "0", "mmstar": "0", "realworldqa": "0", "ocrbench": "0", "pope": "0",
    }  # fmt: skip
    clusters = {name: len({dev.index(k).image_set for k in range(len(dev))}) for name, dev in ids.items()}
    assert {name: clusters[name] for name in ("gqa", "textvqa", "docvqa", "pope", "scienceqa")} == {
        "gqa": 2, "textvqa": 2, "docvqa": 1, "pope": 2, "scienceqa": 3,
    }  # fmt: skip
    assert ids["scienceqa"].index(2).images == () and ids["scienceqa"].index(1).text.startswith("Look at the picture.\nWhich is a solid?\nA. water")


def test_tracks_of_pope_whose_ids_begin_anew_are_told_apart(tmp_path: Path) -> None:
    rows = twins.PARQUET["pope"]["data/test-00000-of-00001"]
    again = [{**rows[0], "id": "0"}, {**rows[2], "id": "0"}, {**rows[2], "id": "0"}]
    splits = load(twins.parquet(tmp_path, "pope", rows={"data/test-00000-of-00001": again}), "pope")
    assert splits.dev.sample_ids == ("0", "popular-0") and splits.dev.index(0).image_set == splits.dev.index(1).image_set


def test_instructions_are_not_doubled(tmp_path: Path) -> None:
    texts = [load(twins.parquet(tmp_path / name, name), name).dev[0].text for name in ("realworldqa", "mathvista", "mmstar", "gqa")]
    assert texts[0].endswith("and nothing else.") and texts[1] == "Hint: ...\nQuestion: Which?"
    assert texts[2].endswith("D: None\nAnswer with the option's letter from the given choices directly.")
    assert texts[3] == "Is the box red?\nAnswer the question using a single word or phrase."


def test_pictures_are_read_when_they_are_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a set that names its pictures no byte of one is read before, and no row group but the one asked for."""
    twins.parquet(tmp_path, "textvqa")
    read: list[tuple[int, list[str]]] = []
    whole = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, i, columns: read.append((i, columns)) or whole(self, i, columns=columns))
    splits = load(tmp_path, "textvqa")
    assert read == []
    assert Image.open(io.BytesIO(splits.dev[2].images[0].data or b"")).size == (64, 48) and read == [(1, ["image"])]
    assert len(load(twins.parquet(tmp_path / "seed", "seed"), "seed").dev) == 2 and read[1:] == [(0, ["image.list.element.path"]), (1, [
        "image.list.element.path"])]  # fmt: skip


def test_threads_that_fetch_at_once_each_get_their_own_picture(tmp_path: Path) -> None:
    file, number = tmp_path / "test.parquet", 64
    held = [{"bytes": bytes([row]) * 5000} for row in range(number)]
    pq.write_table(pa.table({"image": held}), file, row_group_size=1)
    asked = [random.Random(seed).randrange(number) for seed in range(2000)]
    with ThreadPoolExecutor(8) as pool:
        pictures = Pictures()
        got = pool.map(lambda row: pictures.fetch(Picture(f"{file}#{row}/image")).data, asked)
        assert all(data == held[row]["bytes"] for row, data in zip(asked, got, strict=True))


def test_multiple_choice_is_written_where_it_is_asked_to_be(tmp_path: Path) -> None:
    root = twins.parquet(tmp_path, "ai2d")
    assert load(root, "ai2d").kind == Choice.kind and load(root, "ai2d").answers.options == ("A", "B", "C", "D")
    splits = load(root, "ai2d", kind="text")
    assert splits.kind == Text.kind and splits.dev[0].answer == Text(("C",))


def test_what_is_not_there_is_refused_with_what_is(tmp_path: Path) -> None:
    root = twins.parquet(tmp_path, "scienceqa")
    with pytest.raises(DataError, match="split test of data.subset=FULL is not there; it holds ScienceQA-IMG/test-00000-of-00001.parquet"):
        load(root, "scienceqa", subset="FULL")
    with pytest.raises(ConfigError, match="data.split=tests: splits of ScienceQA .* with answers are test, validation. Did you mean 'test'"):
        load(root, "scienceqa", split="tests")
    twins.tsv(root, "scienceqa")
    with pytest.raises(ConfigError, match="it holds ScienceQA_TEST.tsv and ScienceQA-IMG/test-00000-of-00001.parquet"):
        load(root, "scienceqa")
    assert len(load(root / "ScienceQA_TEST.tsv", "scienceqa", tmp_path / "cache").dev) == 3
    with pytest.raises(DataError, match="data.root=lmms-lab/GQA: it is no folder here, and the hub did not give it"):
        data.load(DataDial(name="gqa"), tmp_path)


def test_what_was_read_is_in_the_name_with_its_n(tmp_path: Path) -> None:
    """ScienceQA with and without pictures, SEED with and without videos, MMMU's two splits are not one number."""
    rows = {"ScienceQA-FULL/test-00000-of-00001": next(iter(twins.PARQUET["scienceqa"].values()))}
    notes = [
        load(twins.parquet(tmp_path / "img", "scienceqa"), "scienceqa").notes[0],
        load(twins.parquet(tmp_path / "full", "scienceqa", rows=rows), "scienceqa").notes[0],
        load(twins.tsv(tmp_path / "seed", "seed"), "seed").notes[0],
        load(twins.tsv(tmp_path / "mmmu", "mmmu"), "mmmu", split="dev").notes[0],
    ]
    assert notes == [
        "scienceqa (IMG test): 3 questions asked; officially 2017.", "scienceqa (FULL test): 3 questions asked; officially 4241.",
        "seed (SEEDBench_IMG test): 3 questions asked; officially 14233.", "mmmu (MMMU_DEV_VAL dev): 1 questions asked; officially 150.",
    ]  # fmt: skip


def test_a_row_that_brings_its_own_hint_and_placeholder(tmp_path: Path) -> None:
    row = twins.PARQUET["mmstar"]["mmstar"][0]
    own = {**row, "question": "Hint: Answer with a letter.\n<image 1>What is shown?\nOptions: A: box, B: circle"}
    (sample,) = load(twins.parquet(tmp_path, "mmstar", rows={"mmstar": [own]}), "mmstar").dev
    assert sample.text == "Hint: Answer with a letter.\nWhat is shown?\nOptions: A: box, B: circle" and len(sample.answer.options) == 2  # type: ignore[union-attr]


def test_a_choice_without_options_is_left_out(tmp_path: Path) -> None:
    row = twins.PARQUET["mmstar"]["mmstar"][0]
    splits = load(twins.parquet(tmp_path, "mmstar", rows={"mmstar": [row, {**row, "index": 1, "question": "What is shown?"}]}), "mmstar")
    assert [(each.source, each.reason) for each in splits.skipped] == [("1", "it has no options")] and len(splits.dev) == 1


def test_an_option_that_was_lost_and_a_damaged_picture_leave_the_row_out(tmp_path: Path) -> None:
    name, header, rows = twins.TSV["seed"]
    lost = [*rows[:2], (*rows[1][:8], "C", *rows[1][9:])]
    lost[2] = (7, *lost[2][1:])
    lost.append((8, "!" * 80, *rows[0][2:]))
    folder = twins.tsv(tmp_path, "seed", (name, header, lost))
    reasons = [("7", "its answer 'C' is none of its 2 options"), ("8", "its picture is no base64")]
    assert [(each.source, each.reason) for each in load(folder, "seed").skipped] == reasons


def test_a_smaller_number_is_a_seeded_part_of_a_larger_one(tmp_path: Path) -> None:
    root = twins.parquet(tmp_path, "gqa")
    two, one = (load(root, "gqa", num_dev=k).dev.sample_ids for k in (2, 1))
    assert {*one} < {*two} and load(root, "gqa", num_dev=2).dev.sample_ids == two


def test_the_seed_spells_science_qa_another_way(composer) -> None:
    assert ALIASES == {"science_qa": "scienceqa"} and composer("data=science_qa", "trainer.max_steps=0", "lora=none").data.name == "scienceqa"
    assert data.option("science_qa root=/x").name == "scienceqa"
    assert composer("data=mmmu", "trainer.max_steps=0", "lora=none").prompt.name == "conversation"
