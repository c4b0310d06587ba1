"""How sure a number is, and whether two runs differ: exact intervals of shares, cluster bootstrap, swap test, McNemar, Holm.

One run: `interval`; many on the same items: `intervals`. Two runs on the same items: `compare`. Several arms: `holm` on their
p-values, or `lab.statistics.verdict.verdicts`, which also weighs the noise floor and writes the sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.errors import DataError, LabError
from lab.statistics import proportions
from lab.statistics.metrics import KINDS, Metric
from lab.statistics.resampling import LEAST_RESAMPLES, clusters, drawn_rows, drawn_sums, enough, quantiles, swap_p_value

NUM_SWAPS = 9999
LEVEL = 0.95
BOOTSTRAP = "percentile cluster bootstrap"
ALIKE = "every resample gives the same number"
"""Why a bootstrap has no interval."""
_TIE = 1e-12
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


@dataclass(frozen=True)
class Comparison:
    """Two arms on the same items; difference = first - second, in the metric's own unit (shares, not points).

    low, high: infinite where there is no interval, and `method` says why. p_value: two-sided, for "the arms do not
    differ". discordant: examples only the first, only the second got right; mcnemar_p: exact, blind to clustering (both
    None unless the metric is the headline, a share of right answers, and there is one seed).
    """

    metric: Metric
    first: float
    second: float
    difference: float
    low: float
    high: float
    level: float
    p_value: float
    standard_error: float
    num_examples: int
    num_clusters: int
    num_seeds: int
    method: str
    discordant: tuple[int, int] | None = None
    mcnemar_p: float | None = None

    @property
    def has_interval(self) -> bool:
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

    Shares of right and wrong have those of `lab.statistics.proportions`. The others have the percentile bootstrap over clusters
    (Efron 1979; Field and Welsh 2007): additive metrics cost one matrix product; any other is computed anew for every resample,
    and its interval is NaN if one leaves it undefined. Binned calibration errors are biased upward under resampling: show
    `ece_debiased` beside.
    """
    metrics = [KINDS[tables[0].kind].metric(name) for name in names]
    enough(num_resamples)
    cluster = clusters(tables[0]) if cluster is None else cluster
    drawn = [metric for metric in metrics if not metric.exact]
    draws = _additive_draws(tables, [metric for metric in drawn if metric.additive], cluster, num_resamples, seed)
    draws |= _other_draws(tables, [metric for metric in drawn if not metric.additive], cluster, num_resamples, seed)
    ends = {name: quantiles(values, level) for name, values in draws.items()}
    for metric in metrics:
        if metric.exact:
            ends[metric.name] = proportions.interval(np.stack([metric.cluster_sums(t, cluster) for t in tables], axis=1), level)
    num_clusters, by_table = int(cluster.max()) + 1, []
    for i, table in enumerate(tables):
        of_table = {}
        for metric in metrics:
            low, high, method = float(ends[metric.name][0][i]), float(ends[metric.name][1][i]), proportions.METHOD
            if not metric.exact:
                low, high, method = resampled(low, high)
            times = 0 if metric.exact else num_resamples
            of_table[metric.name] = Interval(metric.of(table), low, high, level, len(table), num_clusters, times, seed, method)
        by_table.append(of_table)
    return by_table


def resampled(low: float, high: float) -> tuple[float, float, str]:
    """The ends that a bootstrap gives and its name; NaN and the reason where all resamples give the same number."""
    return (math.nan, math.nan, ALIKE) if high - low <= _TIE * max(1.0, abs(high)) else (low, high, BOOTSTRAP)


def compare(
    first: PredictionTable,
    second: PredictionTable,
    name: str | None = None,
    *,
    num_resamples: int = LEAST_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    num_swaps: int = NUM_SWAPS,
) -> Comparison:
    """Compare two runs on the same items in one metric, the headline unless named: paired cluster bootstrap, swap test for its p.

    Both arms are resampled with the same clusters. The primary p is `swap_p_value`; McNemar's is beside
    it for the headline and ignores clustering.
    """
    pair = paired(first, second, name)
    return compare_paired([pair], num_resamples=num_resamples, level=level, seed=seed, num_swaps=num_swaps)[0]


@dataclass(frozen=True, eq=False)
class Paired:
    """Two runs on the same items, as sums over clusters: all that comparing them takes.

    sums: [C, 2, k]. sizes: examples in each cluster, int [C]. discordant: see `Comparison`.
    """

    metric: Metric
    sums: np.ndarray
    sizes: np.ndarray
    num_examples: int
    discordant: tuple[int, int] | None


def paired(first: PredictionTable, second: PredictionTable, name: str | None = None) -> Paired:
    """Bring two runs together item by item; refuse other items or other labels."""
    kind, second = KINDS[first.kind], aligned(first, second)
    metric, cluster = kind.metric(name), clusters(first)
    sums = np.stack([metric.cluster_sums(table, cluster) for table in (first, second)], axis=1)
    discordant = None
    if metric is kind.main and metric.exact and metric.each:
        one, other = metric.each(first), metric.each(second)
        discordant = int((one & ~other).sum()), int((~one & other).sum())
    return Paired(metric, sums, np.bincount(cluster), len(first), discordant)


def compare_paired(
    pairs: Sequence[Paired],
    *,
    num_resamples: int = LEAST_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    num_swaps: int = NUM_SWAPS,
) -> list[Comparison]:
    """Do what `compare` does for many pairs of one metric with equally many clusters, which share resamples and swaps.

    Those depend on the number of clusters and the seed only, so every pair gets what it would get alone.
    """
    if not pairs:
        return []
    metric = pairs[0].metric
    if any(pair.metric is not metric or pair.sums.shape != pairs[0].sums.shape for pair in pairs):
        raise LabError("compare_paired: pairs of one metric with equally many clusters share their draws; these differ.")
    sums = np.stack([pair.sums for pair in pairs], axis=2)  # [C, 2, pairs, k]
    lows, highs, errors = paired_interval(sums[:, 0], sums[:, 1], metric.value, num_resamples, level, seed)
    values = metric.value(sums.sum(axis=0))
    p_values = swap_p_value(sums[:, 0], sums[:, 1], metric.value, num_swaps, seed)
    comparisons = []
    for i, pair in enumerate(pairs):
        first, second = float(values[0, i]), float(values[1, i])
        difference = float(values[0, i] - values[1, i])
        low, high, method = paired_ends(pair, difference, float(lows[i]), float(highs[i]), level)
        exact_p = mcnemar(*pair.discordant) if pair.discordant else None
        comparisons.append(
            Comparison(
                metric, first, second, difference, low, high, level, float(p_values[i]), float(errors[i]), pair.num_examples,
                len(sums), 1, method, pair.discordant, exact_p,
            )  # fmt: skip
        )
    return comparisons


def paired_ends(pair: Paired, difference: float, low: float, high: float, level: float) -> tuple[float, float, str]:
    """The interval of a difference and how it was made: the bootstrap's, unless all its resamples are alike.

    Two arms right on the same examples, or one right and the other wrong on all, show the same d = +1, 0 or -1 everywhere.
    Examples with another d may still exist; their share has the bound b of `proportions.upper_bound`, so that the mean of d
    lies from d - b (1 + d) to d + b (1 - d). Any other case has no interval.
    """
    if high - low > _TIE * max(1.0, abs(high)):
        return low, high, "paired cluster bootstrap, swap test over clusters"
    if pair.discordant is None or sorted(pair.discordant) not in ([0, 0], [0, pair.num_examples]):
        return -math.inf, math.inf, f"no interval: {ALIKE}"
    none = np.stack([np.zeros(len(pair.sizes)), pair.sizes], axis=1)
    bound = proportions.upper_bound(float(proportions.effective_size(none, level)), level)
    return difference - bound * (1 + difference), difference + bound * (1 - difference), "bound on what was not seen"


def paired_interval(
    sums_a: np.ndarray,
    sums_b: np.ndarray,
    value: Callable[[np.ndarray], np.ndarray],
    num_resamples: int,
    level: float,
    seed: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Percentile interval and standard error of value(A) - value(B), [C, ..., k] -> three of [...]."""
    draws = np.empty((num_resamples, *sums_a.shape[1:-1]))
    for chunk, sums in drawn_sums(np.stack([sums_a, sums_b], axis=1), num_resamples, seed):
        draws[chunk] = value(sums[:, 0]) - value(sums[:, 1])
    low, high = quantiles(draws, level)
    side_by_side = np.ascontiguousarray(np.moveaxis(draws, 0, -1))  # so each is added up in the order of one alone
    return low, high, side_by_side.std(axis=-1, ddof=1)


def aligned(first: PredictionTable, second: PredictionTable) -> PredictionTable:
    """Bring the second table into the first one's order; refuse other items or other labels."""
    if not np.array_equal(first.sample_id, second.sample_id):
        second = _reordered(first, second)
    truth = KINDS[first.kind].truth
    changed = int((getattr(first, truth) != getattr(second, truth)).sum())
    if changed:
        raise DataError(
            f"compare: {changed} of {len(first)} samples have another label in the second table; the data changed "
            "between the runs: evaluate both again."
        )
    return second


def _reordered(first: PredictionTable, second: PredictionTable) -> PredictionTable:
    here, place = np.unique(first.sample_id, return_inverse=True)
    order = np.argsort(second.sample_id, kind="stable")
    there = second.sample_id[order]
    if not np.array_equal(here, there):
        only_first, only_second = np.setdiff1d(here, there), np.setdiff1d(there, here)
        raise DataError(
            f"compare: {len(only_first)} samples only in the first table and {len(only_second)} only in the second, "
            f"{len(here) - len(only_first)} in both; a paired comparison needs the same items: "
            "evaluate both runs on one split."
        )
    return second.take(order[place])


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided McNemar test: min(1, 2 P(X <= min(b, c))), X ~ Binomial(b + c, 1/2); McNemar (1947). Blind to clustering."""
    from scipy.special import bdtr

    if only_first < 0 or only_second < 0:
        raise LabError(f"mcnemar: counts {only_first} and {only_second} given; counts are 0 or more.")
    return float(min(1.0, 2 * bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Step-down adjusted p-values, in the order given: max over j <= i of (m - j + 1) p_(j), at most 1. Holm (1979)."""
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise LabError(f"holm: {p_values} given; p-values are numbers from 0 to 1, one per comparison.")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def _additive_draws(
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


def _other_draws(
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
