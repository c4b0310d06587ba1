"""Scores by a benchmark's own rule: of arms that were asked it, in their run or by `lab.evaluate` (`data.rule`), and of marked replies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lab.answers import predictions
from lab.report import rescoring
from lab.report.checks import fact
from lab.report.diagnostics import or_dash, path_of, written
from lab.report.document import Block, Heading, Mono, Paragraph, Table, Text
from lab.report.findings import Findings
from lab.report.formatting import NONE, count, percent
from lab.report.measure import Measured
from lab.report.select_runs import Row
from lab.report.tables import best, shown_of
from lab.statistics.rules import RULES, Rule, rule_of
from lab.store import results


def benchmark_blocks(findings: Findings) -> list[Block]:
    """A table for each rule that some answers were scored by, and one of marked replies."""
    return [block for name, rule in RULES.items() for block in rule_blocks(findings, name, rule)] + marked_blocks(findings)


def marked_blocks(findings: Findings) -> list[Block]:
    """What the replies of every arm to benchmarks come to, and which version of which rule says so; nothing if none were marked."""
    if not (marked := marked_of(findings)):
        return []
    remarks = tuple(dict.fromkeys(f"{found['data']}: {remark}" for _, found in marked for remark in found.get("remarks", ())))
    says = Paragraph(f"{rescoring.SAYS} {' '.join(f'{remark}.' for remark in remarks)}".strip())
    return [Heading(2, "Benchmarks"), says, marked_table(findings)]


def marked_of(findings: Findings) -> list[tuple[Row, dict[str, Any]]]:
    """Arms with the results of their marked replies, those too that answer in another form than the page is about."""
    arms = [m.arm for m in best(findings.measured)] + [other.arm for other in findings.unmeasured if other.arm.finished]
    return [(arm, found) for arm in arms for found in rescoring.stored(arm.folder).values()]


def marked_table(findings: Findings) -> Table:
    """One row an arm and set; what a judge says stands at the end, where one was asked."""
    marked = marked_of(findings)
    judged = any("judge" in found for _, found in marked)
    rows = tuple((Mono(arm.label), *rescoring.cells(found), *(rescoring.judged(found) if judged else ())) for arm, found in marked)
    columns = ("arm", *rescoring.COLUMNS, *(rescoring.JUDGED if judged else ()))
    return Table(columns, rows, frozenset(range(2, 6)), caption=shown_of(len(findings.measured)))


def rule_blocks(findings: Findings, name: str, rule: Rule) -> list[Block]:
    """The scores of every arm, and chance; nothing if no arm has any."""
    measured, rows = findings.measured, []
    for m in best(measured):
        for path, scored_by, broken in scored_files(m, findings.selection.runs_dir):
            scores = or_dash(path, lambda path=path: rule.intervals(predictions.read(path))) if scored_by == name else None
            if scores is not None:
                evaluation = "" if path.parent.name == "predictions" else f" evaluation {path.stem}"
                arm: Text = (Mono(m.arm.label), evaluation, " (contract broken)" if broken else "")
                rows.append((arm, count([*scores.values()][-1].num_clusters), *map(written, scores.values())))
    if not rows:
        return []
    rows.append(("chance", NONE, *(percent(share) for share in rule.CHANCE.values())))
    columns = ("arm", "examples", *(f"{score}, % [95 %]" for score in rule.CHANCE))
    table = Table(columns, tuple(rows), frozenset(range(1, len(columns))), caption=shown_of(len(measured)))
    return [Heading(2, rule.TITLE), Paragraph(rule.SAYS), table]


def scored_files(m: Measured, runs_dir: Path) -> list[tuple[Path, str | None, bool]]:
    """Predictions of an arm, by which rule they are scored, and whether they broke its contract."""
    files = [(path_of(m, runs_dir, "dev"), rule_of(m.arm.run.config.get("data", {})), False)]
    for name, path in m.arm.others.items():
        files.append((path, rule_of({"name": name, "rule": fact(m.arm, "also", name, "rule")}), False))
    for path in sorted((m.arm.folder / "evaluations").glob("*.json")):
        facts = results.read(path)
        if facts and not results.marked(facts):
            files.append((path.with_suffix(".parquet"), rule_of(facts["data"]), facts["contract_broken"]))
    return files
