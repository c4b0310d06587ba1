"""Winoground: four questions an example, and three scores by strict inequalities."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageDraw
from prediction_tables import prediction

from lab import evaluate
from lab import run as running
from lab.answers import predictions
from lab.config import DataDial, OnBad
from lab.data import load, require_split
from lab.data.images import decode
from lab.errors import ConfigError, DataError
from lab.records import Choice, Prediction, Sample
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.statistics import rules, winoground

pytestmark = pytest.mark.usefixtures("nominal_costs")


def png(value: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 2), (0, value, 0)).save(out, "PNG")
    return out.getvalue()


def make(root: Path, count: int = 3, broken: int | None = None) -> Path:
    """A stand-in with the columns of facebook/winoground."""
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    image = lambda i: pa.array([{"bytes": png(10 * k + i), "path": None} for k in range(count)], cell)  # noqa: E731
    columns = {"id": pa.array(range(count), pa.int32()), "image_0": image(0), "image_1": image(1)}
    columns |= {f"caption_{c}": [f"caption {c} of {k}" for k in range(count)] for c in (0, 1)}
    columns |= {
        "tag": ["t"] * count,
        "num_main_preds": pa.array([1] * count, pa.int32()),
        "collapsed_tag": ["Object"] * count,
    }
    if broken is not None:
        cells = columns["image_1"].to_pylist()
        cells[broken]["bytes"] = b"broken"
        columns["image_1"] = pa.array(cells, cell)
    (root / "data").mkdir(parents=True)
    pq.write_table(pa.table(columns), root / "data" / "test-00000-of-00001.parquet")
    return root


def predicted(sample: Sample, s: float) -> Prediction:
    true = -np.log1p(np.exp(-s))
    return prediction(sample.sample_id, sample.answer.right == 0, (true, true - s), s > 0, 1.0, sample.image_set, sample.question_group,
                      sample.subset, (1,))  # fmt: skip


def test_each_example_is_four_questions(tmp_path: Path) -> None:
    splits = load(DataDial(name="winoground", root=str(make(tmp_path / "w"))), tmp_path / "cache")
    assert splits.dev.sample_ids[:4] == ("0-c0-i0", "0-c0-i1", "0-c1-i0", "0-c1-i1")
    assert len(splits.dev) == 12
    assert [sample.answer.right == 0 for sample in splits.dev][:4] == [True, False, False, True]
    sample = splits.dev[6]
    assert (sample.sample_id, sample.text) == ("1-c1-i0", "caption 1 of 1")
    assert (sample.image_set, sample.question_group, sample.subset) == ("1", "1-c1", "Object")
    (picture,) = sample.images
    assert decode(picture).getpixel((0, 0)) == (0, 10, 0)
    assert decode(splits.dev[7].images[0]).getpixel((0, 0)) == (0, 11, 0)
    assert any("officially 400" in note for note in splits.notes)
    with pytest.raises(DataError, match="train split is empty: data=winoground is diagnostic only"):
        require_split(splits, "train")


def test_a_part_is_whole_examples(tmp_path: Path) -> None:
    splits = load(DataDial(name="winoground", root=str(make(tmp_path / "w", 5)), num_dev=2), tmp_path / "cache")
    assert len(splits.dev) == 8
    assert len({sample.image_set for sample in splits.dev}) == 2


def test_a_bad_image_takes_its_example_along(tmp_path: Path) -> None:
    root = str(make(tmp_path / "w", broken=1))
    with pytest.raises(DataError, match=r"images: 1\.(?s:.*)#1/image_1: its content is none of"):
        load(DataDial(name="winoground", root=root), tmp_path / "cache")
    splits = load(DataDial(name="winoground", root=root, on_bad=OnBad.skip), tmp_path / "cache")
    assert {sample.image_set for sample in splits.dev} == {"0", "2"}
    assert len(splits.skipped) == 4


def test_what_the_dial_may_not_say(tmp_path: Path) -> None:
    for wrong in ({"num_train": 4}, {"source": "x"}, {"root": "/no/such/folder"}):
        with pytest.raises(ConfigError, match=f"data.{next(iter(wrong))}"):
            load(DataDial(**({"name": "winoground"} | wrong)), tmp_path)


def test_text_and_image_are_not_swapped() -> None:
    # caption 0 wins both images by far, and each caption prefers its own image: right by image, wrong by text
    only_image = [[0.9, 0.8], [0.1, 0.2]]
    only_text = np.transpose(only_image).tolist()
    assert winoground.scores(np.array([only_image])) == {"text": 0.0, "image": 1.0, "group": 0.0}
    assert winoground.scores(np.array([only_text])) == {"text": 1.0, "image": 0.0, "group": 0.0}
    both = [[0.9, 0.1], [0.2, 0.8]]
    right = winoground.correct(np.array([only_image, only_text, both, both]))
    assert right["text"].tolist() == [False, True, True, True]
    assert right["image"].tolist() == [True, False, True, True]
    assert right["group"].tolist() == [False, False, True, True]


def test_ties_fail_and_chance_is_a_quarter_and_a_sixth() -> None:
    assert winoground.scores(np.ones((3, 2, 2))) == {"text": 0.0, "image": 0.0, "group": 0.0}
    tie = np.array([[[1.0, 0.0], [1.0, 2.0]]])  # s(c0,i0) = s(c1,i0)
    assert winoground.scores(tie) == {"text": 0.0, "image": 1.0, "group": 0.0}
    chance = winoground.scores(np.random.default_rng(0).normal(size=(200_000, 2, 2)))
    assert chance["text"] == pytest.approx(0.25, abs=0.005)
    assert chance["image"] == pytest.approx(0.25, abs=0.005)
    assert chance["group"] == pytest.approx(1 / 6, abs=0.005)


@pytest.mark.parametrize(
    "s", [np.zeros((3, 2)), np.zeros((0, 2, 2)), np.full((1, 2, 2), np.nan), np.full((1, 2, 2), np.inf)]
)
def test_what_cannot_be_scored_is_refused(s: np.ndarray) -> None:
    with pytest.raises(DataError, match="Winoground"):
        winoground.scores(s)


def test_predictions_become_the_matrix_in_any_order(tmp_path: Path) -> None:
    splits = load(DataDial(name="winoground", root=str(make(tmp_path / "w"))), tmp_path / "cache")
    s = np.random.default_rng(0).normal(size=(3, 2, 2))
    made = [(sample.sample_id, s.reshape(-1)[k]) for k, sample in enumerate(splits.dev)]
    order = np.random.default_rng(1).permutation(12)
    names, table = winoground.arranged(made[k] for k in order)
    assert sorted(names) == ["0", "1", "2"]
    assert np.allclose(table, s[[int(name) for name in names]])
    with pytest.raises(DataError, match="3 of its four questions"):
        winoground.arranged(made[:-1])
    with pytest.raises(DataError, match="predicted twice"):
        winoground.arranged([*made, made[0]])


def test_intervals_are_over_examples_and_keep_text_and_image_apart() -> None:
    """Of ten examples three are right by image alone, two by text alone, four by both: nothing is symmetric."""
    only_image, both = [[0.9, 0.8], [0.1, 0.2]], [[0.9, 0.1], [0.2, 0.8]]
    only_text, neither = np.transpose(only_image).tolist(), [[0.1, 0.9], [0.8, 0.2]]
    s = np.array([only_image] * 3 + [only_text] * 2 + [both] * 4 + [neither])
    rows = [asked(f"{n}-c{c}-i{i}", s[n, c, i]) for n in range(10) for c in (0, 1) for i in (0, 1)]
    found = winoground.intervals(predictions.table(rows))
    assert {name: one.estimate for name, one in found.items()} == {"text": 0.6, "image": 0.7, "group": 0.4}
    for one in found.values():
        assert 0 < one.low < one.estimate < one.high <= 1 and one.num_clusters == 10 and one.num_examples == 40
    again = winoground.intervals(predictions.table(rows[::-1]))
    assert {n: one.estimate for n, one in again.items()} == {n: one.estimate for n, one in found.items()}
    alone = winoground.intervals(predictions.table(rows[:4]))
    assert alone["image"].estimate == 1.0 and alone["text"].estimate == 0.0 and np.isnan(alone["group"].low)
    assert rules.describe("winoground", found).splitlines()[2].startswith("winoground group 0.4000 [0.")
    assert "(chance 0.1667, 10 examples)" in rules.describe("winoground", found)


def asked(sample_id: str, s: float) -> Prediction:
    name, caption, image = sample_id.split("-")
    return predicted(Sample(sample_id, "t", (), Choice.truth(caption[1] == image[1]), name, f"{name}-{caption}"), s)


TIED = 2
"""Examples whose two images are the same, so that no model tells them apart."""


def drawn(root: Path, count: int = 40) -> Path:
    """A folder in the official schema whose captions tell its drawings apart, but for the first `TIED`."""
    folder = make(root, count)
    path = folder / "data" / "test-00000-of-00001.parquet"
    table = pq.read_table(path)
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    colours = ("red", "blue")
    for i in (0, 1):
        images = [{"bytes": two_things(*(colours[::-1] if i and k >= TIED else colours), k % 8), "path": None} for k in range(count)]
        table = table.set_column(table.schema.get_field_index(f"image_{i}"), f"image_{i}", pa.array(images, cell))
        texts = [f"There is a {colours[i]} circle and a {colours[1 - i]} square."] * count
        table = table.set_column(table.schema.get_field_index(f"caption_{i}"), f"caption_{i}", pa.array(texts))
    pq.write_table(table, path)
    return folder


def two_things(circle: str, square: str, shift: int) -> bytes:
    image = Image.new("RGB", (64, 64), "white")
    pen = ImageDraw.Draw(image)
    pen.ellipse((4 + shift, 4, 24 + shift, 24), fill=circle)
    pen.rectangle((36, 36 - shift, 56, 56 - shift), fill=square)
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()


def by_hand(path: Path) -> dict[str, float]:
    """The three scores, question by question, from a predictions file."""
    table = predictions.read(path)
    s = dict(zip(table.sample_id.tolist(), table.log_odds.tolist(), strict=True))
    names = sorted({name.split("-")[0] for name in s})
    text = [s[f"{n}-c0-i0"] > s[f"{n}-c1-i0"] and s[f"{n}-c1-i1"] > s[f"{n}-c0-i1"] for n in names]
    image = [s[f"{n}-c0-i0"] > s[f"{n}-c0-i1"] and s[f"{n}-c1-i1"] > s[f"{n}-c1-i0"] for n in names]
    group = [a and b for a, b in zip(text, image, strict=True)]
    return {name: sum(right) / len(names) for name, right in (("text", text), ("image", image), ("group", group))}


@pytest.mark.usefixtures("blank_figures")
def test_through_the_doors(small, tmp_path: Path, capsys, caplog) -> None:
    """As an experiment of its own, and as an evaluation of a run that was trained on something else; the report shows both."""
    root = f"data.root={drawn(tmp_path / 'w')}"
    common = ("evaluation.verify=false", "tracking.enabled=false")
    alone = small("data=winoground", root, "data.num_train=null", "data.num_minival=null", "data.num_dev=null", "lora=none",
                  "trainer.max_steps=0", *common)  # fmt: skip
    with caplog.at_level("INFO"):
        zero = running.run_alone(alone, "python -m lab.train data=winoground", time.time())
    runs_dir = tmp_path / "runs"
    wanted = by_hand(runs_dir / zero.identity / "predictions" / "winoground.dev.parquet")
    assert {name: zero.metrics[f"dev/winoground/{name}"] for name in wanted} == wanted
    assert max(wanted["image"], wanted["group"]) <= 1 - TIED / 40, "ties lose"
    assert zero.metrics["dev/winoground/image_low"] <= wanted["image"] <= zero.metrics["dev/winoground/image_high"]
    assert f"winoground text  {wanted['text']:.4f} [" in caplog.text and "(chance 0.2500, 40 examples)" in caplog.text

    trained = running.run_alone(small("trainer.max_steps=2", *common), "python -m lab.train", time.time())
    given = ["--run", trained.identity, "--runs-dir", str(runs_dir), "--name", "wino", "data=winoground", root]
    assert evaluate.main(given) == 0
    folder = runs_dir / trained.identity / "evaluations"
    wanted = by_hand(folder / "wino.parquet")
    facts = json.loads((folder / "wino.json").read_text())
    assert {name: facts["metrics"][f"winoground/{name}"] for name in wanted} == wanted
    assert f"  winoground group {wanted['group']:.4f} [" in capsys.readouterr().out

    page = (write_report(choose(runs_dir), tmp_path / "out") / "report.md").read_text()
    section = page.partition("## Winoground (diagnostic)")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 2 + 1 and rows[-1] == "| chance | – | 25.0 | 25.0 | 16.7 |"
    assert f"| 40 | {100 * wanted['text']:.1f} [" in section
