"""One name, one meaning: every number that a report shows of an arm is MLflow's of the same run, which has each name once a step."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import blank_figures
import pytest
from mlflow import MlflowClient
from test_winoground import drawn

from lab import sync
from lab.config import identity
from lab.report.formatting import count, decimal, percent, quantity, tokens
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.store import curve_files, runs
from lab.store.runs import Run
from lab.sweeping import arms
from lab.sweeping.sweep import run_sweep
from lab.tracking.mlflow_sync import MlflowSync

Metrics = dict[str, float]
FORMATS: dict[str, Callable[[float | None], str]] = {
    "percent": percent, "decimal": decimal, "count": count, "quantity": quantity,
    "giga": lambda value: quantity(None if value is None else value / 1e9),
    "temperature": lambda value: "–" if value is None else f"{value:.3g}",
    "gap": lambda value: "" if value is None else f", gap {value:.2g}",
}  # fmt: skip


def within(key: str) -> str:
    return f"<percent {key}> [<percent {key}_low>, <percent {key}_high>]"


def scaled(kind: str, key: str) -> str:
    return f"<{kind} dev/{key}> → <{kind} dev_scaled/{key}>"


RULES = {f"{name}, % [95 %]": within(f"winoground/dev/winoground/{name}") for name in ("text", "image", "group")}
RULES["examples"] = "<count winoground/dev/winoground/examples>"
STAGES = {"whole answer": "", "vision": "vision_", "prefill": "prefill_", "one more token": "decode_"}
CELLS: dict[str, str] = {
    "trainable parameters": "<count parameters/trainable>",
    "visual tokens per image": "TOKENS",
    "accuracy, % [95 %]": within("dev/accuracy"),
    "consistency, % (chance)": "<percent dev/consistency> (<percent dev/consistency_by_chance>)",
    "ECE, % [95 %]": within("dev/ece"),
    "NLL, nats": "<decimal dev/nll>",
    "Brier": "<decimal dev/brier>",
    "latency p50 / p95, ms": "<quantity latency/p50_ms> / <quantity latency/p95_ms>",
    "examples/s": "<quantity latency/examples_per_second>",
    "examples / clusters": "<count dev/num_examples> / <count dev/num_clusters>",
    "temperature": "<temperature dev_scaled/temperature>",
    "ECE before, %": "<percent dev/ece>",
    "ECE after, %": "<percent dev_scaled/ece>",
    "NLL before": "<decimal dev/nll>",
    "NLL after": "<decimal dev_scaled/nll>",
    "ECE, equal mass, %": "<percent dev/ece_equal_mass>",
    "ECE, debiased L2, %": "<percent dev/ece_debiased>",
    "captured mass, %": "<percent dev/captured_mass>",
    "examples with mass < 1/2, %": "<percent dev/captured_mass_below_half>",
    "ECE, %": scaled("percent", "ece"),
    "equal mass, %": scaled("percent", "ece_equal_mass"),
    "P(True), %": scaled("percent", "ece_p_true"),
    "debiased L2, %": scaled("percent", "ece_debiased"),
    "smooth ECE, %": scaled("percent", "smece"),
    "MCE, %": scaled("percent", "mce"),
    "= reliability": scaled("decimal", "brier_reliability"),
    "- resolution": scaled("decimal", "brier_resolution"),
    "+ uncertainty": "<decimal dev/brier_uncertainty>",
    "+ within bins": scaled("decimal", "brier_within_bin"),
    "AUROC of confidence": "<decimal dev/auroc_confidence>",
    "area under risk-coverage": "<decimal dev/aurc>",
    "grey images": within("dev_blank/accuracy"),
    "another set's images": within("dev_shuffled/accuracy"),
    "no images": within("dev_text_only/accuracy"),
    "optimizer steps": "<count train/steps>",
    "training, s": "<quantity train/seconds>",
    "training examples/s": "<quantity train/examples_per_second>",
    "peak memory, MiB": "<count memory/peak_mb>",
    "first metric after, s": "<quantity time/first_metric_s>",
    "tokens of a prompt": "<quantity latency/tokens>",
    "peak memory of answering, MiB": "<count latency/peak_mb>",
    "examples together": "<count latency/batch_size>",
    "training examples, seed": "<count train/examples_seen>, seed 0",
    "forward GFLOP per example": "<giga flops/forward_per_example>",
}
"""What a cell of an arm holds, by the head of its column: `<format key>` stands for MLflow's metric of that arm."""
SCALED_TABLE = {"NLL, nats": scaled("decimal", "nll"), "Brier": scaled("decimal", "brier")}
"""The same of columns that show before and after in the table of all measures of calibration."""
SWAPS = {"no side named": "neutral", "sides named and swapped in the text": "renamed", "sides named, text kept": "contradicted"}
NOT_OF_A_RUN = {
    "first": "a comparison of two arms: difference, p, Holm over all pairs, smallest detectable",
    "experiment": "mean and spread over the seeds of several runs",
    "run": "provenance: dates and commands",
    "data": "what else moved: an arm against its base on other data, with p and verdict",
}
"""Tables whose rows are no arms, by their first column, and what they hold."""
NO_NUMBER = {"run": "the identity", "samples (first digits of their hash)": "a hash"}


def cells(markdown: str) -> list[tuple[str, str, str, bool, str]]:
    """(label of the arm, head of the column, cell, whether the table shows before and after, other data) of all tables with arms as rows."""
    found, head, other = [], None, ""
    for line in markdown.splitlines():
        if line.startswith("## "):
            other = line.partition("Also asked: ")[2]
        if not line.startswith("|"):
            head = None
            continue
        row = [re.sub(r"\\(?=[<>|_*\[\]])", "", cell).strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if head is None:
            head = [column.replace("&#45;", "-").replace("&#61;", "=").replace("&#43;", "+") for column in row]
            assert head[0] == "arm" or head[0] in NOT_OF_A_RUN, head
        elif head[0] == "arm" and not row[0].startswith((":--", "---", "always", "chance")):
            label = row[0].split("`")[1]
            found += [(label, column, cell, "MCE, %" in head, other) for column, cell in zip(head[1:], row[1:], strict=True)]
    return found


def template(column: str, before_and_after: bool) -> str:
    """What a cell must hold."""
    if before_and_after and column in SCALED_TABLE:
        return SCALED_TABLE[column]
    if column in CELLS | RULES:
        return (CELLS | RULES)[column]
    timed = re.fullmatch(rf"({'|'.join(STAGES)})(, merged)?, ms", column)
    if timed:
        return f"LATENCY {'merged_' if timed[2] else ''}BATCH{STAGES[timed[1]]}"
    sized = re.fullmatch(r"(.*) \(n = ([\d,]+)\)(, % \[95 %\])?", column)
    if sized and sized[1] in SWAPS:
        key = f"swap/{SWAPS[sized[1]]}"
        return within(f"{key}_agreement")
    if sized:
        return f"<percent dev_subset/{sized[1]}/accuracy>"
    return f"GATE {column}"


def wanted(text: str, batch: str, metrics: Metrics) -> str:
    """The cell as MLflow's metrics make it."""
    if text == "TOKENS":
        return tokens((metrics["visual_tokens/mean"], int(metrics["visual_tokens/min"]), int(metrics["visual_tokens/max"])))
    if text.startswith("GATE "):
        name = f"verify/{text[5:].replace(' ', '_')}"
        assert f"{name}/flips" in metrics or f"{name}/max_gap" in metrics, f"no column {text[5:]!r} is known: add it to CELLS"
        flips = f", {metrics[f'{name}/flips']:.0f} of {metrics[f'{name}/num_examples']:.0f} flip" if f"{name}/flips" in metrics else ""
        return f"pass{FORMATS['gap'](metrics.get(f'{name}/max_gap'))}{flips}"
    if text.startswith("LATENCY "):
        key = text[8:].replace("BATCH", batch)
        text = f"<quantity latency/{key}p50_ms> / <quantity latency/{key}p95_ms>"
    made = re.sub(r"<(\w+) ([^>]+)>", lambda m: FORMATS[m[1]](metrics.get(m[2])), text)
    made = made.replace(" [–, –]", " [no interval]").removesuffix(" → –")
    return "–" if not re.search(r"\d", made.replace("seed 0", "")) else made


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, composer, tiny_folder: Path, migrated: Path) -> tuple[Path, str]:
    """A sweep of a baseline and two ranks that was asked everything there is to ask: its runs and its store."""
    folder = tmp_path_factory.mktemp("finished")
    uri = f"sqlite:///{folder}/mlflow.db"
    (folder / "mlflow.db").write_bytes(migrated.read_bytes())
    given = (
        f"model.path={tiny_folder}", "data.num_train=32", "data.num_minival=8", "data.num_dev=32", "trainer.batch_size=4",
        "evaluation.latency_examples=3", "evaluation.latency_warmup=1", "evaluation.batch_size=8", "sweep.self_check=false",
        "evaluation.controls=[blank,shuffled,text_only]", "evaluation.swap=true", f"tracking.runs_dir={folder}/runs",
        f"tracking.cache_dir={folder}/cache", f"tracking.uri={uri}", f"evaluation.also=['winoground root={drawn(folder / 'w')} num_dev=5']",
    )  # fmt: skip
    options = [("lora.r=2", "trainer.max_steps=4"), ("lora.r=4", "trainer.max_steps=4"), ("lora=none", "trainer.max_steps=0")]
    asked = [arms.Arm(composer(*given, *option), option) for option in options]
    origin = arms.SweepSource("test", "python -m lab.train ... -m", "train", None, time.time())
    with pytest.MonkeyPatch.context() as patch:
        blank_figures.use(patch)
        assert run_sweep(asked, origin, max_arms=2) == 0
    return folder / "runs", uri


def tracked(uri: str) -> tuple[MlflowClient, dict[str, str]]:
    """A client, and the id of every run in the store by its identity."""
    client = MlflowClient(tracking_uri=uri)
    found = client.search_runs([client.get_experiment_by_name("lab").experiment_id])
    return client, {run.data.tags.get("lab.identity", "parent"): run.info.run_id for run in found}


@pytest.mark.usefixtures("blank_figures")
def test_every_number_of_an_arm_in_the_report_is_mlflows(finished: tuple[Path, str], tmp_path: Path) -> None:
    runs_dir, uri = finished
    client, ids = tracked(uri)
    selection = choose(runs_dir)
    metrics = {arm.label: client.get_run(ids[arm.run.identity]).data.metrics for arm in selection.arms}
    page = (write_report(selection, tmp_path) / "report.md").read_text()
    different, compared, batch, seen = [], 0, "", set()
    for label, column, cell, before_and_after, other in cells(page):
        if column in NO_NUMBER:
            continue
        batch = "batch_" if column == "examples together" else "" if column in ("tokens of a prompt", "samples (first digits") else batch
        text = template(column, before_and_after)
        if other:
            text, seen = re.sub(r"(?<=[ <])dev/", f"{other}/dev/", text), seen | {other}
        made = wanted(text, batch, metrics[label])
        if cell.endswith(" (at its limit)"):
            made += " (at its limit)" if metrics[label]["dev_scaled/temperature_at_limit"] else ""
        untrained = "train/steps" not in metrics[label]  # the ledger of what arms have in common leaves a baseline out
        if cell == "not applicable" or (cell == "–" and untrained):
            continue
        compared += len(re.findall(r"\d+", cell))
        if cell != made:
            different.append(f"{label} | {column}: report {cell}, MLflow {made}")
    assert not different, "\n".join(different)
    assert compared > 200 and seen == {"winoground"}


def test_no_name_is_there_twice_for_a_step(finished: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    """Not of arms, whose latency is measured once at their end and once in turn, nor of the parent, nor after a sync."""
    runs_dir, uri = finished
    client, ids = tracked(uri)

    def points() -> dict[str, Counter[tuple[str, int]]]:
        with contextlib.closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as store:  # MLflow's client is asked a name at a time
            rows = store.execute("select run_uuid, key, step from metrics").fetchall()
        return {name: Counter((key, step) for run, key, step in rows if run == run_id) for name, run_id in ids.items()}

    before = points()
    assert len(before) == 4 and not before.pop("parent")
    assert {name: times for name, found in before.items() if (times := [one for one, n in found.items() if n > 1])} == {}
    for name in before:
        note = runs.folder(runs_dir, name) / "delivered.json"
        note.unlink()
        run = runs.load(runs_dir, name)
        assert {key for key in run.metrics} <= client.get_run(ids[name]).data.metrics.keys()
    assert sync.sync(str(runs_dir), uri, None) == 0 and sync.sync(str(runs_dir), uri, None) == 0
    assert {name: found for name, found in points().items() if name != "parent"} == before
    assert capsys.readouterr().out.count("3 of 3 runs are up to date") == 2


def test_a_run_that_failed_and_goes_on_sends_its_summary_once(with_tracker) -> None:
    """What a failed attempt had measured may be other than what the next one measures, as seconds are."""
    x = with_tracker()
    runs_dir, courier = Path(x.tracking.runs_dir), MlflowSync(x.tracking)
    run = Run(identity(x), "name", {"tracking": {}}, "command", status=runs.FAILED, started=runs.now())
    run.metrics = {"train/seconds": 1.0, "latency/p50_ms": 30.0, "train/steps": 4.0}
    runs.save(runs_dir, run)
    for step in (0, 3):
        curve_files.append(runs.folder(runs_dir, run.identity), {"step": step, "seconds": 0.1, "train/loss": 1.0})
    assert courier.deliver(run.identity)
    again = dataclasses.replace(run, status=runs.FINISHED, ended=runs.now(), metrics={**run.metrics, "train/seconds": 2.0})
    runs.save(runs_dir, again)
    assert courier.deliver(run.identity)
    client, ids = tracked(x.tracking.uri)
    history = {key: [p.value for p in client.get_metric_history(ids[run.identity], key)] for key in (*run.metrics, "train/loss")}
    assert history == {"train/seconds": [2.0], "latency/p50_ms": [30.0], "train/steps": [4.0], "train/loss": [1.0, 1.0]}
