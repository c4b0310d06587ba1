"""The end of a sweep in the terminal: one line an arm, at most 100 columns, and the command that writes the comparison."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from pathlib import Path

from lab.report.formatting import count, number, number_within, quantity, shorten, unseen
from lab.report.measure import Measured, Result, measure_all
from lab.report.select_runs import Selection, choose, select
from lab.report.speed import answer_ms
from lab.report.tables import state_of
from lab.statistics.metrics import KINDS, Kind
from lab.store.runs import Run, Sweep

COLUMNS = 100


def summary(runs_dir: Path, sweep: Sweep | str) -> str:
    """The arms of a sweep (a record, an id, or `latest`) as a plain table with the 95 % interval of the headline."""
    selection = choose(runs_dir, sweep if isinstance(sweep, str) else sweep.identity)
    command = f"python -m lab.report --sweep {selection.name}"
    return written(selection, command)


def summary_of_run(runs_dir: Path, run: Run) -> str:
    """The same of one run."""
    selection = select(run.identity, run.name, runs_dir, [run], None)
    return written(selection, f"python -m lab.report --run {run.identity}")


def written(selection: Selection, command: str) -> str:
    """The table, the errors of arms without numbers, and the command."""
    results = measure_all(selection.arms, workers=1)
    kind = next((r.kind for r in results if isinstance(r, Measured)), next(iter(KINDS.values())))
    titles = [f"dev {kind.main.title}", *(kind.metrics[name].title for name in others(kind))]
    lines = table([("arm", "status", "trainable", *titles, "p50, ms", "examples/s"), *(cells(result, kind) for result in results)])
    if selection.usual:
        lines += textwrap.wrap(f"(unless an arm's name says otherwise: {selection.usual})", COLUMNS)
    counted = [(r.arm.label, r.intervals[r.kind.headline]) for r in results if isinstance(r, Measured) and r.intervals]
    lines += [line for one in counted if (said := unseen(*one)) for line in textwrap.wrap(said, COLUMNS)]
    errors = [result for result in results if not isinstance(result, Measured)]
    if errors:
        lines.append("")
        lines += [f"{shorten(f'{state_of(e)} {e.arm.label}: {e.reason}', COLUMNS)}" for e in errors]
    where = "" if str(selection.runs_dir) == "runs" else f" --runs-dir {shlex.quote(str(selection.runs_dir))}"
    return "\n".join([*lines, "", "compare:  " + command + where])


def others(kind: Kind) -> list[str]:
    """Metrics with a column beside the headline."""
    return [name for name in kind.with_interval if name != kind.headline]


def cells(result: Result, kind: Kind) -> tuple[str, ...]:
    """One row."""
    recorded = result.arm.run.metrics.get
    label = result.arm.label + (" (zero-shot)" if result.arm.zero_shot else "")
    if not isinstance(result, Measured):
        return (label, state_of(result), count(recorded("parameters/trainable")), *["–"] * (3 + len(others(kind))))
    return (
        label,
        result.arm.run.status,
        count(recorded("parameters/trainable")),
        number_within(kind.main, result.headline, result.intervals.get(kind.headline)),
        *(number(kind.metrics[name], result.metrics.get(name)) for name in others(kind)),
        quantity(answer_ms(result.arm.run.metrics)),
        quantity(recorded("latency/examples_per_second")),
    )


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns two spaces apart, the first one flush left and wrapped so that no line is wider than `COLUMNS`."""
    widths = [max(len(row[i]) for row in rows) for i in range(1, len(rows[0]))]
    first = min(max(len(row[0]) for row in rows), max(12, COLUMNS - sum(widths) - 2 * len(widths)))
    lines = []
    for place, row in enumerate(rows):
        head, *rest = textwrap.wrap(row[0], first, break_long_words=True) or [""]
        numbers = [row[1].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[2:], widths[1:], strict=True))]
        lines.append("  ".join([head.ljust(first), *numbers]).rstrip())
        lines += [f"  {more}" if len(more) + 2 <= first else more for more in rest]
        if place == 0:
            lines.append("-" * (first + sum(widths) + 2 * len(widths)))
    return lines

