"""Written answers in six metrics side by side, as papers table them: intervals by cluster, and every pair of arms tested in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lab.answers import learned, predictions
from lab.answers.predictions import PredictionTable
from lab.errors import LabError
from lab.report.compare import INDEX, Group, paired_tables
from lab.report.document import Block, Bullets, Heading, Mono, Paragraph, Table, Text, Warn
from lab.report.findings import Findings
from lab.report.formatting import NONE, count, difference_within, number, number_within, p_value
from lab.report.measure import Measured
from lab.report.published import published_blocks
from lab.report.tables import best, label_of, shown_of
from lab.statistics.comparing import Comparison, compare, holm
from lab.statistics.intervals import Interval, intervals
from lab.statistics.metrics import KINDS, Metric
from lab.statistics.seeds import compare_seeds

SIX = ("exact_match", "token_f1", "rouge_l", "bertscore", "bartscore", "cosine")
ITSELF = KINDS["text"].metrics["bartscore_of_reference"]


@dataclass(frozen=True, eq=False)
class Scored:
    """An arm's six metrics: those that it has, and what made the learned ones."""

    arm: Measured
    intervals: dict[str, Interval]
    itself: float | None
    origins: dict[str, learned.Origin]

    @classmethod
    def of(cls, m: Measured, num_resamples: int) -> Scored:
        """Read an arm's answers and scores."""
        table = predictions.read(m.path, needed(m.kind_name))
        there = [metric.name for metric in six(m.kind_name) if metric.only(table)]
        origins = {name: learned.origin(learned.file(m.path, name)) for name in learned.COLUMNS if name in table.columns}
        itself = ITSELF.of(table) if ITSELF.only(table) else None
        return cls(m, intervals([table], there, num_resamples=num_resamples)[0], itself, origins)

    def cells(self, metrics: Sequence[Metric]) -> tuple[Text, ...]:
        """One cell a metric, and after BARTScore that of the reference with itself."""
        made: list[Text] = []
        for metric in metrics:
            one = self.intervals.get(metric.name)
            made.append(NONE if one is None else number_within(metric, one.estimate, one))
            made += [number(ITSELF, self.itself)] if metric.name == "bartscore" else []
        return tuple(made)


def six(kind: str) -> list[Metric]:
    """The six metrics, after the headline where that is another."""
    return [KINDS[kind].metrics[name] for name in dict.fromkeys((KINDS[kind].headline, *SIX))]


def needed(kind: str) -> tuple[str, ...]:
    """The columns that they take."""
    return (*INDEX, *dict.fromkeys(name for metric in (*six(kind), ITSELF) for name in metric.needs))


def scores_blocks(findings: Findings) -> list[Block]:
    """The table of scores, by which models, what each means, and the tests of pairs."""
    try:
        scored = [Scored.of(m, findings.num_resamples) for m in best(findings.measured)]
    except LabError as error:
        return [Heading(2, "Six metrics"), Warn(f"No table: {error}")]
    metrics = [metric for metric in six(findings.kind.name) if any(metric.name in one.intervals for one in scored)]
    absent = [metric.name for metric in six(findings.kind.name) if metric not in metrics]
    headers = ["arm"]
    for metric in metrics:
        headers += [f"{metric.title} [95 %]", *([f"{ITSELF.title}"] if metric.name == "bartscore" else [])]
    rows = tuple((label_of(one.arm), *one.cells(metrics)) for one in scored)
    table = Table(
        tuple(headers), rows, frozenset(range(1, len(headers))), shown_of(len(findings.measured)),
        tuple((one.arm.arm.run.identity,) for one in scored),
    )  # fmt: skip
    page: list[Block] = [Heading(2, "Six metrics"), table]
    if absent:
        page.append(Paragraph(("Not computed: ", ", ".join(absent), ". Type ", Mono(f"lab score RUN --metric {absent[0]} --model PATH"), ".")))
    page += [Paragraph(line) for line in by_models(scored)] + [Warn(line) for line in apart(scored)]
    said = tuple(metric.says for metric in metrics if metric.name in learned.COLUMNS)
    page += ([Bullets(said)] if said else []) + tests_blocks(findings, metrics)
    values = {one.arm.arm.run.identity: {name: interval.estimate for name, interval in one.intervals.items()} for one in scored}
    return page + published_blocks(findings, values)


def by_models(scored: Sequence[Scored]) -> list[str]:
    """Which model gave the learned metrics, a sentence each."""
    models = {metric: dict.fromkeys(one.origins[metric].short for one in scored if metric in one.origins) for metric in learned.COLUMNS}
    return [f"{KINDS['text'].metrics[metric].header} by {' and '.join(names)}." for metric, names in models.items() if names]


def apart(scored: Sequence[Scored]) -> list[str]:
    """A sentence for each learned metric that arms have from different models, or some have not."""
    said = []
    for metric in learned.COLUMNS:
        weights = Counter((one.origins[metric].weights, str(one.origins[metric].options)) for one in scored if metric in one.origins)
        header = KINDS["text"].metrics[metric].header
        if len(weights) > 1:
            said.append(f"{header} is not comparable between these arms: they were scored by {len(weights)} different models or options.")
    return said


def tests_blocks(findings: Findings, metrics: Sequence[Metric]) -> list[Block]:
    """Every compared pair in every metric, Holm's correction over all of it."""
    groups = {group.label: group for group in findings.compared.groups}
    tables: dict[str, PredictionTable] = {}
    tested: list[tuple[str, str, list[Comparison | None]]] = []
    for pair in findings.compared.pairs:
        one, other = groups[pair.first], groups[pair.second]
        tested.append((pair.first, pair.second, compared_in(one, other, metrics, findings.num_resamples, tables)))
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
    first: Group, second: Group, metrics: Sequence[Metric], num_resamples: int, tables: dict[str, PredictionTable]
) -> list[Comparison | None]:
    """A comparison in each metric; None where one of the arms has it not."""
    wanted = needed(first.members[0].kind_name)
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
