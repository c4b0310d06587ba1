"""Winoground: four questions an example, and three scores by strict inequalities."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lab.config import DataDial, OnBad
from lab.data import demand, load
from lab.data.images import decode
from lab.errors import ConfigError, DataError
from lab.evaluation import winoground
from lab.records import Prediction, Sample


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
    return Prediction(sample.sample_id, sample.image_set, sample.sentence_group, sample.subset, sample.answer.value,
                      true, true - s, 1.0, s > 0, (0,), (1,))  # fmt: skip


def test_each_example_is_four_questions(tmp_path: Path) -> None:
    splits = load(DataDial(name="winoground", root=str(make(tmp_path / "w"))), tmp_path / "cache")
    assert splits.dev.sample_ids[:4] == ("0-c0-i0", "0-c0-i1", "0-c1-i0", "0-c1-i1")
    assert len(splits.dev) == 12
    assert [sample.answer.value for sample in splits.dev][:4] == [True, False, False, True]
    sample = splits.dev[6]
    assert (sample.sample_id, sample.text) == ("1-c1-i0", "caption 1 of 1")
    assert (sample.image_set, sample.sentence_group, sample.subset) == ("1", "1-c1", "Object")
    (picture,) = sample.images
    assert decode(picture).getpixel((0, 0)) == (0, 10, 0)
    assert decode(splits.dev[7].images[0]).getpixel((0, 0)) == (0, 11, 0)
    assert any("officially 400" in note for note in splits.notes)
    with pytest.raises(DataError, match="train split is empty: data=winoground is diagnostic only"):
        demand(splits, "train")


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
    predictions = [predicted(sample, s.reshape(-1)[k]) for k, sample in enumerate(splits.dev)]
    order = np.random.default_rng(1).permutation(12)
    names, table = winoground.table(predictions[k] for k in order)
    assert sorted(names) == ["0", "1", "2"]
    assert np.allclose(table, s[[int(name) for name in names]])
    with pytest.raises(DataError, match="3 of its four questions"):
        winoground.table(predictions[:-1])
    with pytest.raises(DataError, match="predicted twice"):
        winoground.table([*predictions, predictions[0]])
