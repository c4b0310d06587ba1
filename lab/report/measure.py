"""Numbers of one arm, recomputed from its predictions; what was recorded during the run is only compared with them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from lab import plugins
from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.errors import DataError, LabError
from lab.host.progress import Report, silent
from lab.report.kinds import page_of
from lab.report.question_set import QuestionSet, Reader
from lab.report.select_runs import Row
from lab.statistics.intervals import Interval, intervals
from lab.statistics.metrics import KINDS, Kind, columns
from lab.store.runs import own_predictions

BATCH = 32
"""Arms measured one after another by one process, so that they share what they were asked."""
POOL_FROM = 48
"""Least number of arms for which worker processes are worth their start."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What dev says of one finished arm.

    metrics: by name, those that a report shows. intervals: of the metrics that have one everywhere; empty, and `no_interval` the
    reason, where nothing can be resampled. subsets: name -> (examples, headline). tokens: mean, least and most visual tokens of one
    image. minival: headline on minival. details: what the kind's own page adds. notes: of metrics that have one. questions: what was asked.
    path: the predictions.
    """

    arm: Row
    kind_name: str
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    no_interval: str | None
    num_examples: int
    num_clusters: int
    subsets: dict[str, tuple[int, float]]
    tokens: tuple[float, int, int]
    minival: float | None
    details: Any
    notes: dict[str, str]
    chance: dict[str, float]
    baseline: tuple[str, dict[str, float]]
    items: str
    order: str
    path: Path

    @property
    def kind(self) -> Kind:
        return KINDS[self.kind_name]

    @property
    def headline(self) -> float:
        return self.metrics[self.kind.headline]


@dataclass(frozen=True)
class Unmeasured:
    """An arm without numbers, and why: it failed, was killed, still runs, or its predictions cannot be read or are of another form.

    state: of one that has finished, as a table says it.
    """

    arm: Row
    reason: str
    state: str = "NO PREDICTIONS"


@dataclass(frozen=True, eq=False)
class Opened:
    """An arm whose dev predictions were read; tokens: of all images, flat."""

    arm: Row
    path: Path
    questions: QuestionSet
    table: PredictionTable
    tokens: np.ndarray


Result = Measured | Unmeasured
Made = TypeVar("Made")


def measure_all(
    arms: Sequence[Row], num_resamples: int = 2000, report: Report = silent, workers: int = 1, data: str | None = None
) -> list[Result]:
    """Measure every arm, in order; many arms are spread over `workers` processes, which import the caller's main module.

    data: another data set that the arms were asked; None: their own.
    """
    batches = [arms[start : start + BATCH] for start in range(0, len(arms), BATCH)]
    work = partial(measure_batch, num_resamples=num_resamples, data=data)
    if len(arms) < POOL_FROM or workers < 2:
        return _followed(map(work, batches), len(arms), report)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=plugins.load, initargs=(list(plugins.LOADED),)) as pool:
        return _followed(pool.map(work, batches), len(arms), report)


def _followed(results: Iterable[list[Result]], total: int, report: Report) -> list[Result]:
    made: list[Result] = []
    for batch in results:
        made += batch
        report("measuring (runs)", len(made), total, "")
    return made


def measure_batch(arms: Sequence[Row], num_resamples: int = 2000, data: str | None = None) -> list[Result]:
    """Measure some arms; those that were asked the same share the draws behind their intervals."""
    reader = Reader()
    opened = [_open(arm, reader, data) for arm in arms]
    groups: dict[tuple[int, str], list[Opened]] = {}
    for one in opened:
        if isinstance(one, Opened):
            groups.setdefault((id(one.questions), one.table.kind), []).append(one)
    shared: dict[str, tuple[dict[str, Interval], str | None]] = {}
    for members in groups.values():
        tables = [one.table for one in members]
        names, cluster = KINDS[tables[0].kind].with_interval, members[0].questions.cluster
        within, reason = _or_reason(partial(intervals, tables, names, cluster=cluster, num_resamples=num_resamples))
        for place, one in enumerate(members):
            shared[one.arm.run.identity] = (within[place] if within else {}, reason)
    held_out = _minival if data is None else lambda arm: (None, f"{data} is asked its dev alone")
    return [_measure(one, *shared[one.arm.run.identity], *held_out(one.arm)) if isinstance(one, Opened) else one for one in opened]


def _open(arm: Row, reader: Reader, data: str | None) -> Opened | Unmeasured:
    if not arm.finished:
        return Unmeasured(arm, arm.run.error or "no error was recorded")
    try:
        path = own_predictions(arm.run, arm.folder, "dev") if data is None else arm.others[data]
        with predictions.readable(path):
            asked = reader.read(path)
        if data is None:
            require_all(path, len(asked[1]), arm.run.facts, "dev")
        return Opened(arm, path, *asked)
    except LabError as error:
        return Unmeasured(arm, f"the run finished, but {error}")


def require_all(path: Path, rows: int, facts: dict[str, Any], split: str) -> None:
    """Raise a `DataError` for a predictions file that has not as many rows as the run counted examples."""
    data = facts.get("data")
    counts = data.get("counts") if isinstance(data, dict) else None
    counted = counts.get(split) if isinstance(counts, dict) else None
    if counted is not None and counted != rows:
        raise DataError(f"{path}: it has {rows} rows, and run.json counts {counted} examples of {split}; evaluate the run again.")


def _measure(
    one: Opened, within: dict[str, Interval], no_interval: str | None, minival: PredictionTable | None, reason: str | None
) -> Measured:
    table, questions, tokens = one.table, one.questions, one.tokens
    kind, page = KINDS[table.kind], page_of(table.kind)
    metrics = [kind.metrics[name] for name in page.measured if kind.metrics[name].only(table)]
    return Measured(
        arm=one.arm,
        kind_name=kind.name,
        metrics={metric.name: metric.of(table) for metric in metrics},
        intervals=within,
        no_interval=no_interval,
        num_examples=len(table),
        num_clusters=int(questions.cluster.max()) + 1,
        subsets=_subsets(kind, table, questions),
        tokens=(float(tokens.mean()), int(tokens.min()), int(tokens.max())) if len(tokens) else (0.0, 0, 0),
        minival=None if minival is None else kind.main.of(minival),
        details=page.details(table, minival, reason),
        notes={metric.name: note for metric in metrics if (note := metric.note(table))},
        chance=questions.chance,
        baseline=questions.baseline,
        items=questions.content,
        order=questions.order,
        path=one.path,
    )


def _minival(arm: Row) -> tuple[PredictionTable | None, str | None]:
    """The minival predictions, or why there are none."""
    path = own_predictions(arm.run, arm.folder, "minival")
    if not path.exists():
        return None, "no minival predictions"

    def read() -> PredictionTable:
        table = predictions.read(path, ("sample_id", *columns(lambda kind: (kind.headline, kind.watched))))
        require_all(path, len(table), arm.run.facts, "minival")
        return table

    return _or_reason(read)


def _or_reason(make: Callable[[], Made]) -> tuple[Made | None, str | None]:
    """A value, or the sentence that says why there is none: the page shows it in the value's place."""
    try:
        return make(), None
    except LabError as error:
        return None, str(error)


def _subsets(kind: Kind, table: PredictionTable, questions: QuestionSet) -> dict[str, tuple[int, float]]:
    names, place = questions.subsets
    size = np.bincount(place[place >= 0], minlength=len(names))
    return {name: (int(size[i]), kind.main.of(table.take(place == i))) for i, name in enumerate(names)}
