"""How sure a number is, and whether two runs differ: exact intervals of shares, cluster bootstrap, swap test, McNemar, Holm.

One run: `interval`, `intervals`. Two runs on the same items: `compare`. Several arms: `holm` on their
p-values, or `lab.statistics.verdict.verdicts`, which also weighs the noise floor and writes the sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.errors import DataError, LabError, did_you_mean
from lab.statistics import proportions
from lab.statistics.measures import MEASURES, PROPORTIONS, measure
from lab.statistics.metrics import METRICS
from lab.statistics.resampling import LEAST_RESAMPLES, cluster_sums, clusters, drawn_rows, drawn_sums, enough, quantiles, swap_p_value

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
    None unless the measure is accuracy and there is one seed).
    """

    measure: str
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
    name: str = "accuracy",
    *,
    num_resamples: int = LEAST_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    cluster: np.ndarray | None = None,
) -> Interval:
    """Interval of one metric; see `intervals`."""
    return intervals(table, (name,), num_resamples=num_resamples, level=level, seed=seed, cluster=cluster)[name]


def intervals(
    table: PredictionTable,
    names: Sequence[str] = ("accuracy", "consistency", "ece"),
    *,
    num_resamples: int = LEAST_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    cluster: np.ndarray | None = None,
) -> dict[str, Interval]:
    """Intervals of several metrics at once, over clusters.

    Shares of right and wrong (`PROPORTIONS`) have those of `lab.statistics.proportions`. The others have the percentile bootstrap
    over clusters (Efron 1979; Field and Welsh 2007): metrics of sums (`MEASURES`) cost one matrix product; any other of
    `METRICS` is computed anew for every resample, and its interval is NaN if one leaves it undefined. Binned calibration
    errors are biased upward under resampling: show `ece_debiased` beside.
    """
    for name in names:
        if name not in METRICS:
            raise LabError(f"metric={name!r}: legal are {', '.join(METRICS)}.{did_you_mean(name, METRICS)}")
    enough(num_resamples)
    cluster = clusters(table) if cluster is None else cluster
    fast = [name for name in names if name in MEASURES and name not in PROPORTIONS]
    slow = [name for name in names if name not in MEASURES and name not in PROPORTIONS]
    draws = _fast_draws(table, fast, cluster, num_resamples, seed) | _slow_draws(table, slow, cluster, num_resamples, seed)
    num_clusters = int(cluster.max()) + 1
    made = {}
    for name in names:
        drawn = name not in PROPORTIONS
        if drawn:
            low, high, method = resampled(*quantiles(draws[name], level))
        else:
            low, high = proportions.interval(cluster_sums(PROPORTIONS[name](table), cluster), level)
            method = proportions.METHOD
        size, times = (len(table), num_clusters), num_resamples if drawn else 0
        made[name] = Interval(METRICS[name](table), float(low), float(high), level, *size, times, seed, method)
    return made


def resampled(low: float, high: float) -> tuple[float, float, str]:
    """The ends that a bootstrap gives and its name; NaN and the reason where all resamples give the same number."""
    if high - low <= _TIE * max(1.0, abs(high)):
        return math.nan, math.nan, ALIKE
    return float(low), float(high), BOOTSTRAP


def compare(
    first: PredictionTable,
    second: PredictionTable,
    name: str = "accuracy",
    *,
    num_resamples: int = LEAST_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    num_swaps: int = NUM_SWAPS,
) -> Comparison:
    """Compare two runs on the same items: paired cluster bootstrap of the difference, swap test for its p.

    Both arms are resampled with the same clusters. The primary p is `swap_p_value`; McNemar's is beside
    it for accuracy and ignores clustering.
    """
    pair = paired(first, second, name)
    return compare_paired([pair], num_resamples=num_resamples, level=level, seed=seed, num_swaps=num_swaps)[0]


@dataclass(frozen=True, eq=False)
class Paired:
    """Two runs on the same items, as sums over clusters: all that comparing them takes.

    sums: [C, 2, k]. sizes: examples in each cluster, int [C]. discordant: None unless the measure is accuracy.
    """

    measure: str
    sums: np.ndarray
    sizes: np.ndarray
    num_examples: int
    discordant: tuple[int, int] | None


def paired(first: PredictionTable, second: PredictionTable, name: str = "accuracy") -> Paired:
    """Bring two runs together item by item; refuse other items or other labels."""
    chosen, second = measure(name), aligned(first, second)
    cluster = clusters(first)
    sums = np.stack([cluster_sums(chosen.rows(table), cluster) for table in (first, second)], axis=1)
    return Paired(name, sums, np.bincount(cluster), len(first), _discordant(first, second) if name == "accuracy" else None)


def compare_paired(
    pairs: Sequence[Paired],
    *,
    num_resamples: int = LEAST_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
    num_swaps: int = NUM_SWAPS,
) -> list[Comparison]:
    """Do what `compare` does for many pairs of one measure with equally many clusters, which share resamples and swaps.

    Those depend on the number of clusters and the seed only, so every pair gets what it would get alone.
    """
    if not pairs:
        return []
    name, chosen = pairs[0].measure, measure(pairs[0].measure)
    if any(pair.measure != name or pair.sums.shape != pairs[0].sums.shape for pair in pairs):
        raise LabError("compare_paired: pairs of one measure with equally many clusters share their draws; these differ.")
    sums = np.stack([pair.sums for pair in pairs], axis=2)  # [C, 2, pairs, k]
    low, high, error = paired_interval(sums[:, 0], sums[:, 1], chosen.value, num_resamples, level, seed)
    values = chosen.value(sums.sum(axis=0))
    p_value = swap_p_value(sums[:, 0], sums[:, 1], chosen.value, num_swaps, seed)
    made = []
    for i, pair in enumerate(pairs):
        ends = paired_ends(pair, float(values[0, i] - values[1, i]), float(low[i]), float(high[i]), level)
        made.append(
            Comparison(
                measure=name,
                first=float(values[0, i]),
                second=float(values[1, i]),
                difference=float(values[0, i] - values[1, i]),
                low=ends[0],
                high=ends[1],
                level=level,
                p_value=float(p_value[i]),
                standard_error=float(error[i]),
                num_examples=pair.num_examples,
                num_clusters=len(sums),
                num_seeds=1,
                method=ends[2],
                discordant=pair.discordant,
                mcnemar_p=mcnemar(*pair.discordant) if pair.discordant else None,
            )
        )
    return made


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
    changed = int((first.label != second.label).sum())
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
    """Exact two-sided McNemar test: min(1, 2 P(X <= min(b, c))), X ~ Binomial(b + c, 1/2).

    McNemar (1947); equals `scipy.stats.binomtest(min(b, c), b + c)`. Blind to clustering.
    """
    if only_first < 0 or only_second < 0:
        raise LabError(f"mcnemar: counts {only_first} and {only_second} given; counts are 0 or more.")
    num, least = only_first + only_second, min(only_first, only_second)
    k = np.arange(least)
    log_terms = np.concatenate([[0.0], np.cumsum(np.log(num - k) - np.log(k + 1))]) - num * math.log(2)
    top = log_terms.max()
    return float(min(1.0, 2 * math.exp(top) * np.exp(log_terms - top).sum()))


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


def _fast_draws(
    table: PredictionTable, names: Sequence[str], cluster: np.ndarray, num_resamples: int, seed: int
) -> dict[str, np.ndarray]:
    if not names:
        return {}
    rows = [MEASURES[name].rows(table) for name in names]
    ends = np.cumsum([part.shape[1] for part in rows])[:-1]
    draws = {name: np.empty(num_resamples) for name in names}
    for chunk, sums in drawn_sums(cluster_sums(np.concatenate(rows, axis=1), cluster), num_resamples, seed):
        for name, part in zip(names, np.split(sums, ends, axis=1), strict=True):
            draws[name][chunk] = MEASURES[name].value(part)
    return draws


def _slow_draws(
    table: PredictionTable, names: Sequence[str], cluster: np.ndarray, num_resamples: int, seed: int
) -> dict[str, np.ndarray]:
    if not names:
        return {}
    refused = [name for name in names if name.startswith("num_")]
    if refused:
        raise LabError(f"metric={refused[0]!r}: a count of what was asked has no interval.")
    light = table.select("label", "log_p_true", "log_p_false", "captured_mass", "prediction")
    draws = {name: np.empty(num_resamples) for name in names}
    for i, rows in enumerate(drawn_rows(cluster, num_resamples, seed)):
        resample = light.take(rows)
        for name in names:
            draws[name][i] = METRICS[name](resample)
    return draws


def _discordant(first: PredictionTable, second: PredictionTable) -> tuple[int, int]:
    return int((first.correct & ~second.correct).sum()), int((~first.correct & second.correct).sum())
