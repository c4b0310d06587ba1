"""A metric of one's own: one object, registered, stands in every place where the shipped ones stand."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
from prediction_tables import nested
from synthetic_runs import write_example

from lab.answers import predictions
from lab.errors import LabError
from lab.report.kinds import page_of
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.statistics import summary
from lab.statistics.comparing import compare
from lab.statistics.intervals import interval, intervals
from lab.statistics.metrics import KINDS, Metric, register
from lab.statistics.verdict import verdict

SAYS = "said true: share of examples that are answered True."


@pytest.fixture
def said_true(monkeypatch: pytest.MonkeyPatch) -> Metric:
    """A small metric in the register, which is as it was afterwards."""
    kind = KINDS["choice"]
    monkeypatch.setitem(KINDS, "choice", deepcopy(kind))
    metric = Metric(
        "said_true", "said true", "%", True, lambda table: float(table.prediction.mean()), SAYS, each=lambda table: table.prediction,
        interval=True, needs=("prediction",),
    )  # fmt: skip
    register("choice", metric)
    return metric


def test_it_is_in_the_record_the_report_and_the_tests(said_true: Metric, tmp_path: Path) -> None:
    write_example(tmp_path / "runs", num_dev=140, num_minival=70)
    folder = write_report(choose(tmp_path / "runs", run_ids=["zero", "rank8"]), tmp_path / "out")
    page = (folder / "report.md").read_text()
    table = predictions.read(tmp_path / "runs" / "rank8" / "predictions" / "dev.parquet")
    found = intervals([table], ["said_true"])[0]["said_true"]
    share = table.prediction.mean()
    assert found.estimate == share and found.low < share < found.high
    assert f"| {100 * share:.1f} [{100 * found.low:.1f}, {100 * found.high:.1f}] |" in page
    assert "| said true, % [95 %] |" in page and f"- {SAYS}\n" in page
    assert (folder / "figures" / "accuracy_and_ece_and_said_true.png").exists()
    recorded = summary.of_split("dev", table, 2000)  # MLflow has these names
    assert (recorded["dev/said_true"], recorded["dev/said_true_low"]) == (share, found.low)
    other = predictions.read(tmp_path / "runs" / "zero" / "predictions" / "dev.parquet")
    assert "points of said_true" in verdict(compare(table, other, "said_true"), "r=8", "base").sentence


def test_every_kind_has_a_page_of_its_name() -> None:
    assert KINDS and all(page_of(name).kind == name == kind.name for name, kind in KINDS.items())


def test_a_metric_of_part_of_the_tables_is_left_out_of_others(said_true: Metric) -> None:
    register("choice", Metric("never", "never", "", True, lambda table: 1.0, only=lambda table: False), shown=False)
    assert "dev/never" not in summary.of_split("dev", nested(12), 2000)


def test_it_is_gone_without_the_registration_and_refused_twice(request: pytest.FixtureRequest) -> None:
    with pytest.raises(LabError, match="metric='said_true': legal are"):
        interval(nested(5), "said_true")
    metric = request.getfixturevalue("said_true")
    with pytest.raises(LabError, match="choice has one of this name"):
        register("choice", metric)
    with pytest.raises(LabError, match="Did you mean 'choice'"):
        register("choise", metric)
