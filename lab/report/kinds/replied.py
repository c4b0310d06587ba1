"""Replies without probabilities: the page of `text` without what is made of them."""

from __future__ import annotations

from dataclasses import replace

from lab.answers.predictions import PredictionTable
from lab.report.document import Block, Heading
from lab.report.findings import Findings
from lab.report.kinds import text
from lab.report.tables import Column, best_table, label_of, metric_column
from lab.statistics.metrics.replied import METRICS


def in_words(table: PredictionTable) -> list[tuple[str, str]]:
    """The distinct references, and what was replied."""
    return [(" / ".join(references), reply or "(nothing)") for references, reply in zip(table.references, table.text, strict=True)]


def diagnostics(findings: Findings) -> list[Block]:
    """How replies end, and the commonest references beside how often each arm gives them."""
    columns = [Column("arm", label_of, False), *(metric_column(METRICS[name]) for name in PAGE.also)]
    return [Heading(2, "What was answered"), best_table(columns, findings.measured), *text.distribution(findings)]


PAGE = replace(
    text.PAGE, kind="replied", also=tuple(name for name in text.PAGE.also if name in METRICS),
    paragraphs=tuple(names for names in text.PAGE.paragraphs if set(names) <= METRICS.keys()), definitions=(),
    details=lambda dev, minival, reason: None, confidence=lambda m: None, compared="", in_words=in_words, calibration=lambda findings, figure: [],
    diagnostics=diagnostics,
)  # fmt: skip
