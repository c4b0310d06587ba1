"""True/False answers on a page: always the commoner label, reliability, temperature scaling, swapped images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.errors import LabError
from lab.evaluation import swap
from lab.report.checks import named
from lab.report.confidence_figures import Confidence
from lab.report.diagnostics import INDEX, or_dash, path_of, written
from lab.report.document import Block, Heading, Paragraph, Table
from lab.report.findings import Findings
from lab.report.formatting import NONE, arms, count, number
from lab.report.kinds import KindPage
from lab.report.measure import Measured
from lab.report.tables import Column, best, best_table, label_of, name_of, shown_of, subsets_table
from lab.statistics import calibration, functional
from lab.statistics.metrics import KINDS

METRICS = KINDS["choice"].metrics
COLUMNS = tuple(dict.fromkeys(column for metric in METRICS.values() for column in metric.needs if column not in INDEX))
FORMULAS = (
    "ece", "ece_equal_mass", "ece_p_true", "ece_debiased", "smece", "mce", "nll", "brier", "brier_reliability", "brier_resolution",
    "brier_uncertainty", "brier_within_bin", "auroc_confidence", "aurc",
)  # fmt: skip
"""Columns of the table of all measures of calibration."""
UNSCALED = ("brier_uncertainty", "auroc_confidence", "aurc")
"""Those that no temperature can change."""
SWAPS = {
    "neutral": "no side named",
    "renamed": "sides named and swapped in the text",
    "contradicted": "sides named, text kept",
}


@dataclass(frozen=True, eq=False)
class Details:
    """confidence: of the top label. temperature: fitted on minival; None, and `unscaled` the reason, without one.

    after: ECE and NLL of dev at that temperature.
    """

    confidence: Confidence
    temperature: calibration.Temperature | None
    after: dict[str, float]
    unscaled: str | None


def details(dev: PredictionTable, minival: PredictionTable | None, reason: str | None) -> Details:
    """Reliability of an arm, and what a temperature fitted on minival does to it."""
    confidence = Confidence.of(dev)
    if minival is None:
        return Details(confidence, None, {}, reason)
    try:
        temperature = calibration.fit(minival, "minival")
        scaled = calibration.apply(temperature, dev)
    except LabError as error:
        return Details(confidence, None, {}, str(error))
    temperature = replace(temperature, sample_ids=frozenset())  # thousands of ids an arm, just checked against those of dev
    return Details(confidence, temperature, {name: METRICS[name].of(scaled) for name in ("ece", "nll")}, None)


def baseline(table: PredictionTable) -> tuple[str, dict[str, float]]:
    """Always the commonest option that is right; of two equally common the first."""
    commonest = int(np.bincount(table.right).argmax())
    right = table.right == commonest
    consistency = functional.consistency(right, table.question_group)
    return f"always {max(table.options, key=len)[commonest]}", {"accuracy": float(right.mean()), "consistency": consistency}


def in_words(table: PredictionTable) -> list[tuple[str, str]]:
    """The right option, and the answered one with its probability."""
    rows = zip(table.options, table.right.tolist(), table.answered.tolist(), table.confidence.tolist(), strict=True)
    return [(options[right], f"{said} ({100 * confidence:.0f} %)") for options, right, said, confidence in rows]


def little_mass(measured: Sequence[Measured]) -> list[str]:
    """Answers that hold little of the model's probability."""
    poor = [m for m in measured if m.metrics["captured_mass_below_half"] > 0.05]
    if not poor:
        return []
    worst = max(m.metrics["captured_mass_below_half"] for m in poor)
    return [
        f"The two answers hold less than half of the model's probability in more than 5 % of the examples of {named(poor)} "
        f"(up to {100 * worst:.0f} %): their P(True) is renormalised over little, and ECE and NLL of them mean little."
    ]


def temperature(m: Measured) -> str:
    fitted = m.details.temperature
    return NONE if fitted is None else f"{fitted.value:.3g}{' (at its limit)' if fitted.at_limit else ''}"


def plain(name: str, header: str) -> Column:
    return Column(header, lambda m: number(METRICS[name], m.metrics[name]))


def after(name: str, header: str) -> Column:
    return Column(header, lambda m: number(METRICS[name], m.details.after.get(name)))


SCALING = (
    Column("arm", name_of, False),
    Column("temperature", temperature),
    plain("ece", "ECE before, %"),
    after("ece", "ECE after, %"),
    plain("nll", "NLL before"),
    after("nll", "NLL after"),
    *(plain(name, f"ECE, {METRICS[name].title}") for name in ("ece_equal_mass", "ece_debiased")),
    *(plain(name, METRICS[name].title) for name in ("captured_mass", "captured_mass_below_half")),
)


def calibration_blocks(findings: Findings, figure: Callable[[str], list[Block]]) -> list[Block]:
    """Calibration before and after temperature scaling."""
    measured = findings.measured
    page: list[Block] = [Heading(2, "Calibration")]
    fitted = sorted({m.details.temperature.num_examples for m in measured if m.details.temperature})
    if fitted:
        sizes = " or ".join(f"{size:,}" for size in fitted)
        page.append(Paragraph(f"Temperatures are fitted on the {sizes} minival examples and applied to dev."))
    reasons = Counter(m.details.unscaled for m in measured if m.details.unscaled)
    page += [Paragraph(f"No temperature for {arms(times)}: {reason}") for reason, times in reasons.items()]
    page.append(best_table(SCALING, measured))
    said = "Before → after scaling, where a temperature can change the number. Parts of Brier over 15 bins of P(True)."
    return [*page, Paragraph(said), formulas_table(measured), *figure("reliability"), *figure("risk_coverage")]


def formulas_table(measured: Sequence[Measured]) -> Table:
    """Every measure of calibration of the arms that are shown: `before → after` where a temperature can change the number."""
    columns, rows = ("arm", *(METRICS[name].title for name in FORMULAS)), []
    for m in best(measured):
        dev = predictions.read(m.path, ("sample_id", *COLUMNS))
        scaled = m.details.temperature and calibration.apply(m.details.temperature, dev)
        cells = [number(METRICS[name], METRICS[name].of(dev) if METRICS[name].only(dev) else None) for name in FORMULAS]
        if scaled is not None:
            cells = [
                cell if name in UNSCALED else f"{cell} → {number(METRICS[name], METRICS[name].of(scaled))}"
                for name, cell in zip(FORMULAS, cells, strict=True)
            ]
        rows.append((label_of(m), *cells))
    runs = tuple((m.arm.run.identity,) for m in best(measured))
    return Table(columns, tuple(rows), frozenset(range(1, len(columns))), shown_of(len(measured)), runs)


def swapped_blocks(findings: Findings) -> list[Block]:
    """Share of answers that survive showing the images in the other order; nothing if no arm was asked so."""
    measured, runs_dir = findings.measured, findings.selection.runs_dir
    shown = [m for m in best(measured) if any(path_of(m, runs_dir, f"dev_swap_{group}").exists() for group in SWAPS)]
    if not shown:
        return []

    def agreement(m: Measured, group: str):
        path, original = path_of(m, runs_dir, f"dev_swap_{group}"), path_of(m, runs_dir, "dev")
        columns = (*INDEX, *METRICS["accuracy"].needs)
        return or_dash(path, lambda: swap.agreement(predictions.read(original, columns), predictions.read(path, columns)))

    sizes, rows = dict.fromkeys(SWAPS, 0), []
    for m in shown:
        intervals = {group: agreement(m, group) for group in SWAPS}
        sizes |= {group: one.num_examples for group, one in intervals.items() if one is not None}
        rows.append((label_of(m), *map(written, intervals.values())))
    columns = ("arm", *(f"{said} (n = {count(sizes[group])}), % [95 %]" for group, said in SWAPS.items()))
    said = (
        "Share of dev answers that stay the same when the two images change places. The label is preserved in the first two "
        "groups; in the third it may change, so agreement is no virtue there."
    )
    runs = tuple((m.arm.run.identity,) for m in shown)
    table = Table(columns, tuple(rows), frozenset(range(1, len(columns))), shown_of(len(measured)), runs)
    return [Heading(2, "Left and right swapped"), Paragraph(said), table]


PAGE = KindPage(
    kind="choice",
    also=("ece_equal_mass", "ece_debiased", "captured_mass", "captured_mass_below_half"),
    paragraphs=(
        ("consistency",),
        ("ece", "ece_equal_mass", "ece_debiased", "smece", "mce", "ece_p_true"),
        ("nll", "brier"),
        ("auroc_confidence", "aurc"),
        ("captured_mass",),
    ),
    definitions=("temperature: T minimises NLL on minival and divides the log-odds on dev; nothing is fitted on dev.",),
    shares="accuracy, consistency, agreement, Winoground",
    baseline=baseline,
    baseline_needs=("options",),
    baseline_name="commoner label",
    guessed="one half",
    reading=lambda config: "the likelier of both answer words in one forward pass",
    details=details,
    confidence=lambda m: m.details.confidence,
    compared="right answers against confidence",
    remarks=little_mass,
    in_words=in_words,
    subsets=subsets_table,
    calibration=calibration_blocks,
    diagnostics=swapped_blocks,
)
