"""The smallest difference an evaluation can see: before it is run (assumptions stated) and from its data.

Items carry d_i = correct_A - correct_B in {-1, 0, 1}; its mean is the difference of two accuracies on the
same items. With discordance q = P(d != 0), Var d = q under "no difference", and clusters multiply the
variance of the mean by the design effect

    deff = 1 + (sum m_c^2 / sum m_c - 1) * icc        Kish (1965); Eldridge, Ashby and Kerry (2006)

m_c: examples in cluster c. All differences are shares, not points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.errors import LabError
from lab.statistics.comparing import aligned
from lab.statistics.metrics import KINDS
from lab.statistics.resampling import cluster_sums, clusters

POWER, ALPHA = 0.8, 0.05


@dataclass(frozen=True)
class Resolution:
    """What a comparison could have seen, measured on its own items.

    smallest_detectable: difference found with probability `power` at two-sided `alpha`.
    """

    smallest_detectable: float
    discordance: float
    icc: float
    design_effect: float
    num_examples: int
    num_clusters: int


def smallest_detectable(
    num_examples: int,
    discordance: float,
    *,
    cluster_sizes: Sequence[int] | None = None,
    icc: float = 0.0,
    power: float = POWER,
    alpha: float = ALPHA,
) -> float:
    """Difference of two accuracies found with probability `power`: (t_(1-alpha/2) + t_power) * standard error.

    standard error = sqrt(q deff / n), q the discordance; Connor (1987, Biometrics 43) with the null variance
    on both sides. Without `cluster_sizes`: independent examples.
    The quantiles are Student's with C - 1 degrees of freedom (normal without clusters); Bloom (1995).
    """
    error, freedom = _planned(num_examples, discordance, cluster_sizes, icc)
    return error * (_quantile(1 - alpha / 2, freedom) + _quantile(power, freedom))


def design_effect(cluster_sizes: Sequence[int], icc: float) -> float:
    """1 + (sum m^2 / sum m - 1) * icc: how much clustering multiplies the variance of a mean over examples."""
    sizes = np.asarray(cluster_sizes, dtype=np.float64)
    if not sizes.size or (sizes < 1).any():
        raise LabError("cluster_sizes: every cluster has at least one example.")
    return float(1 + ((sizes**2).sum() / sizes.sum() - 1) * icc)


def intra_cluster_correlation(values: np.ndarray, cluster: np.ndarray) -> float:
    """ANOVA estimate (MSB - MSW) / (MSB + (m0 - 1) MSW), m0 = (n - sum m^2 / n) / (C - 1); Donner (1986).

    0 when the values do not vary, or when no cluster has two examples; it can be negative.
    """
    values = np.asarray(values, dtype=np.float64)
    sums = cluster_sums(np.stack([values, np.ones(len(values))], axis=1), cluster)
    total, size = sums[:, 0], sums[:, 1]
    num, num_clusters = len(values), len(size)
    if num == num_clusters or np.ptp(values) == 0:
        return 0.0
    between = float((total**2 / size).sum() - total.sum() ** 2 / num)
    within = float((values**2).sum() - (total**2 / size).sum())
    m0 = (num - (size**2).sum() / num) / (num_clusters - 1)
    msb, msw = between / (num_clusters - 1), within / (num - num_clusters)
    return float((msb - msw) / (msb + (m0 - 1) * msw))


def cluster_error(values: np.ndarray, cluster: np.ndarray) -> float:
    """Cluster-robust standard error of a mean: sqrt(C/(C-1) sum_c (S_c - m_c mean)^2) / n; Liang and Zeger (1986)."""
    values = np.asarray(values, dtype=np.float64)
    sums = cluster_sums(np.stack([values, np.ones(len(values))], axis=1), cluster)
    rest = sums[:, 0] - sums[:, 1] * values.mean()
    return float(np.sqrt(len(sums) / (len(sums) - 1) * (rest**2).sum()) / len(values))


def resolution(
    first: PredictionTable, second: PredictionTable, *, power: float = POWER, alpha: float = ALPHA
) -> Resolution:
    """Measure, on two runs, what a comparison in the headline metric can see on these items.

    smallest_detectable uses the cluster-robust standard error; design_effect is its square against that
    of independent examples.
    """
    second, cluster, metric = aligned(first, second), clusters(first), KINDS[first.kind].main
    if metric.each is None:
        raise LabError(f"power analysis: {metric.name} is no mean over examples, so what a comparison can see is not known.")
    return resolution_of(metric.each(first).astype(np.float64) - metric.each(second), cluster, power=power, alpha=alpha)


def resolution_of(d: np.ndarray, cluster: np.ndarray, *, power: float = POWER, alpha: float = ALPHA) -> Resolution:
    """The same from the difference of each example and the number of its cluster, two of [n]."""
    error, num_clusters = cluster_error(d, cluster), int(cluster.max()) + 1
    freedom, alone = num_clusters - 1, d.var(ddof=1) / len(d)
    return Resolution(
        smallest_detectable=error * (_quantile(1 - alpha / 2, freedom) + _quantile(power, freedom)),
        discordance=float(np.abs(d).mean()),
        icc=intra_cluster_correlation(d, cluster),
        design_effect=float(error**2 / alone) if alone > 0 else 1.0,
        num_examples=len(d),
        num_clusters=num_clusters,
    )


def _planned(
    num_examples: int,
    discordance: float,
    cluster_sizes: Sequence[int] | None,
    icc: float,
) -> tuple[float, float]:
    """Standard error of the difference under no difference, and the degrees of freedom (inf: normal)."""
    if num_examples < 2 or not 0 < discordance <= 1 or not -1 <= icc <= 1:
        raise LabError(
            f"smallest detectable difference: num_examples={num_examples}, discordance={discordance}, icc={icc} given; "
            "legal: at least 2 examples, discordance in (0, 1], icc in [-1, 1]."
        )
    if cluster_sizes is None:
        return math.sqrt(discordance / num_examples), math.inf
    if sum(cluster_sizes) != num_examples or len(cluster_sizes) < 2:
        raise LabError(
            f"cluster_sizes: {len(cluster_sizes)} that add up to {sum(cluster_sizes)}, num_examples={num_examples}; "
            "legal: two or more that add up to it."
        )
    effect = design_effect(cluster_sizes, icc)
    if effect <= 0:
        raise LabError(f"icc={icc}: too negative for clusters of this size (design effect {effect:.3g}, must be above 0).")
    return math.sqrt(discordance * effect / num_examples), len(cluster_sizes) - 1.0


def _quantile(p: float, freedom: float) -> float:
    """Student's quantile; the normal one for infinite degrees of freedom."""
    from scipy.special import ndtri, stdtrit

    if not 0 < p < 1:
        raise LabError(f"power and 1 - alpha/2 lie between 0 and 1; {p:g} given.")
    return float(ndtri(p) if math.isinf(freedom) else stdtrit(freedom, p))
