"""Pairs of arms tested in several metrics side by side; a claim is made in the headline alone."""

from __future__ import annotations

from collections.abc import Sequence

from lab.answers.predictions import PredictionTable
from lab.report.compare import Group, paired_tables
from lab.report.document import Block, Heading, Mono, Paragraph, Table
from lab.report.findings import Findings
from lab.report.formatting import NONE, count, difference_within, p_value
from lab.statistics.comparing import Comparison, compare, holm
from lab.statistics.metrics import Metric
from lab.statistics.seeds import compare_seeds


def pairs_blocks(findings: Findings, metrics: Sequence[Metric], wanted: Sequence[str]) -> list[Block]:
    """Every compared pair in every metric, Holm's correction over all of it; wanted: the columns that they take."""
    groups = {group.label: group for group in findings.compared.groups}
    tables: dict[str, PredictionTable] = {}
    tested: list[tuple[str, str, list[Comparison | None]]] = []
    for pair in findings.compared.pairs:
        one, other = groups[pair.first], groups[pair.second]
        tested.append((pair.first, pair.second, compared_in(one, other, metrics, wanted, findings.num_resamples, tables)))
    flat = [c for _, _, comparisons in tested for c in comparisons if c is not None and c.has_interval]
    if not flat:
        return []
    adjusted = dict(zip(map(id, flat), holm([c.p_value for c in flat]).tolist(), strict=True))

    def cell(metric: Metric, c: Comparison | None) -> str:
        if c is None:
            return NONE
        p = adjusted.get(id(c))
        return difference_within(metric, c) + ("" if p is None else f", {p_value(p)}")

    rows = tuple(
        ((Mono(first),), (Mono(second),), *(cell(metric, c) for metric, c in zip(metrics, comparisons, strict=True)))
        for first, second, comparisons in tested
    )
    headers = ("first", "second", *(f"{metric.header} [95 %], p" for metric in metrics))
    runs = tuple(groups[first].runs + groups[second].runs for first, second, _ in tested)
    clusters = count(flat[0].num_clusters)
    said = (
        f"First - second, shares in points; p by swapping arms within {clusters} clusters, after Holm's correction over the "
        f"{len(flat)} tests of this table. A claim is made in {findings.kind.main.header} alone, above."
    )
    return [Heading(3, "Pairs in each metric"), Paragraph(said), Table(headers, rows, frozenset(range(2, len(headers))), runs=runs)]


def compared_in(
    first: Group, second: Group, metrics: Sequence[Metric], wanted: Sequence[str], num_resamples: int, tables: dict[str, PredictionTable]
) -> list[Comparison | None]:
    """A comparison in each metric; None where one of the arms has it not."""
    one, other = paired_tables(first, second, tables, wanted)
    made: list[Comparison | None] = []
    for metric in metrics:
        if not all(metric.only(table) for table in (*one, *other)):
            made.append(None)
        elif len(one) == 1:
            made.append(compare(one[0], other[0], metric.name, num_resamples=num_resamples))
        else:
            made.append(compare_seeds(one, other, metric.name, num_resamples=num_resamples))
    return made
