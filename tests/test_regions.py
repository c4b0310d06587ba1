"""Regions: boxes as records, as rows of a file, and as an answer that a data set has."""

from dataclasses import replace

import numpy as np
import pytest

from lab.answers import predictions
from lab.answers.regions import RegionsTable
from lab.errors import DataError
from lab.records import TRUE_FALSE, AnswerSpace, Choice, Located, Prediction, Region, Regions, Text

TABLE, TEXT = Region("table", 10.25, 20, 300, 200.5), Region("text", 0, 0, 640, 480)


def located(regions=(TABLE,), status="ok", scores=(0.5,)):
    return Located("written", "qwen2", status, regions, scores, 12, True, -3.5)


def rows():
    said = [located(), located((TABLE, TEXT), scores=()), located((), "empty", ()), located((), "failed", ())]
    answers = [Regions((TABLE,), (640, 480)), Regions((TEXT, TABLE), (640, 480)), Regions((), (64, 48)), Regions((TEXT,), (640, 480))]
    return [
        Prediction(f"dev-{i}", f"set-{i // 2}", f"question-{i}", None, answer, one, (0,), (16,))
        for i, (answer, one) in enumerate(zip(answers, said, strict=True))
    ]


def test_boxes_go_through_a_file_and_back(tmp_path):
    predictions.write(tmp_path / "dev.parquet", rows())
    assert predictions.rows(tmp_path / "dev.parquet") == rows()
    table = predictions.read(tmp_path / "dev.parquet")
    assert isinstance(table, RegionsTable) and table.kind == "regions"
    assert table.references.tolist() == [row.answer.regions for row in rows()] and table.regions[1] == (TABLE, TEXT)
    assert table.scores.tolist() == [(0.5,), (), (), ()] and table.status.tolist() == ["ok", "ok", "empty", "failed"]
    assert table.width.tolist() == [640, 640, 64, 640] and np.allclose(table.confidence, np.exp(-3.5))
    assert predictions.read(tmp_path / "dev.parquet", ["regions", "scores"]).columns == ("regions", "scores")


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (located(status="broken"), "status.*broken.*legal: ok"),
        (located(scores=(0.5, 0.5)), "row 0 has 2 scores for 1 regions"),
        (located(scores=(1.5,)), "scores.*legal: from 0 to 1"),
        (replace(located(), log_p=float("nan")), "log_p.*at most 0"),
    ],
)
def test_impossible_rows_are_refused(said, complaint):
    with pytest.raises(DataError, match=complaint):
        predictions.table([replace(rows()[0], said=said)])


def test_a_box_is_valid_in_order_with_an_area_and_inside():
    size = (640, 480)
    assert TEXT.valid(size) and TABLE.valid(size)
    for wrong in (Region("", 300, 20, 10, 200), Region("", 10, 20, 10, 200), Region("", -1, 0, 5, 5), Region("", 0, 0, 640.5, 480)):
        assert not wrong.valid(size)


def test_the_answers_of_a_data_set_tell_their_kind():
    boxes = Regions((TABLE,), (640, 480))
    assert AnswerSpace.of([boxes, boxes]) == AnswerSpace("regions", ()) and AnswerSpace.of([Text(("a",))]) == AnswerSpace("text", ())
    assert AnswerSpace.of([Choice.truth(False)]) == TRUE_FALSE and AnswerSpace.of([]).kind == "text"
    assert boxes.key != Regions((TEXT,), (640, 480)).key != Regions((TEXT,), (480, 640)).key
