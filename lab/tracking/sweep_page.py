"""What a tracker shows of a sweep as a whole: the report, and from it a note, a table, and each arm's name, colour and group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lab.config import differing, flat
from lab.report.compare import Group
from lab.report.document import Block, Bullets, Code, Lead, Paragraph, plain
from lab.report.findings import Findings, study
from lab.report.headline import best_group, headline
from lab.report.markdown import to_markdown
from lab.report.palette import ON_ANY_GROUND
from lab.report.select_runs import choose
from lab.report.tables import best, main_columns, shown_of, table_of
from lab.report.write import write_report
from lab.store.runs import Sweep
from lab.tracking.naming import replicate_group

NOTE_ROWS, NOTE_CLAIMS = 12, 6
"""Most arms and most comparisons in the note, of which MLflow keeps 8,000 characters."""


@dataclass(frozen=True)
class ArmOnPage:
    """label: as in the report. colour: of its figures; None for an arm without numbers. group: of its replicates, readable."""

    label: str
    colour: str | None
    group: str


@dataclass(frozen=True)
class SweepPage:
    """note: Markdown. table: columns and rows. config: YAML, what all arms share and in what they differ. folder: the report's files.

    arms, by identity, in the sweep's order. best: the identity of the arm that minival chooses, None without finished arms.
    """

    note: str
    table: dict[str, list[Any]]
    config: str
    folder: Path
    arms: dict[str, ArmOnPage]
    best: str | None


def sweep_page(runs_dir: Path, sweep: Sweep, out: Path) -> SweepPage:
    """Write the report of a sweep into a folder of `out`, without a gallery, and gather what a tracker shows beside it."""
    selection = choose(runs_dir, sweep.identity)
    findings = study(selection)
    folder = write_report(selection, out, findings=findings)
    places = {m.arm.run.identity: place for place, m in enumerate(findings.measured)}
    arms = {
        arm.run.identity: ArmOnPage(
            arm.label,
            ON_ANY_GROUND[places[arm.run.identity] % len(ON_ANY_GROUND)] if arm.run.identity in places else None,
            f"{arm.group_label} ({replicate_group(arm.run.config)})" if arm.run.config else arm.label,
        )
        for arm in selection.arms
    }
    ahead = best_group(findings) if findings.measured else None
    columns = main_columns(findings.kind)
    table = {
        "columns": [column.header for column in columns],
        "data": [[plain(column.cell(m)) for column in columns] for m in findings.measured],
    }
    chosen = ahead.members[0].arm.run.identity if ahead else None
    return SweepPage(note(findings, ahead), table, shared_config(findings), folder, arms, chosen)


def note(findings: Findings, ahead: Group | None) -> str:
    """The headline with its interval, the claims about it, a table, and how to get the whole report."""
    sweep, measured = findings.selection.sweep, findings.measured
    assert sweep is not None
    page: list[Block] = [Lead(headline(findings))]
    page += [Paragraph(("Question. ", sweep.question))] if sweep.question else []
    if measured:
        rows: Sequence[Any] = best(measured, NOTE_ROWS)
        page.append(table_of(main_columns(findings.kind), rows, shown_of(len(measured), NOTE_ROWS)))
    pairs = [pair for pair in findings.compared.pairs if ahead and ahead.label in (pair.first, pair.second)]
    page += [Bullets(tuple(pair.claim.sentence for pair in pairs[:NOTE_CLAIMS]))] if pairs else []
    page.append(Paragraph("report/report.html has it all; with pictures and answers it is made by"))
    page.append(Code(f"python -m lab.report --sweep {sweep.identity}"))
    return to_markdown(page, Path())


def shared_config(findings: Findings) -> str:
    """YAML of what all arms have in common, and of each arm what differs."""
    configs = {arm.label: flat(arm.run.config) for arm in findings.selection.arms if arm.run.config}
    apart = differing(list(configs.values()))
    shared = {key: value for values in list(configs.values())[:1] for key, value in values.items() if key not in apart}
    arms = {label: {key: values.get(key) for key in apart} for label, values in configs.items()}
    sweep = findings.selection.sweep
    return yaml.safe_dump({"command": sweep.command if sweep else None, "shared": shared, "arms": arms}, sort_keys=False)
