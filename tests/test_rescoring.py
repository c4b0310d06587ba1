"""lab report --rescore: stored replies marked by the rules of today, without a model; both versions are told."""

from __future__ import annotations

import dataclasses
import functools
import json
import subprocess
import sys
from pathlib import Path

import benchmark_twins as twins
import pytest
from synthetic_runs import Questions, write_run
from synthetic_runs import answers as answers_of
from test_marks import GOLD

from lab import data
from lab.config import DataDial
from lab.errors import DataError
from lab.records import Choice, Prediction, Sample, Scored, Written
from lab.report import rescoring
from lab.report.__main__ import main
from lab.report.benchmarks import marked_blocks
from lab.report.findings import study
from lab.report.samples import log_samples
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.statistics.marking import RULES, Asked, Marked
from lab.statistics.marking.mark import PLAIN
from lab.store import results, runs

pytestmark = pytest.mark.usefixtures("blank_figures")


def said(sample: Sample, reply: str) -> Prediction:
    """A prediction of a question."""
    if isinstance(sample.answer, Choice):
        place = sample.answer.options.index(reply)
        log_p = tuple(-0.1 if k == place else -5.0 for k in range(len(sample.answer.options)))
        what: Scored | Written = Scored(log_p, 0.9, place)
    else:
        what = Written(reply, "vqa", 2, True, -0.1, -0.2, 2)
    order = tuple(range(len(sample.images)))
    return Prediction(sample.sample_id, sample.image_set, sample.question_group, sample.subset, sample.answer, what, order, (4,) * len(order))


def finished(runs_dir: Path, root: Path, name: str, replies: tuple[str, ...]) -> str:
    """A finished run that has answered a benchmark."""
    twins.parquet(root, name)
    dev = data.load(DataDial(name=name, root=str(root), profile="ours"), root / "cache").dev
    rows = [said(dev.index(k), reply) for k, reply in enumerate(replies)]
    keys = {"data.name": name, "data.root": str(root), "data.profile": "ours", "tracking.enabled": False}
    write_run(runs_dir, name, keys, rows, facts={"asked": {}})
    return name


def upper_only(prediction: str, references: object, profile: str = "ours", asked: Asked = PLAIN) -> Marked:
    return Marked(float(prediction.isupper()), prediction)


def test_a_changed_rule_marks_a_finished_run_anew_and_both_versions_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    finished(tmp_path / "runs", tmp_path / "gqa", "gqa", ("yes", "RED", "perhaps"))
    words = ["--rescore", "--run", "gqa", "--runs-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main(words) == 0 and "1 sets of replies marked anew" in capsys.readouterr().out
    first = json.loads((tmp_path / "runs" / "gqa" / "evaluations" / "gqa.json").read_text())
    assert first["metrics"]["accuracy"] == pytest.approx(2 / 3) and first["rule"] == {"name": "exact_answer", "version": 1} and "rows" not in first
    assert (first["n"], first["n_official"], first["profile"], first["unparsed"], first["left_out"]) == (3, 12578, "ours", 0.0, [])
    monkeypatch.setitem(RULES, "exact_answer", dataclasses.replace(RULES["exact_answer"], version=2, mark=upper_only))
    assert main(words) == 0
    table = (tmp_path / "out" / "rescored.md").read_text()
    assert "| ours | exact_answer, 2 |" in table and "| ours | exact_answer, 1 |" in table and "| 33.3" in table and "| 66.7" in table
    metrics = runs.load(tmp_path / "runs", "gqa").metrics  # type: ignore[union-attr]
    assert metrics["gqa/accuracy"] == pytest.approx(1 / 3) and metrics["gqa/rule_version"] == 2
    page = (write_report(choose(tmp_path / "runs", None, ["gqa"]), tmp_path / "report") / "report.md").read_text()
    assert "## Benchmarks" in page and "exact_answer, 2" in page and "3 (12578)" in page


def test_letters_of_a_scored_choice_and_raw_replies_are_marked(tmp_path: Path) -> None:
    finished(tmp_path / "runs", tmp_path / "ai2d", "ai2d", ("C", "A", "A"))
    rescoring.rescore(tmp_path / "runs", [], None, tmp_path / "out")
    place = tmp_path / "runs" / "ai2d" / "evaluations" / "ai2d.json"
    assert json.loads(place.read_text())["metrics"]["accuracy"] == pytest.approx(2 / 3)
    (tmp_path / "runs" / "ai2d" / "answers").mkdir()
    lines = [{"id": str(k), "reply": reply, "scores": None, "picture": "x"} for k, reply in enumerate(GOLD["ai2d"])]
    (tmp_path / "runs" / "ai2d" / "answers" / "ai2d.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rescoring.rescore(tmp_path / "runs", [], None, tmp_path / "out")
    assert json.loads(place.read_text())["metrics"]["accuracy"] == 1.0


def test_what_lab_evaluate_asked_is_marked_too(tmp_path: Path) -> None:
    """Of a run of other data; not where the contract was broken."""
    finished(tmp_path / "other", tmp_path / "gqa", "gqa", ("yes", "red", "perhaps"))
    answers = tmp_path / "other" / "gqa" / "predictions" / "dev.parquet"
    write_run(tmp_path / "runs", "pairs", {"tracking.enabled": False}, answers_of(Questions.draw("dev", 14), 1.0), facts={"asked": {}})
    folder = tmp_path / "runs" / "pairs" / "evaluations"
    folder.mkdir()
    facts = {"data": {"name": "gqa"}, "overrides": ["data=gqa", f"data.root={tmp_path / 'gqa'}"], "contract_broken": True}
    (folder / "dev-1.parquet").write_bytes(answers.read_bytes())
    (folder / "dev-1.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match="no finished run"):
        rescoring.rescore(tmp_path / "runs", [], None, tmp_path / "out")
    (folder / "dev-1.json").write_text(json.dumps(facts | {"contract_broken": False}))
    rescoring.rescore(tmp_path / "runs", [], None, tmp_path / "out")
    assert json.loads((folder / "gqa.json").read_text())["metrics"]["accuracy"] == pytest.approx(2 / 3)


def test_another_profile_leaves_the_run_as_it_is(tmp_path: Path) -> None:
    finished(tmp_path / "runs", tmp_path / "gqa", "gqa", ("Yes.", "red", "no"))
    rescoring.rescore(tmp_path / "runs", [], "vlmevalkit", tmp_path / "out")
    (row,) = json.loads((tmp_path / "out" / "rescored.json").read_text())
    assert row["metrics"]["accuracy"] == pytest.approx(2 / 3) and row["profile"] == "vlmevalkit" and row["before"] is None
    assert not (tmp_path / "runs" / "gqa" / "evaluations").exists()


def test_nothing_to_mark_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs").mkdir()
    with pytest.raises(DataError, match="no finished run in .* has answered any of gqa, scienceqa"):
        rescoring.rescore(tmp_path / "runs", [], None, tmp_path / "out")
    assert main(["--profile", "lmms", "--runs-dir", str(tmp_path / "runs")]) == 2 and "it goes with --rescore" in capsys.readouterr().err
    assert main(["--rescore", "--run", "x", "--runs-dir", str(tmp_path / "runs")]) == 2 and "there is no such run" in capsys.readouterr().err


GONE = object()
BROKEN = [
    ("evaluations/gqa.json", ("data",), "seed_of_tomorrow"), ("evaluations/gqa.json", ("rule",), {"name": "exact_answer"}),
    ("evaluations/gqa.json", ("metrics", "accuracy"), GONE), ("evaluations/gqa.json", ("left_out",), None), ("evaluations/gqa.json", ("n",), "3"),
    ("evaluations/gqa.json", ("judge",), {"model": "m"}), ("evaluations/gqa.json", (), []),
    ("evaluations/dev-1.json", ("data",), "gqa"), ("evaluations/dev-1.json", ("overrides",), GONE),
    ("evaluations/dev-1.json", ("contract_broken",), GONE),
]  # fmt: skip


def test_a_result_of_another_version_costs_itself_and_a_line(tmp_path: Path, caplog) -> None:
    """Reported, marked anew and logged all the same; what is told names the file."""
    finished(tmp_path / "runs", tmp_path / "gqa", "gqa", ("yes", "red", "no"))
    rescoring.rescore(tmp_path / "runs", [], None, tmp_path / "out")
    folder = tmp_path / "runs" / "gqa"
    scored = {"data": {"name": "gqa"}, "overrides": ["data=gqa", f"data.root={tmp_path / 'gqa'}"], "contract_broken": False}
    (folder / "evaluations" / "dev-1.json").write_text(json.dumps(scored))
    (folder / "evaluations" / "dev-1.parquet").write_bytes((folder / "predictions" / "dev.parquet").read_bytes())
    whole = {name: (folder / name).read_text() for name, *_ in BROKEN}
    for name, keys, value in BROKEN:
        facts = json.loads(whole[name])
        if keys:
            within = functools.reduce(lambda found, key: found[key], keys[:-1], facts)
            within.pop(keys[-1], None) if value is GONE else within.update({keys[-1]: value})
        (folder / name).write_text(json.dumps(facts if keys else value))
        results.refused.cache_clear()
        caplog.clear()
        marked_blocks(study(choose(tmp_path / "runs", None, ["gqa"])))
        rescoring.rescore(tmp_path / "runs", [], None, tmp_path / "out")
        log_samples(tmp_path / "runs", [], tmp_path / "out")
        assert caplog.text.count(str(folder / name)) == 1, (name, keys)
        for other, text in whole.items():
            (folder / other).write_text(text)
    (folder / "evaluations" / "gqa.json").unlink()
    (folder / "evaluations" / "gqa.json").mkdir()
    rescoring.rescore(tmp_path / "runs", [], None, tmp_path / "out")
    assert "its marks are in rescored.md alone" in caplog.text and "gqa" in (tmp_path / "out" / "rescored.md").read_text()


def test_neither_torch_nor_transformers_is_imported(tmp_path: Path) -> None:
    finished(tmp_path / "runs", tmp_path / "gqa", "gqa", ("yes", "red", "no"))
    words = ["--rescore", "--runs-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    code = (
        f"import sys; from lab.report.__main__ import main; print(main({words!r}))\n"
        "print([name for name in ('torch', 'transformers', 'datasets', 'mlflow') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    assert out.stdout.splitlines()[-2:] == ["0", "[]"]
