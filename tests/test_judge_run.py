"""A run's replies to benchmarks judged: after its exact numbers, which need no judge; by the command that asked, without asking a model again."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import benchmark_twins as twins
import llm_server
import pytest

from lab import evaluate
from lab.host.progress import silent
from lab.host.stopping import Stopped
from lab.llm import asking
from lab.report import rescoring
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.run import judging
from lab.store import runs

pytestmark = pytest.mark.usefixtures("nominal_costs", "blank_figures")

QUICK = (
    "evaluation.verify=false", "evaluation.latency_examples=0", "tracking.enabled=false", "evaluation.max_new_tokens=3", "evaluation.max_samples=4",
    "evaluation.splits=[dev]", "evaluation.judge.workers=1",
)  # fmt: skip


def result(folder: Path, name: str) -> dict[str, Any]:
    return json.loads((folder / "evaluations" / f"{name}.json").read_text())


def test_a_run_has_its_replies_judged_and_no_model_answers_twice(tiny_folder, tmp_path: Path, monkeypatch, capsys) -> None:
    """A judge that is away, one without money, one that is there, another one, none; then `--rescore` and the report."""
    monkeypatch.setattr(asking.Waits, "drawn", asking.tenacity.wait_random(0, 0.05))
    monkeypatch.setattr(asking.Waits, "apart", asking.tenacity.wait_random(0, 0.02))
    for name in ("chartqa", "ai2d"):
        twins.seeded(tmp_path, name, 8)
    runs_dir = tmp_path / "runs"
    model = ["model=tiny", f"model.path={tiny_folder}", f"tracking.cache_dir={tmp_path / 'cache'}"]
    also = [f"evaluation.also_root={tmp_path}", *QUICK, "--runs-dir", str(runs_dir)]

    def command(address: str, name: str, *words: str) -> int:
        return evaluate.main([*words, *also, f"evaluation.judge.base_url={address}", f"evaluation.judge.model={name}"])

    assert command("http://127.0.0.1:9/v1", "m", *model, "evaluation.also=[ai2d,chartqa]") == 2
    said = capsys.readouterr()
    assert "Is the server running?" in said.err and "chartqa (test): n=4" in said.out
    (folder,) = [path.parent for path in runs_dir.glob("*/run.json")]
    first = runs.load(runs_dir, folder.name)
    assert first is not None and first.status == runs.FINISHED and "chartqa/relaxed_accuracy" in first.metrics
    assert "judge" not in str(first.metrics) and result(folder, "ai2d")["judge"]["n"] == 0

    monkeypatch.setattr("lab.run.arm.load_shared", lambda *_: pytest.fail("a model is loaded"))
    again = [folder.name, "evaluation.also=[chartqa]"]
    with llm_server.running(tmp_path, {"402": 1.0}) as (address, log):
        assert command(address, "m", *again) == 3 and len(llm_server.read(log)) == 1
    assert "quota is used up" in result(folder, "ai2d")["judge"]["stopped"] and "judge_" not in str(runs.load(runs_dir, folder.name).metrics)
    log.unlink()
    with llm_server.running(tmp_path) as (address, log):
        assert command(address, "m", *again) == 0
        paid = len(llm_server.read(log))
        assert command(address, "m", *again) == 0 and len(llm_server.read(log)) == paid > 0
        judge = result(folder, "chartqa")["judge"]
        assert (judge["model"], judge["n"], judge["waiting"]) == ("m", 4, 0) and {"mean", "agreement"} <= judge.keys()
    log.unlink()
    with llm_server.running(tmp_path, delay=1.1) as (address, log):
        named = [f"evaluation.also_root={tmp_path}", f"evaluation.judge.base_url={address}", "evaluation.judge.model=other", *QUICK, again[1]]
        x = evaluate.asked_more(first, named, runs_dir)
        with pytest.raises(Stopped, match="stopped by trainer.max_time"):
            judging.judge(replace(x, trainer=replace(x.trainer, max_time="00:00:02")), silent, time.time())
        assert 0 < len(llm_server.read(log)) < paid
        assert command(address, "other", *again) == 0 and len(llm_server.read(log)) == paid
    assert "judge other" in capsys.readouterr().out and (folder / "evaluations" / "chartqa.marks.csv").exists()
    after = runs.load(runs_dir, folder.name)
    assert after is not None and after.metrics["chartqa/judge_n"] == 4 and after.metrics["chartqa/judge_mean"] == judge["mean"]
    assert after.metrics["chartqa/judge_agreement"] == judge["agreement"]
    assert all(after.metrics[key] == first.metrics[key] for key in ("chartqa/relaxed_accuracy", "ai2d/accuracy", "ai2d/n", "chartqa/rule_version"))

    kept = {path: path.read_bytes() for path in (folder / "evaluations").iterdir()}
    assert rescoring.rescore(runs_dir, [], None, tmp_path / "out")[1] == 2 and {path: path.read_bytes() for path in kept} == kept
    page = (write_report(choose(runs_dir, None, [folder.name]), tmp_path / "report") / "report.md").read_text()
    assert rescoring.JUDGED[0] in page and f"other, 4, {100 * judge['agreement']:.1f}" in page
    assert evaluate.main([folder.name, "evaluation.also=[chartqa]", *also]) == 0 and result(folder, "chartqa")["judge"]["model"] == "other"


def test_what_has_nothing_to_judge_is_refused_before_anything_loads(tiny_folder, tmp_path: Path, capsys) -> None:
    judge = ["evaluation.judge.base_url=http://h/v1", "evaluation.judge.model=m", "--runs-dir", str(tmp_path)]
    words = ["model=tiny", f"model.path={tiny_folder}", "evaluation.also=['winoground root=/w']", *judge]
    assert evaluate.main(words) == 2 and "it marks replies to benchmarks, and neither" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
