"""The predictions table: round trip, columns on demand, and everything it refuses."""

import dataclasses
import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic_runs

from lab.answers import predictions
from lab.answers.choice import ChoiceTable
from lab.errors import ConfigError, DataError
from lab.freezing import from_dict
from lab.records import Choice, Prediction, Scored
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.statistics.metrics import summarise


def rows(num=5):
    made = []
    for i in range(num):
        p = (i + 1) / (num + 1)
        made.append(
            Prediction(
                sample_id=f"dev-{i}",
                image_set=f"set-{i // 2}",
                question_group=f"sentence-{i // 3}",
                subset=None if i % 2 else "balanced",
                answer=Choice.truth(i % 3 == 0),
                said=Scored((float(np.log(0.9 * p)), float(np.log(0.9 * (1 - p)))), 0.9, 0 if p >= 0.5 else 1),
                image_order=(1, 0),
                visual_tokens=(16, 16 + i),
            )
        )
    return made


def changed(row, said=None, answer=None, **columns):
    """A prediction with other values, those of what was said and of the answer too."""
    said, answer = dataclasses.replace(row.said, **said or {}), dataclasses.replace(row.answer, **answer or {})
    return dataclasses.replace(row, said=said, answer=answer, **columns)


def version_1(path, given):
    """A file as version 1 wrote it."""
    columns = {
        "sample_id": [row.sample_id for row in given],
        "image_set": [row.image_set for row in given],
        "sentence_group": [row.question_group for row in given],
        "subset": [row.subset for row in given],
        "label": [row.answer.text == "True" for row in given],
        "log_p_true": [row.said.log_p[0] for row in given],
        "log_p_false": [row.said.log_p[1] for row in given],
        "captured_mass": [row.said.captured_mass for row in given],
        "prediction": [row.said.prediction == 0 for row in given],
        "image_order": pa.array([row.image_order for row in given], pa.list_(pa.int32())),
        "visual_tokens": pa.array([row.visual_tokens for row in given], pa.list_(pa.int32())),
    }
    pq.write_table(pa.table(columns).replace_schema_metadata({b"vlm_lab.predictions": b"1"}), path)


@pytest.mark.usefixtures("blank_figures")
def test_run_folders_of_an_earlier_version_are_reported_and_more_of_them_is_refused(tmp_path):
    """Folders as commit 662f32b wrote them: predictions of version 1 by split, a field of the tracker, `evaluation.generate`."""
    asked = synthetic_runs.Questions.draw("q", 60)
    pages = []
    for runs_dir, earlier in ((tmp_path / "now", False), (tmp_path / "then", True)):
        for rank, skill in ((2, 0.2), (8, 1.5)):
            given = synthetic_runs.answers(asked, skill)
            synthetic_runs.write_run(runs_dir, f"rank{rank}", {"lora.r": rank}, given, curve=False)
            folder = runs_dir / f"rank{rank}"
            if earlier:
                version_1(folder / "predictions" / "dev.parquet", given)
                record = json.loads((folder / "run.json").read_text())
                record["config"]["evaluation"]["generate"] = False
                (folder / "run.json").write_text(json.dumps(record | {"mlflow_run_id": None}))
        pages.append((write_report(choose(runs_dir, run_ids=["rank2", "rank8"]), runs_dir / "report") / "report.md").read_text())
    numbers = [[line for line in page.splitlines() if line.startswith("| `lora.r=")] for page in pages]
    assert numbers[0] == numbers[1] and len(numbers[0]) >= 2
    with pytest.raises(ConfigError, match="is none of this version of the laboratory.*The version that wrote it reads it.*662f32b"):
        from_dict(record["config"], "run.json")


def test_round_trip(tmp_path):
    given, path = rows(), tmp_path / "runs" / "dev.parquet"
    predictions.write(path, iter(given))
    table = predictions.read(path)
    assert len(table) == 5 and set(table.columns) == set(ChoiceTable.fields()) and table.binary
    for name in ("sample_id", "image_set", "question_group", "subset", "image_order", "visual_tokens"):
        assert getattr(table, name).tolist() == [getattr(row, name) for row in given], name
    assert table.options.tolist() == [("True", "False")] * 5 and table.right.tolist() == [row.answer.right for row in given]
    assert table.log_p.tolist() == [list(row.said.log_p) for row in given] and table.log_p.dtype == np.float64
    assert table.sample_id.dtype.kind == "U" and table.label.dtype == bool
    assert table.p_true == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6], abs=1e-15)
    assert table.confidence == pytest.approx([5 / 6, 4 / 6, 3 / 6, 4 / 6, 5 / 6], abs=1e-15)
    assert table.correct.tolist() == [row.said.prediction == row.answer.right for row in given]


def test_more_options_than_two(tmp_path):
    """Questions may differ in how many they have; there is no P(True), and the confidence is the answer's share."""
    given = rows(2)
    given[0] = changed(given[0], {"log_p": (-1.0, -2.0, -3.0, -4.0), "prediction": 2}, {"options": tuple("ABCD"), "right": 2})
    predictions.write(tmp_path / "dev.parquet", given)
    table = predictions.read(tmp_path / "dev.parquet")
    assert not table.binary and table.log_p[1].tolist() == [*given[1].said.log_p, -np.inf, -np.inf]
    shares = np.exp([-1.0, -2.0, -3.0, -4.0])
    assert table.confidence == pytest.approx([shares[2] / shares.sum(), 2 / 3])
    assert table.correct.tolist() == [True, False]
    with pytest.raises(DataError, match="undefined for questions with up to 4 options"):
        _ = table.p_true


def test_schema_is_fixed_and_versioned(tmp_path):
    predictions.write(tmp_path / "dev.parquet", rows())
    schema = pq.read_schema(tmp_path / "dev.parquet")
    assert tuple(schema.names) == tuple(ChoiceTable.fields())
    assert schema.metadata[b"vlm_lab.predictions"] == b"2" and schema.metadata[b"vlm_lab.kind"] == b"choice"


def test_a_file_of_version_1_gives_the_same_table_and_metrics(tmp_path):
    given = [changed(row, {"log_p": (row.said.log_p[0] + i / 7, row.said.log_p[1] - i)}) for i, row in enumerate(rows(40), 1)]
    given = [changed(row, {"log_p": (min(row.said.log_p[0], -1e-9), row.said.log_p[1])}) for row in given]
    version_1(tmp_path / "1.parquet", given)
    predictions.write(tmp_path / "2.parquet", given)
    first, second = (predictions.read(tmp_path / f"{number}.parquet") for number in (1, 2))
    assert first.columns == second.columns
    for name in first.columns:
        assert getattr(first, name).tolist() == getattr(second, name).tolist(), name
    assert summarise(first) == summarise(second)
    assert predictions.read(tmp_path / "1.parquet", ["right", "prediction"]).correct.tolist() == second.correct.tolist()


def test_the_same_predictions_give_the_same_bytes(tmp_path):
    predictions.write(tmp_path / "a", rows())
    predictions.write(tmp_path / "b", rows())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_only_the_columns_asked_for(tmp_path):
    path = tmp_path / "dev.parquet"
    predictions.write(path, rows())
    table = predictions.read(path, ["prediction", "right"])
    assert table.columns == ("right", "prediction")
    assert table.correct.shape == (5,)
    with pytest.raises(DataError, match=r"'log_p' was not read \(read: right, prediction\)"):
        _ = table.p_true
    with pytest.raises(AttributeError):
        _ = table.labels
    with pytest.raises(DataError, match="Did you mean 'right'"):
        predictions.read(path, ["rights"])
    with pytest.raises(DataError, match="reads nothing"):
        predictions.read(path, [])


def test_table_in_memory_equals_the_file(tmp_path):
    predictions.write(tmp_path / "dev.parquet", rows())
    here, there = predictions.table(rows()), predictions.read(tmp_path / "dev.parquet")
    for name in ChoiceTable.fields():
        assert here.__dict__[name].tolist() == there.__dict__[name].tolist()


def test_take_select_replace():
    table = predictions.table(rows())
    assert table.take(np.array([3, 1])).sample_id.tolist() == ["dev-3", "dev-1"]
    assert len(table.take(table.label)) == 2
    assert table.select("right", "sample_id").columns == ("sample_id", "right")
    flipped = table.replace(prediction=1 - table.prediction)
    assert (flipped.correct == ~table.correct).all() and flipped.sample_id is table.sample_id
    with pytest.raises(AttributeError):
        table.right = None
    with pytest.raises(DataError, match="no column 'label'"):
        table.replace(label=table.label)


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
        ({"said": {"log_p": (float("nan"), -1.0)}}, "'log_p' holds nan in row 4"),
        ({"said": {"log_p": (-1.0, 0.5)}}, "'log_p' holds 0.5 in row 4"),
        ({"said": {"captured_mass": 1.5}}, "'captured_mass' holds 1.5"),
        ({"said": {"captured_mass": float("nan")}}, "'captured_mass' holds nan"),
        ({"said": {"log_p": (-np.inf, -np.inf)}}, "every option has probability 0 in 1 rows"),
        ({"said": {"prediction": 2}}, "'prediction' holds a place that is none of 2 options"),
        ({"image_set": None}, "'image_set' is empty in 1 of 5 rows"),
        ({"answer": {"right": "0"}}, "does not fit the schema"),
    ],
)
def test_refused_before_anything_is_written(tmp_path, change, says):
    bad = rows()
    bad[4] = changed(bad[4], **change)
    with pytest.raises(DataError, match=says):
        predictions.write(tmp_path / "dev.parquet", bad)
    assert os.listdir(tmp_path) == []


def test_one_answer_may_have_probability_zero():
    bad = rows()
    bad[4] = changed(bad[4], {"log_p": (-0.2, -np.inf)})
    assert predictions.table(bad).p_true[4] == 1.0


def test_empty_is_refused(tmp_path):
    with pytest.raises(DataError, match="no predictions"):
        predictions.write(tmp_path / "dev.parquet", [])


def _rewrite(path, change):
    pq.write_table(change(pq.read_table(path)), path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda t: t.drop_columns(["right"]), r"missing column\(s\) right"),
        (lambda t: t.replace_schema_metadata({b"vlm_lab.predictions": b"99"}), "schema version 99 of kind none, this laboratory reads 1 and 2"),
        (lambda t: t.replace_schema_metadata(None), "schema version none"),
        (lambda t: t.set_column(7, "right", t["right"].cast(pa.int8())), "column 'right' is int8, not int16"),
        (lambda t: t.set_column(9, "captured_mass", pa.array([np.nan] * 5)), "'captured_mass' holds nan in row 0 .5 such values"),
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
    assert predictions.read(path, ["right"]).label.shape == (5,)


def test_no_file_and_no_parquet(tmp_path):
    with pytest.raises(DataError, match="no such predictions file"):
        predictions.read(tmp_path / "dev.parquet")
    (tmp_path / "dev.parquet").write_text("sample_id,label\n")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        predictions.read(tmp_path / "dev.parquet")
