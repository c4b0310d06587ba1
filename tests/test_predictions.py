"""The predictions table: round trip, columns on demand, and everything it refuses."""

import dataclasses
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lab.answers import predictions
from lab.errors import DataError
from lab.records import Prediction


def rows(num=5):
    made = []
    for i in range(num):
        p = (i + 1) / (num + 1)
        made.append(
            Prediction(
                sample_id=f"dev-{i}",
                image_set=f"set-{i // 2}",
                sentence_group=f"sentence-{i // 3}",
                subset=None if i % 2 else "balanced",
                label=i % 3 == 0,
                log_p_true=float(np.log(0.9 * p)),
                log_p_false=float(np.log(0.9 * (1 - p))),
                captured_mass=0.9,
                prediction=p >= 0.5,
                image_order=(1, 0),
                visual_tokens=(16, 16 + i),
            )
        )
    return made


def test_round_trip(tmp_path):
    given, path = rows(), tmp_path / "runs" / "dev.parquet"
    predictions.write(path, iter(given))
    table = predictions.read(path)
    assert len(table) == 5 and table.columns == predictions.COLUMNS
    for name in predictions.COLUMNS:
        assert getattr(table, name).tolist() == [getattr(row, name) for row in given], name
    assert table.sample_id.dtype.kind == "U" and table.label.dtype == bool and table.log_p_true.dtype == np.float64
    assert table.p_true == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6], abs=1e-15)
    assert table.confidence == pytest.approx([5 / 6, 4 / 6, 3 / 6, 4 / 6, 5 / 6], abs=1e-15)
    assert table.correct.tolist() == [row.label == row.prediction for row in given]


def test_schema_is_fixed_and_versioned(tmp_path):
    predictions.write(tmp_path / "dev.parquet", rows())
    schema = pq.read_schema(tmp_path / "dev.parquet")
    assert tuple(schema.names) == tuple(field.name for field in dataclasses.fields(Prediction)) == predictions.COLUMNS
    assert schema.metadata[b"vlm_lab.predictions"] == b"1"


def test_the_same_predictions_give_the_same_bytes(tmp_path):
    predictions.write(tmp_path / "a", rows())
    predictions.write(tmp_path / "b", rows())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_only_the_columns_asked_for(tmp_path):
    path = tmp_path / "dev.parquet"
    predictions.write(path, rows())
    table = predictions.read(path, ["prediction", "label"])
    assert table.columns == ("label", "prediction")
    assert table.correct.shape == (5,)
    with pytest.raises(DataError, match=r"'log_p_true' was not read \(read: label, prediction\)"):
        _ = table.p_true
    with pytest.raises(AttributeError):
        _ = table.labels
    with pytest.raises(DataError, match="Did you mean 'label'"):
        predictions.read(path, ["labels"])
    with pytest.raises(DataError, match="reads nothing"):
        predictions.read(path, [])


def test_table_in_memory_equals_the_file(tmp_path):
    predictions.write(tmp_path / "dev.parquet", rows())
    here, there = predictions.table(rows()), predictions.read(tmp_path / "dev.parquet")
    for name in predictions.COLUMNS:
        assert here.__dict__[name].tolist() == there.__dict__[name].tolist()


def test_take_select_replace():
    table = predictions.table(rows())
    assert table.take(np.array([3, 1])).sample_id.tolist() == ["dev-3", "dev-1"]
    assert len(table.take(table.label)) == 2
    assert table.select("label", "sample_id").columns == ("sample_id", "label")
    flipped = table.replace(prediction=~table.prediction)
    assert (flipped.correct == ~table.correct).all() and flipped.sample_id is table.sample_id
    with pytest.raises(dataclasses.FrozenInstanceError):
        table.label = None


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "dev.parquet"
    predictions.write(path, rows(4))
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(predictions.os, "replace", full_disk)
    with pytest.raises(OSError, match="no space"):
        predictions.write(path, rows(5))
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["dev.parquet"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sample_id": "dev-0"}, r"1 sample id\(s\) occur more than once, the first 'dev-0'"),
        ({"log_p_true": float("nan")}, "'log_p_true' holds nan in row 4"),
        ({"log_p_false": 0.5}, "'log_p_false' holds 0.5 in row 4"),
        ({"captured_mass": 1.5}, "'captured_mass' holds 1.5"),
        ({"captured_mass": float("nan")}, "'captured_mass' holds nan"),
        ({"log_p_true": -np.inf, "log_p_false": -np.inf}, r"P\(True\) is undefined"),
        ({"image_set": None}, "'image_set' is empty in 1 of 5 rows"),
        ({"label": "False"}, "does not fit the schema"),  # bool("False") is True: never coerced
    ],
)
def test_refused_before_anything_is_written(tmp_path, change, says):
    bad = rows()
    bad[4] = dataclasses.replace(bad[4], **change)
    with pytest.raises(DataError, match=says):
        predictions.write(tmp_path / "dev.parquet", bad)
    assert os.listdir(tmp_path) == []


def test_one_answer_may_have_probability_zero():
    bad = rows()
    bad[4] = dataclasses.replace(bad[4], log_p_false=-np.inf)
    assert predictions.table(bad).p_true[4] == 1.0


def test_empty_is_refused(tmp_path):
    with pytest.raises(DataError, match="no predictions"):
        predictions.write(tmp_path / "dev.parquet", [])


def _rewrite(path, change):
    pq.write_table(change(pq.read_table(path)), path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop_columns(["label"]), r"missing column\(s\) label"),
        (lambda t: t.replace_schema_metadata({b"vlm_lab.predictions": b"99"}), "schema version 99, this laboratory reads 1"),
        (lambda t: t.replace_schema_metadata(None), "schema version none"),
        (lambda t: t.set_column(4, "label", t["label"].cast(pa.int8())), "column 'label' is int8, not bool"),
        (lambda t: t.set_column(5, "log_p_true", pa.array([np.nan] * 5)), "'log_p_true' holds nan in row 0 .5 such rows"),
        (lambda t: pa.concat_tables([t, t]), "occur more than once"),
    ],
)
def test_a_file_that_was_tampered_with(tmp_path, change, says):
    path = tmp_path / "dev.parquet"
    predictions.write(path, rows())
    _rewrite(path, change)
    with pytest.raises(DataError, match=says):
        predictions.read(path)


def test_columns_that_are_not_read_are_not_missed(tmp_path):
    path = tmp_path / "dev.parquet"
    predictions.write(path, rows())
    _rewrite(path, lambda t: t.drop_columns(["image_order"]))
    assert predictions.read(path, ["label"]).label.shape == (5,)


def test_no_file_and_no_parquet(tmp_path):
    with pytest.raises(DataError, match="no such predictions file"):
        predictions.read(tmp_path / "dev.parquet")
    (tmp_path / "dev.parquet").write_text("sample_id,label\n")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        predictions.read(tmp_path / "dev.parquet")
