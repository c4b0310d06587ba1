"""Resamples and swaps of a metric that is no sum over examples, by the weights that they give each example.

Average precision ranks the boxes of all pictures: a resample is the same ranking with some pictures counted twice and some not at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lab.statistics.metrics import Weighted
from lab.statistics.resampling import drawn_counts, swap_p, swaps


def weighted_draws(values: Sequence[Weighted], cluster: np.ndarray, num_resamples: int, seed: int) -> np.ndarray:
    """Every resample's numbers of tables with the same items, [B, tables]; the draws are those of `drawn_sums`."""
    draws = np.empty((num_resamples, len(values)))
    for chunk, counts in drawn_counts(int(cluster.max()) + 1, num_resamples, seed, len(cluster)):
        weights = counts[:, cluster]
        draws[chunk] = np.stack([value(weights) for value in values], axis=1)
    return draws


def weighted_swap_p_value(value: Weighted, cluster: np.ndarray, num_swaps: int, seed: int) -> float:
    """`swap_p_value` of two tables with the same items; value: of the one followed by the other, whose examples have the weights [B, 2n]."""

    def difference(kept: np.ndarray) -> np.ndarray:
        weights = kept[:, cluster]
        first, second = (np.concatenate(pair, axis=1) for pair in ((weights, 1 - weights), (1 - weights, weights)))
        return np.abs(value(first) - value(second))

    number = int(cluster.max()) + 1
    seen = float(difference(np.ones((1, number)))[0])
    bar = seen - 1e-12 * max(1.0, seen)
    drawn = [difference((1 + signs) / 2) >= bar for signs in swaps(number, 2 * len(cluster), num_swaps, seed)]
    return swap_p(int(sum(map(np.count_nonzero, drawn))), sum(map(len, drawn)), number)
