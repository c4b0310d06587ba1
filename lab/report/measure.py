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

from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.errors import DataError, LabError
from lab.host.progress import Report, silent
from lab.report.question_set import Items, Reader
from lab.report.select_runs import Arm
from lab.statistics import calibration, functional
from lab.statistics.comparing import Interval, intervals
from lab.statistics.functional import Bins
from lab.statistics.metrics import KINDS

SHOWN = (
    "accuracy", "consistency", "ece", "ece_equal_mass", "ece_debiased", "nll", "brier", "captured_mass",
    "captured_mass_below_half",
)  # fmt: skip
BATCH = 32
"""Arms measured one after another by one process, so that they share what they were asked."""
POOL_FROM = 48
"""Least number of arms for which worker processes are worth their start."""


@dataclass(frozen=True)
class Scaled:
    """Temperature scaling: fitted on `num_examples` of minival, applied to dev."""

    temperature: float
    at_limit: bool
    num_examples: int
    ece_after: float
    nll_after: float


@dataclass(frozen=True, eq=False)
class Measured:
    """What dev says of one finished arm.

    metrics: `SHOWN`, by their names in `lab.statistics.metrics`. intervals: of the metrics with one; empty, and
    `no_interval` the reason, where nothing can be resampled. bins: top-label reliability, 15 equal widths.
    majority: share and consistency of always giving the commoner label. subsets: name -> (examples, accuracy).
    tokens: mean, least and most visual tokens of one image. scaled: None, and `no_scaling` the reason, without minival.
    items: digest of what was asked (ids with labels, in any order); order: digest of the ids in the order scored.
    """

    arm: Arm
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    no_interval: str | None
    bins: Bins
    num_examples: int
    num_clusters: int
    consistency_by_chance: float
    majority: tuple[bool, float, float]
    subsets: dict[str, tuple[int, float]]
    tokens: tuple[float, int, int]
    scaled: Scaled | None
    no_scaling: str | None
    minival_accuracy: float | None
    items: str
    order: str


@dataclass(frozen=True)
class Unmeasured:
    """An arm without numbers, and why: it failed, was killed, still runs, or its predictions cannot be read."""

    arm: Arm
    reason: str


@dataclass(frozen=True, eq=False)
class Opened:
    """An arm whose dev predictions were read; tokens: of all images, flat."""

    arm: Arm
    items: Items
    table: PredictionTable
    tokens: np.ndarray


Result = Measured | Unmeasured
Made = TypeVar("Made")


def measure_all(
    arms: Sequence[Arm], num_resamples: int = 2000, report: Report = silent, workers: int = 1
) -> list[Result]:
    """Measure every arm, in order; many arms are spread over `workers` processes, which import the caller's main module."""
    batches = [arms[start : start + BATCH] for start in range(0, len(arms), BATCH)]
    work = partial(measure_batch, num_resamples=num_resamples)
    if len(arms) < POOL_FROM or workers < 2:
        return _followed(map(work, batches), len(arms), report)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        return _followed(pool.map(work, batches), len(arms), report)


def _followed(results: Iterable[list[Result]], total: int, report: Report) -> list[Result]:
    made: list[Result] = []
    for batch in results:
        made += batch
        report("measuring (runs)", len(made), total, "")
    return made


def measure_batch(arms: Sequence[Arm], num_resamples: int = 2000) -> list[Result]:
    """Measure some arms; those that were asked the same share the draws behind their intervals."""
    reader = Reader()
    opened = [_open(arm, reader) for arm in arms]
    groups: dict[int, list[Opened]] = {}
    for one in opened:
        if isinstance(one, Opened):
            groups.setdefault(id(one.items), []).append(one)
    within: dict[str, tuple[dict[str, Interval], str | None]] = {}
    for members in groups.values():
        tables, cluster = [one.table for one in members], members[0].items.cluster
        made, reason = _or_reason(partial(intervals, tables, KINDS["choice"].with_interval, cluster=cluster, num_resamples=num_resamples))
        for place, one in enumerate(members):
            within[one.arm.run.identity] = (made[place] if made else {}, reason)
    return [_measure(one, *within[one.arm.run.identity]) if isinstance(one, Opened) else one for one in opened]


def _open(arm: Arm, reader: Reader) -> Opened | Unmeasured:
    if not arm.finished:
        return Unmeasured(arm, arm.run.error or "no error was recorded")
    try:
        path = arm.folder / "predictions" / "dev.parquet"
        with predictions.readable(path):
            opened = Opened(arm, *reader.read(path))
        require_all(path, len(opened.table), arm.run.facts, "dev")
        return opened
    except LabError as error:
        return Unmeasured(arm, f"the run finished, but {error}")


def require_all(path: Path, rows: int, facts: dict[str, Any], split: str) -> None:
    """Raise a `DataError` for a predictions file that has not as many rows as the run counted examples."""
    data = facts.get("data")
    counts = data.get("counts") if isinstance(data, dict) else None
    counted = counts.get(split) if isinstance(counts, dict) else None
    if counted is not None and counted != rows:
        raise DataError(f"{path}: it has {rows} rows, and run.json counts {counted} examples of {split}; evaluate the run again.")


def _measure(one: Opened, within: dict[str, Interval], no_interval: str | None) -> Measured:
    table, items, tokens = one.table, one.items, one.tokens
    minival, scaled, no_scaling = _minival(one.arm, table)
    bins = functional.reliability_bins(table.confidence, table.correct)
    return Measured(
        arm=one.arm,
        metrics=_shown(table, items, bins),
        intervals=within,
        no_interval=no_interval,
        bins=bins,
        num_examples=len(table),
        num_clusters=int(items.cluster.max()) + 1,
        consistency_by_chance=items.consistency_by_chance,
        majority=items.majority,
        subsets=_subsets(table, items),
        tokens=(float(tokens.mean()), int(tokens.min()), int(tokens.max())) if len(tokens) else (0.0, 0, 0),
        scaled=scaled,
        no_scaling=no_scaling,
        minival_accuracy=minival,
        items=items.content,
        order=items.order,
    )


def _shown(table: PredictionTable, items: Items, bins: Bins) -> dict[str, float]:
    """`SHOWN`, with bins made once for the metrics that share them and groups counted once for all arms."""
    alike = functional.equal_mass_bins(table.confidence, table.correct)
    group, size = items.group
    known = {
        "ece": bins.mean_gap,
        "ece_equal_mass": alike.mean_gap,
        "ece_debiased": alike.debiased,
        "consistency": float((np.bincount(group, table.correct) == size).mean()),
    }
    return {name: known[name] if name in known else KINDS[table.kind].metrics[name].of(table) for name in SHOWN}


def _minival(arm: Arm, dev: PredictionTable) -> tuple[float | None, Scaled | None, str | None]:
    """Accuracy on minival, and what a temperature fitted there does to dev."""
    path = arm.folder / "predictions" / "minival.parquet"
    if not path.exists():
        return None, None, "no minival predictions"

    def read() -> PredictionTable:
        table = predictions.read(path, ("sample_id", "right", "log_p", "prediction"))
        require_all(path, len(table), arm.run.facts, "minival")
        return table

    minival, reason = _or_reason(read)
    if minival is None:
        return None, None, reason
    scaled, reason = _or_reason(lambda: _scale(minival, dev))
    return functional.accuracy(minival.correct), scaled, reason


def _scale(minival: PredictionTable, dev: PredictionTable) -> Scaled:
    fitted = calibration.fit(minival, "minival")
    after = calibration.apply(fitted, dev.select("sample_id", "right", "log_p", "prediction"))
    ece, nll = (KINDS[dev.kind].metrics[name].of(after) for name in ("ece", "nll"))
    return Scaled(fitted.value, fitted.at_limit, len(minival), ece, nll)


def _or_reason(make: Callable[[], Made]) -> tuple[Made | None, str | None]:
    """A value, or the sentence that says why there is none: the page shows it in the value's place."""
    try:
        return make(), None
    except LabError as error:
        return None, str(error)


def _subsets(table: PredictionTable, items: Items) -> dict[str, tuple[int, float]]:
    names, place = items.subsets
    inside = place >= 0
    size = np.bincount(place[inside], minlength=len(names))
    right = np.bincount(place[inside], table.correct[inside], minlength=len(names))
    return {name: (int(n), float(k / n)) for name, n, k in zip(names, size, right, strict=True)}
