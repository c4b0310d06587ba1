"""Whether two runs on the same items differ: paired cluster bootstrap, swap test, McNemar, Holm.

Two runs: `compare`. Several arms: `holm` on their p-values, or `lab.statistics.verdict.verdicts`, which also weighs the noise floor
and writes the sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.errors import DataError, LabError
from lab.statistics import proportions
from lab.statistics.intervals import ALIKE, LEVEL, TIE
from lab.statistics.metrics import KINDS, Metric
from lab.statistics.resampling import LEAST_RESAMPLES, clusters, drawn_sums, quantiles, swap_p_value
from lab.statistics.reweighting import weighted_draws, weighted_swap_p_value

NUM_SWAPS = 9999
NUM_WEIGHTED_SWAPS = 1999
"""Of a metric that is accumulated anew for each."""


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
    metric = KINDS[first.kind].metric(name)
    if metric.weighted:
        return compare_weighted(metric, first, aligned(first, second), num_resamples=num_resamples, level=level, seed=seed)
    pair = paired(first, second, name)
    return compare_paired([pair], num_resamples=num_resamples, level=level, seed=seed, num_swaps=num_swaps)[0]


def compare_weighted(
    metric: Metric, first: PredictionTable, second: PredictionTable, *, num_resamples: int, level: float, seed: int
) -> Comparison:
    """The same in a metric that is no sum over examples, from tables in one order."""
    assert metric.weighted is not None
    cluster, once = clusters(first), np.ones((1, len(first)))
    one, other = metric.weighted(first), metric.weighted(second)
    draws = -np.diff(weighted_draws([one, other], cluster, num_resamples, seed), axis=1)[:, 0]
    low, high = (float(end) for end in quantiles(draws, level))
    p_value = weighted_swap_p_value(metric.weighted(first.followed_by(second)), cluster, NUM_WEIGHTED_SWAPS, seed)
    values, method = (float(one(once)[0]), float(other(once)[0])), "paired cluster bootstrap, swap test over clusters"
    if not high - low > TIE * max(1.0, abs(high)):  # true for NaN as well
        low, high, method = -math.inf, math.inf, f"no interval: {ALIKE}"
    return Comparison(
        metric, *values, values[0] - values[1], low, high, level, p_value, float(draws.std(ddof=1)), len(first), int(cluster.max()) + 1, 1, method
    )


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
    if high - low > TIE * max(1.0, abs(high)):
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
