"""Boxes on a page: always the mean box, precision against recall, by class and by size, calibration of scores, how answers were read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.config import MOST_TOKENS
from lab.records import Region
from lab.report import box_classes, box_gallery
from lab.report.box_curves import curves, pictures
from lab.report.checks import named
from lab.report.compare import INDEX
from lab.report.confidence_figures import Confidence
from lab.report.document import Block, Heading, Paragraph
from lab.report.findings import Findings
from lab.report.formatting import percent
from lab.report.kinds import KindPage
from lab.report.measure import Measured
from lab.report.pairs_by_metric import pairs_blocks
from lab.report.tables import Column, best_table, label_of, metric_column, subsets_table
from lab.statistics.detection import boxes_of
from lab.statistics.metrics import KINDS
from lab.statistics.metrics.regions import BOXES, flat, scored

METRICS = KINDS["regions"].metrics
SIZES = ("recall_small", "recall_medium", "recall_large", "ap_small", "ap_medium", "ap_large")
SCORES = ("ece", "auroc_confidence", "aurc")
READING = ("ok", "partial", "empty", "failed", "duplicates", "invalid", "crowded", "distance")
TESTED = ("picture_f1", "f1", "mean_iou", "ap", "ap50")
OFTEN = 0.05
"""Share of answers that could not be read, from which on a reader is told first."""


@dataclass(frozen=True, eq=False)
class Details:
    """confidence: of boxes, by their scores; None without. curves: interpolated precision at IoU .5 and .75, [2, 101]; None of clicks."""

    confidence: Confidence | None
    curves: np.ndarray | None


def details(dev: PredictionTable, minival: PredictionTable | None, reason: str | None) -> Details:
    return Details(Confidence.against(*flat(dev), items="boxes") if scored(dev) else None, curves(dev))


def mean_box(table: PredictionTable) -> tuple[str, dict[str, float]]:
    """One box a picture, always the commonest label: the mean of all references, in shares of the picture."""
    rows = [(region.label, boxes_of([region])[0] / size) for one, size in zip(table.references, sizes(table), strict=True) for region in one]
    said = np.empty(len(table), dtype=object)
    said[:] = [()] * len(table)
    if rows:
        label, mean = Counter(name for name, _ in rows).most_common(1)[0][0], np.mean([box for _, box in rows], axis=0)
        said[:] = [(Region(label, *(mean * size).tolist()),) for size in sizes(table)]
    nothing = np.empty(len(table), dtype=object)
    nothing[:] = [()] * len(table)
    always = table.replace(regions=said, scores=nothing, boxes=np.full(len(table), "", dtype=object))
    return "always the mean box", {name: METRICS[name].of(always) for name in KINDS["regions"].shown}


def sizes(table: PredictionTable) -> np.ndarray:
    """(width, height, width, height) of each picture, [n, 4]."""
    return np.stack([table.width, table.height] * 2, axis=1).astype(np.float64)


def reading(config: Mapping[str, Any]) -> str:
    """How boxes are written and which rule reads them."""
    most = config.get("evaluation", {}).get("max_new_tokens") or MOST_TOKENS["regions"]
    return f"written greedily up to {most} tokens, read by prompt.boxes={config.get('prompt', {}).get('boxes') or 'the default of the family'}"


def in_words(table: PredictionTable) -> list[tuple[str, str]]:
    """Labels of the references, and of the predictions with the answer's probability."""
    rows = zip(table.references, table.regions, table.confidence.tolist(), strict=True)
    return [(box_gallery.listed(right), f"{box_gallery.listed(said)} ({100 * confidence:.0f} %)") for right, said, confidence in rows]


def remarks(measured: Sequence[Measured]) -> list[str]:
    """Answers without scores, that could not be read, or with more boxes than count."""
    out = []
    unranked = [m for m in measured if m.notes.get("ap") and "ap" in m.metrics]
    if unranked:
        out.append(f"Boxes of {named(unranked)} have no scores: their AP is that of one step of the ranking, and lower than a ranking's would be.")
    unread = [m for m in measured if m.metrics["failed"] + m.metrics["partial"] > OFTEN]
    if unread:
        worst = max(m.metrics["failed"] + m.metrics["partial"] for m in unread)
        out.append(f"More than {100 * OFTEN:.0f} % of the answers of {named(unread)} could not be read whole (up to {percent(worst)} %).")
    crowded = [m for m in measured if m.metrics["crowded"] > 0]
    if crowded:
        worst = max(m.metrics["crowded"] for m in crowded)
        out.append(f"Pictures with more than 100 predicted boxes (up to {percent(worst)} % of {named(crowded)}): AP takes the first 100 of a class.")
    return out


def columns(names: Sequence[str], measured: Sequence[Measured]) -> list[Column]:
    """The arm, and those of the metrics that any arm has."""
    return [Column("arm", label_of, False), *(metric_column(METRICS[name]) for name in names if any(name in m.metrics for m in measured))]


def scores_blocks(findings: Findings, figure: Callable[[str], list[Block]]) -> list[Block]:
    """Pairs in every metric, precision against recall, recall by size, and how far scores can be relied on."""
    measured = findings.measured
    tested = [METRICS[name] for name in TESTED if all(name in m.metrics for m in measured)]
    page = [*pairs_blocks(findings, tested, (*INDEX, *BOXES, "scores")), *curves_blocks(figure), Heading(2, "By size")]
    said = "Small: up to 32 x 32 pixels of the picture as shown, medium: up to 96 x 96, large: above."
    page += [Paragraph(said), best_table(columns(SIZES, measured), measured)]
    if any(m.details.confidence for m in measured):
        page += [Heading(2, "Calibration"), best_table(columns(SCORES, measured), measured), *figure("reliability"), *figure("risk_coverage")]
    return page


def curves_blocks(figure: Callable[[str], list[Block]]) -> list[Block]:
    """Precision against recall, where there are boxes."""
    drawn = figure("precision_recall")
    return [Heading(2, "Precision and recall"), *drawn] if drawn else []


def boxes_blocks(findings: Findings) -> list[Block]:
    """How answers were read, and the classes."""
    measured = findings.measured
    table = best_table(columns(READING, measured), measured)
    return [Heading(2, "How answers were read"), table, *box_classes.class_blocks(measured), *box_classes.confusion_blocks(measured)]


PAGE = KindPage(
    kind="regions",
    also=("ap50_class_free", *SIZES, *SCORES, *READING),
    paragraphs=(("precision", "recall", "f1"), ("ap", "ap50_class_free"), SCORES, READING),
    definitions=("always the mean box: the mean of all dev references in shares of the picture, with the commonest label.",),
    shares="none here",
    baseline=mean_box,
    baseline_needs=("width", "height"),
    baseline_name="mean box",
    guessed="what one box for all pictures gets",
    reading=reading,
    details=details,
    confidence=lambda m: m.details.confidence,
    compared="hits against scores, box by box",
    remarks=remarks,
    in_words=in_words,
    subsets=subsets_table,
    calibration=scores_blocks,
    diagnostics=boxes_blocks,
    figures=pictures,
    figure_names=("precision_recall",),
    gallery=box_gallery.gallery,
)
