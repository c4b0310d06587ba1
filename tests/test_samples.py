"""Stored replies for others: lmms-eval's samples, a hub's model index, LaTeX."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results
from test_rescoring import finished

from lab.artifacts import card
from lab.report import rescoring
from lab.report.__main__ import main
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.store import runs

pytestmark = pytest.mark.usefixtures("blank_figures")


def test_replies_are_logged_as_lmms_eval_does_and_told_to_hubs_and_papers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finished(tmp_path / "runs", tmp_path / "gqa", "gqa", ("yes", "RED", "perhaps"))
    finished(tmp_path / "runs", tmp_path / "textvqa", "textvqa", ("stop", "2", "unanswerable"))
    where = ["--runs-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
    assert main(["--log-samples", *where]) == 0 and "2 files of samples" in capsys.readouterr().out
    (gqa,) = (tmp_path / "out/samples/gqa").iterdir()
    assert gqa.name == "20260701_100100_samples_gqa.jsonl"
    assert [path.name for path in (tmp_path / "out/samples/textvqa").iterdir()] == ["20260701_100100_samples_textvqa_val.jsonl"]
    rows = [json.loads(line) for line in gqa.read_text().splitlines()]
    assert [(row["doc_id"], row["id"], row["target"], row["filtered_resps"], row["accuracy"]) for row in rows] == [
        (0, "200", "yes", "yes", 1.0), (1, "201", "red", "RED", 1.0), (2, "202", "no", "perhaps", 0.0),
    ]  # fmt: skip
    assert all(row["resps"] == [row["filtered_resps"]] and row["input"] and len(row["doc_hash"]) == 64 for row in rows)

    assert main(["--rescore", *where]) == 0
    run = runs.load(tmp_path / "runs", "gqa")
    assert run is not None
    index = yaml.safe_load(yaml.safe_dump(card.model_index(run, None, rescoring.stored(tmp_path / "runs" / "gqa"))))
    name, (found,) = model_index_to_eval_results(index["model-index"])
    assert name == run.name and (found.dataset_type, found.dataset_split, found.metric_type) == ("lmms-lab/GQA", "testdev", "accuracy")
    assert found.metric_value == pytest.approx(2 / 3) and "version 1, profile ours, n=3 of 12578" in str(found.metric_name)
    latex = (write_report(choose(tmp_path / "runs"), tmp_path / "out") / "benchmarks.tex").read_text()
    assert latex.count(r" \\") == 3 and r"gqa (testdev\_balanced testdev)" in latex

    assert main(["--log-samples", "--run", "nobody", *where]) == 2 and "there is no such run" in capsys.readouterr().err
    assert main(["--log-samples", "--rescore", *where]) == 2
