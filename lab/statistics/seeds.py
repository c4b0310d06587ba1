"""Training seeds: how far two runs that differ in nothing else lie apart, and comparing arms across seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.errors import LabError
from lab.statistics.comparing import Comparison, aligned, compare
from lab.statistics.intervals import LEVEL
from lab.statistics.metrics import KINDS, Metric
from lab.statistics.resampling import LEAST_RESAMPLES, clusters, drawn_sums
from lab.statistics.reweighting import weighted_draws

FEWEST = 3
"""Least number of seeds behind an interval over seeds."""
NO_INTERVAL = "two seeds carry no interval; run at least three"
ALIKE = "no interval: the difference is the same for every seed and cluster"


@dataclass(frozen=True)
class NoiseFloor:
    """How far apart two runs that differ in the seed only may lie.

    sd: standard deviation of one run over seeds, pooled over the arms that were repeated;
    freedom: its degrees of freedom, sum over arms of (repeats - 1).
    """

    sd: float
    freedom: int
    level: float

    def bound(self, num_seeds: int = 1) -> float:
        """t_((1+level)/2, freedom) * sd * sqrt(2 / num_seeds), for two means over `num_seeds` seeds each."""
        from scipy.special import stdtrit

        if num_seeds < 1:
            raise LabError(f"num_seeds={num_seeds}: an arm has at least one seed.")
        return float(stdtrit(self.freedom, (1 + self.level) / 2) * self.sd * math.sqrt(2 / num_seeds))


def noise_floor(replicates: Sequence[Sequence[float]], level: float = LEVEL) -> NoiseFloor:
    """Pool A/A replicates: one inner sequence per arm, its metric under each seed.

    sd^2 = sum_arms sum_seeds (x - arm mean)^2 / sum_arms (seeds - 1). The items are the same in every
    replicate, so this is the noise of training, not of sampling questions. With few replicates the
    t quantile makes the bound wide on purpose: one pair has 1 degree of freedom and t = 12.7.
    """
    arms = [np.asarray(arm, dtype=np.float64) for arm in replicates]
    freedom = sum(max(len(arm) - 1, 0) for arm in arms)
    if freedom < 1:
        raise LabError("noise floor: no arm was run with two seeds; repeat at least one arm with another seed.")
    if not 0 < level < 1 or any(not np.isfinite(arm).all() for arm in arms):
        raise LabError("noise floor: values must be finite and the level between 0 and 1.")
    squares = sum(float(((arm - arm.mean()) ** 2).sum()) for arm in arms if len(arm))
    return NoiseFloor(math.sqrt(squares / freedom), freedom, level)


def compare_seeds(
    first: Sequence[PredictionTable],
    second: Sequence[PredictionTable],
    name: str | None = None,
    *,
    num_resamples: int = LEAST_RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """Compare two arms in one metric, each run with the same seeds in the same order, with seeds and items both random.

    d_s is the difference under seed s; seeds and clusters are crossed, so

        Var(mean d) = seed / S + cluster / C + interaction / (S C)
        V_items       bootstrap variance of mean_s d_s over clusters      -> cluster / C + interaction / (S C)
        V_seeds       sample variance of d_s / S                          -> seed / S + interaction / (S C)
        V_interaction sum_s bootstrap variance of (d_s - mean d) / (S (S - 1))  -> interaction / (S C)
        V = V_items + max(0, V_seeds - V_interaction)

    (method of moments for crossed random effects; Searle, Casella and McCulloch 1992). Interval and
    p from Student's t with Satterthwaite's (1946) degrees of freedom. Simulated coverage of the 95 %
    interval: 93 to 99 % with three seeds or more. Two carry none: one degree of freedom makes it 13 standard
    errors wide, and where seeds move a run more than items do it still covers in 88 % only. They give
    low = -inf, high = inf and p = 1, and so does a difference that no seed and no cluster changes. One seed: `compare`.
    """
    num_seeds = len(first)
    if num_seeds != len(second) or not num_seeds:
        raise LabError(f"compare_seeds: {len(first)} and {len(second)} runs given; pair them seed by seed.")
    if num_seeds == 1:
        return compare(first[0], second[0], name, num_resamples=num_resamples, level=level, seed=seed)
    metric, cluster = KINDS[first[0].kind].metric(name), clusters(first[0])
    arms = [[aligned(first[0], table) for table in arm] for arm in (first, second)]
    if metric.weighted:
        weighted, once = [metric.weighted(table) for arm in arms for table in arm], np.ones((1, len(first[0])))
        values = np.array([value(once)[0] for value in weighted]).reshape(2, num_seeds)
        draws = weighted_draws(weighted, cluster, num_resamples, seed).reshape(-1, 2, num_seeds)
        return over_seeds(metric, values, draws[:, 0] - draws[:, 1], len(first[0]), int(cluster.max()) + 1, level)
    sums = np.stack([[metric.cluster_sums(table, cluster) for table in arm] for arm in arms])
    sums = np.moveaxis(sums, 2, 0)  # [C, 2, S, k]
    return crossed(sums, metric, len(first[0]), num_resamples=num_resamples, level=level, seed=seed)


def crossed(
    sums: np.ndarray, metric: Metric, num_examples: int, *, num_resamples: int, level: float, seed: int
) -> Comparison:
    """Do what `compare_seeds` says from the sums of each cluster, arm and seed, [C, 2, S, k]."""
    draws = np.empty((num_resamples, sums.shape[2]))
    for chunk, drawn in drawn_sums(sums, num_resamples, seed):  # the same draws for every arm and seed
        values = metric.value(drawn)
        draws[chunk] = values[:, 0] - values[:, 1]
    return over_seeds(metric, metric.value(sums.sum(axis=0)), draws, num_examples, len(sums), level)


def over_seeds(metric: Metric, values: np.ndarray, draws: np.ndarray, num_examples: int, num_clusters: int, level: float) -> Comparison:
    """The same from each arm's numbers by seed, [2, S], and the differences of the resamples, [B, S]."""
    from scipy.special import stdtr, stdtrit

    by_seed = values[0] - values[1]
    num_seeds, difference = len(by_seed), float(by_seed.mean())
    items, interaction = _item_variances(draws)
    seeds = float(by_seed.var(ddof=1)) / num_seeds
    variance = items + max(0.0, seeds - interaction)
    error = math.sqrt(variance)
    method = "seeds and clusters crossed, t with {:.1f} degrees of freedom"
    if num_seeds < FEWEST:
        freedom, reach, p_value, method = math.nan, math.inf, 1.0, NO_INTERVAL
    elif error > 0:
        freedom = variance**2 / (items**2 / (num_clusters - 1) + seeds**2 / (num_seeds - 1))
        reach = float(stdtrit(freedom, (1 + level) / 2)) * error
        p_value = 2 * float(stdtr(freedom, -abs(difference) / error))
    else:
        freedom, reach, p_value, method = math.inf, math.inf, 1.0, ALIKE
    first, second = float(values[0].mean()), float(values[1].mean())
    return Comparison(
        metric, first, second, difference, difference - reach, difference + reach, level, p_value, error, num_examples, num_clusters,
        num_seeds, method.format(freedom),
    )  # fmt: skip


def _item_variances(draws: np.ndarray) -> tuple[float, float]:
    """V_items and V_interaction of the differences of resamples, [B, S]."""
    num_seeds = draws.shape[1]
    mean = draws.mean(axis=1)
    rest = draws - mean[:, None]
    interaction = rest.var(axis=0, ddof=1).sum() / (num_seeds * (num_seeds - 1))
    return float(mean.var(ddof=1)), float(interaction)
