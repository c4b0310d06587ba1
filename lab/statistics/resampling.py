"""Clusters, and the two ways to shake them: drawing them again (intervals) and swapping arms (p-values).

Examples that share an image or a sentence are not independent: NLVR2 dev asks 6,982 questions of 1,054
image sets. Whatever is resampled here is a whole cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.errors import LabError
from lab.records import Sample

LEAST_RESAMPLES = 2000
_CELLS = 1_000_000  # numbers held at once by a chunk of resamples (8 MB)
_EXACT = 13  # up to this many clusters all 2^C swaps are counted instead of a sample of them


def clusters(table: PredictionTable) -> np.ndarray:
    """Number the clusters, int [n]: examples that share an image set or a sentence group are in one.

    In NLVR and NLVR2 a sentence stays inside its image set, so these are the image sets; where sentences
    cross image sets (`data=pairs`: every sentence is asked of several pairs) they are the connected blocks.
    """
    return clusters_of(table.image_set, table.question_group)


def clusters_of(image_set: np.ndarray, question_group: np.ndarray) -> np.ndarray:
    """The same from the two columns."""
    _, image = np.unique(image_set, return_inverse=True)
    _, group = np.unique(question_group, return_inverse=True)
    num_images, num_groups = int(image.max()) + 1, int(group.max()) + 1
    if len(np.unique(group * num_images + image)) == num_groups:  # every sentence group inside one image set
        return image
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    size = num_images + num_groups
    edges = coo_array((np.ones(len(image)), (image, num_images + group)), shape=(size, size))
    _, component = connected_components(edges, directed=False)
    return np.unique(component[image], return_inverse=True)[1]


def clusters_of_samples(samples: Sequence[Sample]) -> np.ndarray:
    """The same of samples that nobody has answered yet."""
    return clusters_of(np.array([one.image_set for one in samples]), np.array([one.question_group for one in samples]))


def cluster_sums(rows: np.ndarray, cluster: np.ndarray) -> np.ndarray:
    """Sum the rows of each cluster, [n, ...] -> [C, ...]."""
    num_clusters = int(cluster.max()) + 1
    if num_clusters < 2:
        raise LabError(
            f"clusters: all {len(cluster)} examples hang together in one cluster, so nothing can be resampled; "
            "give more of them. They hang together where they share an image set or a question group."
        )
    order = np.argsort(cluster, kind="stable")
    starts = np.searchsorted(cluster[order], np.arange(num_clusters))
    return np.add.reduceat(rows[order], starts, axis=0)


def drawn_sums(sums: np.ndarray, num_resamples: int, seed: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Draw C clusters with replacement, B times, and sum them: chunks (which resamples, [b, ...]).

    sums: [C, ...]. The draws depend on C, B and seed only, so two arms with one seed are resampled alike.
    """
    num_clusters = len(sums)
    flat = np.ascontiguousarray(sums.reshape(num_clusters, -1), dtype=np.float64)
    width, live = flat.shape[1], flat.any(axis=0)
    flat = flat[:, live]  # a column of zeros, such as a bin that holds nothing, sums to zero without being multiplied
    for chunk, counts in drawn_counts(num_clusters, num_resamples, seed, width):
        made = np.zeros((len(counts), width))
        made[:, live] = counts @ flat
        yield chunk, made.reshape(len(counts), *sums.shape[1:])


def drawn_counts(num_clusters: int, num_resamples: int, seed: int, width: int) -> Iterator[tuple[slice, np.ndarray]]:
    """How often each cluster is in each of those resamples: chunks (which resamples, float64 [b, C]).

    width: numbers that the caller makes of a resample, which sizes the chunks.
    """
    enough(num_resamples)
    generator = np.random.default_rng([seed, num_clusters])
    step = _step(num_clusters, width)
    for start in range(0, num_resamples, step):
        rows = min(step, num_resamples - start)
        drawn = generator.integers(num_clusters, size=(rows, num_clusters))
        drawn += np.arange(rows)[:, None] * num_clusters
        counts = np.bincount(drawn.ravel(), minlength=rows * num_clusters).reshape(rows, num_clusters)
        yield slice(start, start + rows), counts.astype(np.float64)


def drawn_rows(cluster: np.ndarray, num_resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Draw clusters with replacement and give the example indices of each resample, for any statistic at all."""
    enough(num_resamples)
    size = cluster_sums(np.ones(len(cluster)), cluster).astype(np.int64)
    order, start = np.argsort(cluster, kind="stable"), np.cumsum(size) - size
    generator = np.random.default_rng([seed, len(size)])
    for _ in range(num_resamples):
        drawn = generator.integers(len(size), size=len(size))
        ends = np.cumsum(size[drawn])
        offset = np.repeat(start[drawn] - ends + size[drawn], size[drawn])
        yield order[offset + np.arange(ends[-1])]


def swap_p_value(
    sums_a: np.ndarray, sums_b: np.ndarray, value: Callable[[np.ndarray], np.ndarray], num_swaps: int, seed: int
) -> np.ndarray:
    """Two-sided p of |value(A) - value(B)| under swapping the two arms in random clusters.

    sums_a, sums_b: [C, ..., k]; value: [..., k] -> [...]; returns [...]. p = (1 + #{|d*| >= |d|}) / (1 + R),
    or over all 2^C swaps when C <= 13. Exact for any number of clusters if the arms are exchangeable
    within a cluster; for means it is the sign-flip test of the cluster sums, whose variance is right
    for unequal arms too. Fisher (1935); Winkler et al. (2014, NeuroImage 92) on whole blocks.
    """
    half = (sums_a - sums_b) / 2
    middle = (sums_a + sums_b).sum(axis=0) / 2
    flat = np.ascontiguousarray(half.reshape(len(half), -1), dtype=np.float64)

    def difference(shift: np.ndarray) -> np.ndarray:
        return np.abs(value(middle + shift) - value(middle - shift))

    seen = difference(half.sum(axis=0))
    bar = seen - 1e-12 * np.maximum(1.0, seen)  # sums of the same numbers in another order are still a tie
    count, total = np.zeros(np.shape(seen), dtype=np.int64), 0
    for signs in swaps(len(half), half.shape[-1], num_swaps, seed):  # alike for one pair of arms and for many side by side
        shift = (signs @ flat).reshape(len(signs), *half.shape[1:])
        count += (difference(shift) >= bar).sum(axis=0)
        total += len(signs)
    return swap_p(count, total, len(half))


def swap_p(count: Any, total: int, num_clusters: int) -> Any:
    """p of so many of all swaps that were tried: of every one of 2^C, or of a sample."""
    return count / total if num_clusters <= _EXACT else (1 + count) / (1 + total)


def swaps(num_clusters: int, width: int, num_swaps: int, seed: int) -> Iterator[np.ndarray]:
    """Chunks of rows of +-1, [r, C], -1 where two arms are swapped: all 2^C of them for few clusters, a random sample otherwise.

    width: numbers that the caller makes of a row, which sizes the chunks.
    """
    if num_clusters <= _EXACT:
        every = np.arange(2**num_clusters)[:, None] >> np.arange(num_clusters)
        yield 1.0 - 2.0 * (every & 1)
        return
    generator = np.random.default_rng([seed, num_clusters, 1])
    step = _step(num_clusters, width)
    for start in range(0, num_swaps, step):
        rows = min(step, num_swaps - start)
        bits = np.unpackbits(np.frombuffer(generator.bytes(rows * -(-num_clusters // 8)), dtype=np.uint8))
        yield 1.0 - 2.0 * bits.reshape(rows, -1)[:, :num_clusters]


def enough(num_resamples: int) -> None:
    """Raise a `LabError` for fewer resamples than an interval needs."""
    if num_resamples < LEAST_RESAMPLES:
        raise LabError(
            f"evaluation.bootstrap={num_resamples}: too few resamples for the ends of an interval; "
            f"legal: {LEAST_RESAMPLES} or more."
        )


def _step(num_clusters: int, width: int) -> int:
    return max(1, _CELLS // (num_clusters + 3 * width))


def quantiles(draws: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """The two percentiles that leave (1 - level) / 2 on each side, over the first axis."""
    if not 0 < level < 1:
        raise LabError(f"level={level}: a confidence level lies between 0 and 1, such as 0.95.")
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
