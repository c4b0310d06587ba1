"""Standard rows beside the headline: does the model look at the images, and is it the model it is said to be?"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from lab.answers import predictions
from lab.errors import LabError
from lab.report.document import Block, Heading, Paragraph
from lab.report.findings import Findings
from lab.report.formatting import NONE, capital, number_within, percent_within
from lab.report.kinds import page_of
from lab.report.measure import Measured
from lab.report.tables import Column, best, label_of, shown_of, table_of
from lab.statistics.intervals import Interval, interval
from lab.statistics.metrics import columns
from lab.store.runs import folder, own_predictions

log = logging.getLogger(__name__)

Made = TypeVar("Made")
CONTROLS = {"dev_blank": "grey images", "dev_shuffled": "another set's images", "dev_text_only": "no images"}
INDEX = ("sample_id", "image_set", "question_group")


def path_of(m: Measured, runs_dir: Path, name: str) -> Path:
    """A predictions file of an arm."""
    return own_predictions(m.arm.run, folder(runs_dir, m.arm.run.identity), name)


def written(interval: Interval | None) -> str:
    """`71.2 [69.9, 72.4]`, or a dash."""
    return NONE if interval is None else percent_within(interval.estimate, interval)


def or_dash(path: Path, read: Callable[[], Made]) -> Made | None:
    """What a file beside the run's own answers holds, or None; a line says why one that is there cannot be read."""
    try:
        return read() if path.exists() else None
    except LabError as error:
        log.warning("%s The report shows a dash instead.", error)
        return None


def controls_blocks(findings: Findings) -> list[Block]:
    """The headline with the images taken away; nothing if no arm was asked so."""
    measured, runs_dir = findings.measured, findings.selection.runs_dir
    shown = [m for m in best(measured) if any(path_of(m, runs_dir, name).exists() for name in CONTROLS)]
    if not shown:
        return []

    def cell(name: str) -> Callable[[Measured], str]:
        def of(m: Measured) -> str:
            path = path_of(m, runs_dir, name)
            control = or_dash(path, lambda: interval(predictions.read(path, (*INDEX, *columns()))))
            return NONE if control is None else number_within(m.kind.main, control.estimate, control)

        return of

    headline = findings.kind.main
    table = [
        Column("arm", label_of, False),
        Column(f"{headline.title} [95 %]", lambda m: number_within(headline, m.headline, m.intervals.get(headline.name))),
        *(Column(header, cell(name)) for name, header in CONTROLS.items()),
    ]
    guessed = page_of(findings.kind.name).guessed
    said = f"{capital(headline.header)} on dev with the images taken away. What stays above {guessed} was not seen but guessed."
    return [Heading(2, "Is the model looking?"), Paragraph(said), table_of(table, shown, shown_of(len(measured)))]


def gate_blocks(measured: Sequence[Measured]) -> list[Block]:
    """The equivalence gate's verdict of each arm; nothing if it was switched off everywhere."""
    shown = [m for m in best(measured) if m.arm.run.facts.get("verify")]
    if not shown:
        return []
    checks = {m.arm.run.identity: {check["name"]: check for check in m.arm.run.facts["verify"]} for m in shown}
    names = dict.fromkeys(name for by_name in checks.values() for name in by_name)
    table = [Column("arm", label_of, False)]
    table += [Column(name, lambda m, name=name: verdict(checks[m.arm.run.identity].get(name)), False) for name in names]
    said = (
        "The trained model in memory against five other ways to compute it, on a few dev examples: largest logit gap, flipped answers."
    )
    return [Heading(2, "Equivalence gate"), Paragraph(said), table_of(table, shown, shown_of(len(measured)))]


def verdict(check: dict | None) -> str:
    """`pass, 2.4e-06, 0 of 8 flip`."""
    if check is None:
        return NONE
    if check["passed"] is None:
        return "not applicable"
    gap = "" if check["max_gap"] is None else f", gap {check['max_gap']:.2g}"
    flips = "" if check["flips"] is None else f", {check['flips']} of {check['num_examples']} flip"
    return ("pass" if check["passed"] else "FAIL") + gap + flips
