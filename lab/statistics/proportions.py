"""Intervals of shares of right and wrong: exact for independent examples, with an effective sample size for clusters.

Resampling says nothing where all examples are alike: 20 of 20 right are 20 of 20 right in every resample. Here the interval is
the mid-P one (Lancaster 1961; Berry and Armitage 1995, The Statistician 44): the shares p with

    alpha/2 <= P(X > x | p) + P(X = x | p) / 2 <= 1 - alpha/2,    X ~ Binomial(n, p)

Clusters shrink n to n / deff * (t_(n-1) / t_(C'-1))^2 (Korn and Graubard 1998, Survey Methodology 24), with deff =
1 + (m - 1) icc (Kish 1965), m = sum m_c^2 / sum m_c the size of the cluster an example meets, C' = n / m. Shares near 0 and
1 tell little of the correlation within a cluster, and all right tells nothing; so one more cluster of size m is imagined,
where a single toss of a fair coin decides all answers. All right in C equal clusters thus counts as about C examples, and
where every example is a cluster of its own, n stays n.

Coverage by exact sums of 95 % intervals: at least 93 % at n = 20, 100 and 1,000 and p = 0.5, 0.9, 0.99 and 1 - 1/n, at most
97 % where n (1 - p) >= 10. Wilson's falls to 91.98 % there, Agresti and Coull's rises to 97.16 %, Clopper and Pearson's to
97.61 %; Jeffreys' stays inside, but falls to 88 % between these cells where mid-P's falls to 92 %.
"""

from __future__ import annotations

import math

import numpy as np

from lab.errors import LabError

METHOD = "mid-P with the effective sample size"
_HALVINGS = 60
"""Steps of a bisection of [0, 1]: to the last bit of a double."""


def limits(right: np.ndarray, size: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the mid-P interval of `right` of `size`, arrays of one shape; neither need be a whole number."""
    if not 0 < level < 1:
        raise LabError(f"level={level}: a confidence level lies between 0 and 1, such as 0.95.")
    right, size = np.broadcast_arrays(np.asarray(right, dtype=np.float64), np.asarray(size, dtype=np.float64))
    low = np.where(right <= 0, 0.0, _share_with_tail(right, size, (1 - level) / 2))
    high = np.where(right >= size, 1.0, _share_with_tail(right, size, (1 + level) / 2))
    return low, high


def upper_bound(size: float, level: float) -> float:
    """Largest share that none of `size` examples leaves possible: 1 - (1 - level)^(1 / size), one-sided.

    About 3 / size at 95 %, the rule of three; Hanley and Lippman-Hand (1983, JAMA 249). The end of the two-sided mid-P interval
    of none of `size` is this number.
    """
    return -math.expm1(math.log1p(-level) / size)


def effective_size(sums: np.ndarray, level: float) -> np.ndarray:
    """How many independent examples tell as much of a share: [C, ..., 2] -> [...], at most the number of examples.

    sums: of every cluster (right, examples); two clusters at least, or nothing can be said of what they have in common.
    """
    from scipy.special import stdtrit

    right, size = sums[..., 0].astype(np.float64), sums[..., 1].astype(np.float64)
    number, examples = (size > 0).sum(axis=0), size.sum(axis=0)
    share = right.sum(axis=0) / examples
    met = (size**2).sum(axis=0) / examples
    single = examples * share * (1 - share)
    between = ((right - size * share) ** 2).sum(axis=0) * number / (number - 1) * (examples - 1) / examples
    imagined = met / 4
    deff = np.maximum(1.0, (between + imagined * met) / (single + imagined))
    tail = (1 + level) / 2
    narrower = stdtrit(examples - 1, tail) / stdtrit(np.maximum(examples / met - 1, 1.0), tail)
    return examples / deff * np.minimum(1.0, narrower) ** 2


def interval(sums: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Both ends of the interval of a share from sums of clusters, (right, examples): [C, ..., 2] -> two of [...]."""
    size = effective_size(sums, level)
    whole = sums.sum(axis=0)
    return limits(size * (whole[..., 0] / whole[..., 1]), size, level)


def _share_with_tail(right: np.ndarray, size: np.ndarray, tail: float) -> np.ndarray:
    """The p at which P(X > right) + P(X = right) / 2 = tail, by bisection; it grows with p."""
    low, high = np.zeros(right.shape), np.ones(right.shape)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = _mid_tail(middle, right, size) < tail
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


def _mid_tail(p: np.ndarray, right: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(P(X >= right) + P(X >= right + 1)) / 2, both by the incomplete beta function, which needs no whole numbers."""
    from scipy.special import betainc

    wrong = np.maximum(size - right, 0.0)
    with np.errstate(invalid="ignore"):  # a shape of 0 where the answer is known
        at_least = np.where(right > 0, betainc(np.maximum(right, 0.0), wrong + 1, p), 1.0)
        more = np.where(wrong > 0, betainc(right + 1, wrong, p), 0.0)
    return (at_least + more) / 2
