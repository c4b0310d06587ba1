"""How sure a number is: exact intervals of shares, cluster bootstrap of the rest. One table: `interval`; many on the same items: `intervals`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.errors import LabError
from lab.statistics import proportions
from lab.statistics.metrics import KINDS, Metric
from lab.statistics.resampling import LEAST_RESAMPLES, clusters, drawn_rows, drawn_sums, enough, quantiles
from lab.statistics.reweighting import weighted_draws

LEVEL = 0.95
BOOTSTRAP = "percentile cluster bootstrap"
ALIKE = "every resample gives the same number"
"""Why a bootstrap has no interval."""
TIE = 1e-12
"""Ends of an interval nearer than this are sums of the same numbers in another order."""


@dataclass(frozen=True)
class Interval:
    """A metric with its interval: exact for shares (`lab.statistics.proportions`), else of resampled clusters.

    method: how it was made, or why there is none, its ends then being NaN. num_resamples: 0 where nothing was drawn.
    """

    estimate: float
    low: float
    high: float
    level: float
    num_examples: int
    num_clusters: int
    num_resamples: int
    seed: int
    method: str

    @property
    def has_ends(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


def interval(
    table: PredictionTable,
    name: str | None = None,
    *,
    num_resamples: int = LEAST_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    cluster: np.ndarray | None = None,
) -> Interval:
    """Interval of one metric, the headline unless named; see `intervals`."""
    name = KINDS[table.kind].metric(name).name
    return intervals([table], (name,), num_resamples=num_resamples, level=level, seed=seed, cluster=cluster)[0][name]


def intervals(
    tables: Sequence[PredictionTable],
    names: Sequence[str],
    *,
    num_resamples: int = LEAST_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    cluster: np.ndarray | None = None,
) -> list[dict[str, Interval]]:
    """Intervals of several metrics, over clusters, for tables of the same items in the same order, which share the draws.
    A metric that a table cannot have is left out of its own.

    Shares of right and wrong have those of `lab.statistics.proportions`. The others have the percentile bootstrap over clusters
    (Efron 1979; Field and Welsh 2007): additive metrics cost one matrix product; those with weights are accumulated again under the
    weights of every resample; any other is computed anew for each, and its interval is NaN if one leaves it undefined. Binned calibration
    errors are biased upward under resampling: show `ece_debiased` beside.
    """
    metrics = [KINDS[tables[0].kind].metric(name) for name in names]
    enough(num_resamples)
    cluster = clusters(tables[0]) if cluster is None else cluster
    drawn = [metric for metric in metrics if not metric.exact]
    draws = additive_draws(tables, [metric for metric in drawn if metric.additive], cluster, num_resamples, seed)
    for metric in drawn:
        if metric.weighted:
            draws[metric.name] = weighted_draws([metric.weighted(table) for table in tables], cluster, num_resamples, seed)
    draws |= other_draws(tables, [metric for metric in drawn if not (metric.additive or metric.weighted)], cluster, num_resamples, seed)
    ends = {name: quantiles(values, level) for name, values in draws.items()}
    for metric in metrics:
        if metric.exact:
            ends[metric.name] = proportions.interval(np.stack([metric.cluster_sums(t, cluster) for t in tables], axis=1), level)
    num_clusters, by_table = int(cluster.max()) + 1, []
    for i, table in enumerate(tables):
        of_table = {}
        for metric in metrics:
            if not metric.only(table):
                continue
            low, high, method = float(ends[metric.name][0][i]), float(ends[metric.name][1][i]), proportions.METHOD
            if not metric.exact:
                low, high, method = resampled(low, high)
            times = 0 if metric.exact else num_resamples
            of_table[metric.name] = Interval(metric.of(table), low, high, level, len(table), num_clusters, times, seed, method)
        by_table.append(of_table)
    return by_table


def resampled(low: float, high: float) -> tuple[float, float, str]:
    """The ends that a bootstrap gives and its name; NaN and the reason where all resamples give the same number."""
    return (math.nan, math.nan, ALIKE) if high - low <= TIE * max(1.0, abs(high)) else (low, high, BOOTSTRAP)


def additive_draws(
    tables: Sequence[PredictionTable], metrics: Sequence[Metric], cluster: np.ndarray, num_resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Every resample's metrics from sums over clusters, name -> [B, tables]."""
    if not metrics:
        return {}
    parts = [[metric.cluster_sums(table, cluster) for metric in metrics] for table in tables]
    ends = np.cumsum([part.shape[1] for part in parts[0]])[:-1]
    draws = {metric.name: np.empty((num_resamples, len(tables))) for metric in metrics}
    for chunk, sums in drawn_sums(np.stack([np.concatenate(part, axis=1) for part in parts], axis=1), num_resamples, seed):
        for metric, part in zip(metrics, np.split(sums, ends, axis=-1), strict=True):
            draws[metric.name][chunk] = metric.value(part)
    return draws


def other_draws(
    tables: Sequence[PredictionTable], metrics: Sequence[Metric], cluster: np.ndarray, num_resamples: int, seed: int
) -> dict[str, np.ndarray]:
    """Every resample's metrics from its examples, name -> [B, tables]."""
    if not metrics:
        return {}
    for metric in metrics:
        if metric.higher_is_better is None:
            raise LabError(f"metric={metric.name!r}: more of it is neither better nor worse, so it has no interval.")
    light = [table.select(*dict.fromkeys(name for metric in metrics for name in metric.needs)) for table in tables]
    draws = {metric.name: np.empty((num_resamples, len(tables))) for metric in metrics}
    for i, rows in enumerate(drawn_rows(cluster, num_resamples, seed)):
        for place, table in enumerate(light):
            resample = table.take(rows)
            for metric in metrics:
                draws[metric.name][i, place] = metric.of(resample)
    return draws
