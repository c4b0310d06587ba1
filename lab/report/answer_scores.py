"""Written answers in six metrics side by side, as papers table them: intervals by cluster, and every pair of arms tested in each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from lab.answers import learned, predictions
from lab.errors import LabError
from lab.report.compare import INDEX
from lab.report.document import Block, Bullets, Heading, Mono, Paragraph, Table, Text, Warn
from lab.report.findings import Findings
from lab.report.formatting import NONE, number, number_within
from lab.report.measure import Measured
from lab.report.pairs_by_metric import pairs_blocks
from lab.report.published import published_blocks
from lab.report.tables import best, label_of, shown_of
from lab.statistics.intervals import Interval, intervals
from lab.statistics.metrics import KINDS, Metric

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
    page += ([Bullets(said)] if said else []) + pairs_blocks(findings, metrics, needed(findings.kind.name))
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
