"""Which arms of a race may stop at a rung: those outside the set of arms that may be the best there.

Arm a is out where "a leads every other running arm" is rejected. At a rung that is true of at most one arm, so that no correction
over arms is needed, and over rungs alpha is shared (alpha / number of rungs), which holds under any dependence. With y of every
question (right or wrong; the watched score), eps the lead that matters and m_c the questions of cluster c,

    D[L,c] = sum over i in c of (y[L,i] - y[a,i]) + eps m_c,    W_a = max over L of sum_c D[L,c] / sqrt(sum_c D[L,c]^2)

and p_a = (1 + #{W* >= W_a}) / (1 + swaps), W* with one random sign a cluster and swap, shared by all pairs: a max-T test
(Westfall and Young 1993) over swapped clusters. An arm stops if it is out by both y and is behind the pace. The claim is about arms
as they are at the rung and asymptotic in clusters; it says nothing of how they would end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lab.errors import LabError
from lab.statistics.resampling import cluster_sums, swaps

NUM_SWAPS = 9999
LEAST_CLUSTERS, FEW_CLUSTERS = 20, 50
"""Below the first a race is refused, below the second it is warned of."""
LEAST_ARMS = 3
_TIE = 1e-9
"""Statistics nearer than this are sums of the same numbers in another order."""


@dataclass(frozen=True)
class Rule:
    """How a race decides.

    alpha: probability, over all rungs, of stopping an arm that leads all others by more than `indifference`, a share of right
    answers. pace: by rung, the share of the arms at the start of which none is stopped while it is among the first. kept: by rung,
    the number of arms that go on by rank alone (`kept_in_budget`), a heuristic without an error rate; None: the test decides.
    """

    alpha: float = 0.05
    indifference: float = 0.01
    pace: tuple[float, ...] = (0.6, 0.2)
    kept: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Decision:
    """Of the running arms, in their order, all [A]: p-values of "it leads all others", whether it is out by each, and stops."""

    p_accuracy: np.ndarray
    p_score: np.ndarray
    out_by_accuracy: np.ndarray
    out_by_score: np.ndarray
    stops: np.ndarray


def decide(
    right: np.ndarray, score: np.ndarray, cluster: np.ndarray, *, rung: int, num_arms: int, rule: Rule, seed: int = 0,
    num_swaps: int = NUM_SWAPS,
) -> Decision:
    """Decide a rung. right, score (larger is better): [A, n] of the running arms; cluster: int [n]; rung: from 0.

    num_arms: arms at the start of the race. Nothing depends on the order of arms or questions. Raises `LabError` for fewer than
    `LEAST_CLUSTERS` clusters, a race of fewer than `LEAST_ARMS` arms, and numbers that are none.
    """  # fmt: skip
    right, score = np.asarray(right, dtype=np.float64), np.asarray(score, dtype=np.float64)
    if right.shape != score.shape or right.ndim != 2 or right.shape[1:] != np.shape(cluster) or num_arms < len(right):
        raise LabError(
            f"race: right {right.shape}, score {score.shape}, cluster {np.shape(cluster)}, {num_arms} arms at the start; legal: [A, n], "
            "[A, n] and [n], at least A arms at the start."
        )
    if not (np.isfinite(right).all() and np.isfinite(score).all()):
        raise LabError("race: a score of a running arm is no finite number, so that arms cannot be compared.")
    require_arms(num_arms)
    require_clusters(len(np.unique(cluster)))
    level, size = rule.alpha / len(rule.pace), np.bincount(cluster).astype(np.float64)
    sums = np.stack([cluster_sums(values.T, cluster) for values in (right, score)])
    p_accuracy, p_score = p_values(sums, np.stack([rule.indifference * size, 0.0 * size]), num_swaps, seed)
    out_by_accuracy, out_by_score = p_accuracy <= level, p_score <= level
    accuracy = right.mean(axis=1)
    if rule.kept is not None:
        stops = num_ahead(accuracy, score.mean(axis=1)) >= rule.kept[rung]
    else:
        stops = out_by_accuracy & out_by_score & (num_ahead(accuracy) >= math.ceil(rule.pace[rung] * num_arms - _TIE))
    return Decision(p_accuracy, p_score, out_by_accuracy, out_by_score, stops)


def p_values(sums: np.ndarray, lead: np.ndarray, num_swaps: int, seed: int) -> np.ndarray:
    """p of "arm a leads every other arm by `lead` or more", of every arm and of several y, which share their swaps; see the module.

    sums: of the questions of a cluster, float [Y, C, A]; lead: [Y, C]; returns [Y, A].
    """
    num_y, num_clusters, num_arms = sums.shape
    gaps = sums[..., :, None] - sums[..., None, :] + lead[:, :, None, None]  # [Y, C, L, a]
    norm = np.sqrt((gaps**2).sum(axis=1))
    scale = np.divide(1.0, norm, out=np.zeros_like(norm), where=norm > _TIE)
    seen = np.where(np.eye(num_arms, dtype=bool), -np.inf, gaps.sum(axis=1) * scale).max(axis=1)
    rows = np.concatenate([sums, lead[:, :, None]], axis=2).transpose(0, 2, 1).reshape(-1, num_clusters)
    count, total = np.zeros((num_y, num_arms), dtype=np.int64), 0
    for signs in swaps(num_clusters, num_arms, num_swaps, seed):
        swapped = (rows @ signs.T).reshape(num_y, num_arms + 1, len(signs))
        leading = swapped[:, :-1] + swapped[:, -1:]
        for y, a in np.ndindex(num_y, num_arms):
            peaks = (leading[y] - swapped[y, a]) * scale[y, :, a, None]  # [L, swaps]
            peaks[a] = -np.inf
            count[y, a] += np.count_nonzero(peaks.max(axis=0) >= seen[y, a] - _TIE)
        total += len(signs)
    return (1 + count) / (1 + total)


def num_ahead(*keys: np.ndarray) -> np.ndarray:
    """How many arms are ahead of each by the first key, or by the next where the first is equal, int [A]; ties are not ahead."""
    ahead, equal = np.zeros((len(keys[0]),) * 2, dtype=bool), np.ones((len(keys[0]),) * 2, dtype=bool)
    for key in keys:
        ahead |= equal & (key[:, None] > key[None, :] + _TIE)
        equal &= np.abs(key[:, None] - key[None, :]) <= _TIE
    return ahead.sum(axis=0)


def kept_in_budget(budget: float, rungs: Sequence[float], num_arms: int) -> tuple[int, ...]:
    """Arms that go on after each rung by rank alone, so that at most `budget` of the steps of all arms are taken.

    Of the arms that reach a rung one share goes on, the largest that keeps to the budget, and at least one arm.
    Raises `LabError` for a budget that not even one arm's end fits into.
    """
    lengths = np.diff([*rungs, 1.0])

    def kept(share: float) -> np.ndarray:
        return np.maximum(1, np.floor(share ** np.arange(1, len(rungs) + 1) * num_arms + _TIE))

    shares = np.linspace(1.0, 0.0, 10_001)
    for share in shares:
        if rungs[0] + kept(share) @ lengths / num_arms <= budget + _TIE:
            return tuple(map(int, kept(share)))
    least = rungs[0] + lengths.sum() / num_arms
    raise LabError(f"race.budget={budget}: {num_arms} arms up to the first rung and one to the end take {least:.3g} of all steps; give more.")


def require_arms(number: int) -> None:
    """Raise a `LabError` for fewer arms than a race needs."""
    if number < LEAST_ARMS:
        raise LabError(f"sweep.race: {number} arms; a race needs {LEAST_ARMS} or more. Add arms, or leave it out with sweep.race=null.")


def require_clusters(number: int) -> None:
    """Raise a `LabError` for fewer clusters than the test needs."""
    if number < LEAST_CLUSTERS:
        raise LabError(
            f"sweep.race: minival has {number} clusters of questions that share images or sentences, and the test needs {LEAST_CLUSTERS} "
            "or more. Ask more with data.num_minival, or leave it out with sweep.race=null."
        )
