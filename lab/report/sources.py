"""Source by source: what training saw of each, and what every arm answers to its dev, in the metric of its kind."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.report.checks import fact, named
from lab.report.diagnostics import or_dash
from lab.report.document import Block, Heading, Mono, Paragraph, Table, Text
from lab.report.findings import Findings
from lab.report.formatting import NONE, count, decimal, number_within, percent
from lab.report.measure import Measured
from lab.report.tables import best, link_of, shown_of
from lab.statistics.intervals import Interval, intervals
from lab.statistics.metrics import KINDS, Metric, columns
from lab.statistics.resampling import clusters

MOST_ARMS = 8
"""Arms that a table has a row of for each source, at most."""
INDEX = ("sample_id", "image_set", "question_group", "subset")


def source_blocks(findings: Findings) -> list[Block]:
    """The chapter; nothing where no arm learned from several sources."""
    mixed = [m for m in findings.measured if fact(m.arm, "data", "sources")]
    if not mixed:
        return []
    said = "What training took of each source, and the answers to its dev: the main metric of its kind, with a 95 % interval."
    rows = [row for m in best(mixed, MOST_ARMS) for row in scores(m, findings)]
    order = list(dict.fromkeys(row[0] for row in rows))
    names = ("source", "arm", "metric", "value [95 %]", "examples / clusters")
    scored = Table(names, tuple(sorted(rows, key=lambda row: order.index(row[0]))), frozenset({3, 4}), shown_of(len(mixed), MOST_ARMS))
    return [Heading(2, "By source"), Paragraph(said), *seen_tables(mixed), *([scored] if rows else [])]


def seen_tables(mixed: list[Measured]) -> Iterator[Table]:
    """A table for each mixture that arms were trained on, with the arms that were."""
    groups: dict[str, list[Measured]] = {}
    for m in mixed:
        groups.setdefault(repr(fact(m.arm, "data", "sources")), []).append(m)
    names = ("source", "samples of train", "samples of an epoch", "share, %", "seen in training", "times each")
    for those in groups.values():
        rows = [
            ((Mono(one["name"]),), count(one["rows"]), count(one["places"]), percent(one["share"]), count(one["seen"]), times(one))
            for one in fact(those[0].arm, "data", "sources")
        ]
        yield Table(names, tuple(rows), frozenset(range(1, len(names))), f"Mixture of {named(those)}." if len(groups) > 1 else "")


def times(source: dict) -> str:
    """How often training has seen each sample of a source."""
    return decimal(source["seen"] / source["rows"], 2) if source["rows"] else NONE


def scores(m: Measured, findings: Findings) -> Iterator[tuple[Text, ...]]:
    """Rows of an arm: of the sources of its own dev, or all of that, then of each other part of its mixture."""
    parts = fact(m.arm, "data", "parts") or ()
    within = m.subsets.keys() & {source["name"].rpartition("/")[2] for source in fact(m.arm, "data", "sources")}
    own = parts[0] if parts else m.arm.run.config.get("data", {}).get("name", "")
    if not within:
        yield row(own, m, m.kind.main, m.headline, m.intervals.get(m.kind.headline), m.num_examples, m.num_clusters)
    elif (table := or_dash(m.path, partial(predictions.read, m.path, (*INDEX, *columns())))) is not None:
        yield from (of_subset(f"{own}/{name}" if parts else name, m, table.take(table.subset == name)) for name in sorted(within))
    for name in parts[1:]:
        for other in findings.others[name].measured if name in findings.others else ():
            if other.arm.run.identity == m.arm.run.identity:
                value, interval = other.headline, other.intervals.get(other.kind.headline)
                yield row(name, other, other.kind.main, value, interval, other.num_examples, other.num_clusters)


def of_subset(name: str, m: Measured, table: PredictionTable) -> tuple[Text, ...]:
    """The row of one source of dev."""
    metric, cluster = KINDS[table.kind].main, clusters(table)
    interval = intervals([table], [metric.name], cluster=cluster)[0][metric.name] if cluster.max() > 0 else None
    return row(name, m, metric, metric.of(table), interval, len(table), int(cluster.max()) + 1)


def row(source: str, m: Measured, metric: Metric, value: float, interval: Interval | None, examples: int, sets: int) -> tuple[Text, ...]:
    """A source's number of an arm. sets: clusters of examples."""
    return (Mono(source),), (link_of(m.arm),), metric.title, number_within(metric, value, interval), f"{count(examples)} / {count(sets)}"
