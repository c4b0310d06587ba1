"""Conversations: the page of `text` for the last answer, and the perplexity by turn."""

from __future__ import annotations

from dataclasses import replace

from lab.report.document import Block, Heading
from lab.report.findings import Findings
from lab.report.kinds import text
from lab.report.tables import Column, best_table, label_of, metric_column
from lab.statistics.metrics.conversation import METRICS


def diagnostics(findings: Findings) -> list[Block]:
    """Perplexity of all turns and by their place; then as of `text`."""
    columns = [Column("arm", label_of, False), *map(metric_column, METRICS)]
    return [Heading(2, "Turns"), best_table(columns, findings.measured), *text.answers_blocks(findings)]


PAGE = replace(
    text.PAGE, kind="conversation", also=(*text.PAGE.also, *(metric.name for metric in METRICS[1:])), diagnostics=diagnostics,
    paragraphs=(*text.PAGE.paragraphs, ("perplexity",)),
)  # fmt: skip
