"""Published figures beside ours, each with its source, and never mixed with ours.

Arms of a sweep stand beside the study that it repeats, where `sweeps/<name>.published.csv` has figures; checkpoints that are asked as they are,
beside what their authors say of them (`conf/model/published.csv`).
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence

from lab.paths import shipped
from lab.report.document import Block, Heading, Paragraph, Table
from lab.report.findings import Findings
from lab.report.formatting import NONE, number
from lab.report.measure import Measured, Result
from lab.statistics.metrics import KINDS, Metric


def rows_of(sweep: str) -> list[dict[str, str]]:
    """What was published for a sweep of this name; empty for a sweep that repeats nothing.

    Columns: published as; model and trained (yes or no), which find the arm; checkpoint; one for each metric, by its name; remark.
    """
    folder = shipped("sweeps")
    path = folder / f"{sweep}.published.csv"
    if path not in folder.glob("*.published.csv"):  # a name may be longer than a file's
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def published_blocks(findings: Findings, ours: Mapping[str, Mapping[str, float]]) -> list[Block]:
    """A row for each published one: both numbers, or plainly why there is none of ours. ours: metrics by run."""
    sweep = findings.selection.sweep
    rows = rows_of(sweep.name) if sweep else []
    if not rows:
        return []
    metrics = [metric for metric in KINDS["text"].metrics.values() if metric.name in rows[0]]
    cells, runs = [], []
    for row in rows:
        arm, reason = counterpart(row, findings.results)
        values = {} if arm is None else ours.get(arm.arm.run.identity, {})
        cells.append((row["published as"], *(both(metric, values.get(metric.name), row[metric.name]) for metric in metrics), reason, row["remark"]))
        runs.append(() if arm is None else (arm.arm.run.identity,))
    headers = ("published as", *(f"{metric.title}, ours / published" for metric in metrics), "ours", "of the published")
    said = (
        "Ours and the published were asked different questions, curated anew from the same kind of catalogue, so that a difference has no test. "
        "The published have no intervals, and name neither model of BERTScore, BARTScore nor cosine."
    )
    table = Table(headers, tuple(cells), frozenset(range(1, len(metrics) + 1)), runs=tuple(runs))
    return [Heading(2, "Ours and the published"), Paragraph(said), table]


def counterpart(row: Mapping[str, str], results: Sequence[Result]) -> tuple[Measured | None, str]:
    """The arm that repeats a published one, and what is to be said of it; or why there is none."""
    why = "no arm of this sweep repeats it"
    for result in results:
        model = result.arm.run.config.get("model", {})
        if model.get("name") != row["model"] or result.arm.zero_shot != (row["trained"] == "no"):
            continue
        if model.get("path") == row["checkpoint"] and isinstance(result, Measured):
            return result, result.arm.label
        drawn = "a small checkpoint of its family with random weights" if result.arm.run.facts.get("random_weights") else str(model.get("path"))
        why = f"not run here: the arm of this sweep has {drawn}, not {row['checkpoint']}"
        why = why if isinstance(result, Measured) else f"not run here: {result.reason}"
    return None, why


def both(metric: Metric, ours: float | None, published: str) -> str:
    """`74.2 / 76.2`."""
    return f"{number(metric, ours)} / {number(metric, float(published)) if published else NONE}"


def checkpoint_blocks(findings: Findings) -> list[Block]:
    """Of arms whose untrained checkpoint has published figures on their data: ours, and each published one with its split and source."""
    with (shipped("conf") / "model" / "published.csv").open(encoding="utf-8", newline="") as file:
        published = list(csv.DictReader(file))
    cells, runs = [], []
    for result in findings.measured:
        config = result.arm.run.config
        data = config.get("data", {})
        asked = (data.get("name"), config.get("model", {}).get("path")) if result.arm.zero_shot else None
        split = data.get("split") or "dev"
        for row in published:
            if asked != (row["data"], row["checkpoint"]):
                continue
            ours = f"{100 * result.metrics[result.kind.headline]:.2f} ({split})"
            cells.append((row["checkpoint"], ours, f"{100 * float(row['accuracy']):.2f} ({row['split']})", row["source"], row["remark"]))
            runs.append((result.arm.run.identity,))
    if not cells:
        return []
    said = "Accuracy in %, with the split. The published have no intervals and were asked by other code, so that a difference has no test."
    table = Table(("checkpoint", "ours", "published", "source", "of the published"), tuple(cells), frozenset(), runs=tuple(runs))
    return [Heading(2, "Ours and the published"), Paragraph(said), table]
