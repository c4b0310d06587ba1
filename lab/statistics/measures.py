"""Metrics as functions of sums over examples: what a bootstrap can resample without touching an example again.

A measure gives every example a row of k numbers and turns their sums into its value, so that 2,000
resamples of whole clusters are one matrix product of resample counts with per-cluster sums.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.errors import LabError, did_you_mean
from lab.statistics.metrics import NUM_BINS, bin_index, nll_items
from lab.statistics.resampling import cluster_sums

Column = Callable[[PredictionTable], np.ndarray]
"""Something of every example, [n]."""


@dataclass(frozen=True)
class Measure:
    """A metric of sums.

    rows: table -> float [n, k]; value: sums [..., k] -> metric [...].
    in_points: a share, spoken of in percentage points; otherwise in its own unit.
    binned: (confidence, outcome) of a binned calibration error, whose rows are zero but for two places.
    """

    name: str
    rows: Column
    value: Callable[[np.ndarray], np.ndarray]
    in_points: bool
    higher_is_better: bool
    binned: tuple[Column, Column] | None = None

    def sums(self, table: PredictionTable, cluster: np.ndarray) -> np.ndarray:
        """The rows of each cluster summed, [C, k]: `cluster_sums` of `rows`, without the zeros of binned ones."""
        if self.binned is None:
            return cluster_sums(self.rows(table), cluster)
        confidence, outcome = (column(table) for column in self.binned)
        size, place = cluster_sums(np.ones(len(table)), cluster), cluster * NUM_BINS + bin_index(confidence)
        gaps = np.bincount(place, outcome - confidence, len(size) * NUM_BINS).reshape(len(size), NUM_BINS)
        return np.concatenate([gaps, size[:, None]], axis=1)


def mean_of(item: Column) -> Column:
    """Rows (x_i, 1) of a mean."""
    return lambda table: np.stack([np.asarray(item(table), dtype=np.float64), np.ones(len(table))], axis=1)


def ratio(sums: np.ndarray) -> np.ndarray:
    """sum x / sum 1."""
    return sums[..., 0] / sums[..., 1]


def gaps_of(confidence: Column, outcome: Column) -> Column:
    """Rows of a binned calibration error: outcome - confidence in the column of its bin, and 1 in the last."""

    def rows(table: PredictionTable) -> np.ndarray:
        promised = confidence(table)
        made = np.zeros((len(table), NUM_BINS + 1))
        made[np.arange(len(table)), bin_index(promised)] = outcome(table) - promised
        made[:, -1] = 1.0
        return made

    return rows


def gap(sums: np.ndarray) -> np.ndarray:
    """sum_b |sum of gaps in bin b| / n: the ECE with equal-width bins."""
    return np.abs(sums[..., :-1]).sum(axis=-1) / sums[..., -1]


def groups_of(table: PredictionTable) -> np.ndarray:
    """Rows of consistency: (all correct, 1) at the first example of each sentence group, 0 elsewhere."""
    _, first, inverse, count = np.unique(
        table.sentence_group, return_index=True, return_inverse=True, return_counts=True
    )
    rows = np.zeros((len(table), 2))
    rows[first, 0] = np.bincount(inverse, table.correct) == count
    rows[first, 1] = 1.0
    return rows


def binned_gap(name: str, confidence: Column, outcome: Column) -> Measure:
    """A binned calibration error."""
    return Measure(name, gaps_of(confidence, outcome), gap, True, False, (confidence, outcome))


def _nll(table: PredictionTable) -> np.ndarray:
    return nll_items(table.p_true, table.label)


MEASURES: dict[str, Measure] = {
    measure.name: measure
    for measure in (
        Measure("accuracy", mean_of(lambda table: table.correct), ratio, True, True),
        Measure("consistency", groups_of, ratio, True, True),
        binned_gap("ece", lambda table: table.confidence, lambda table: table.correct),
        binned_gap("ece_p_true", lambda table: table.p_true, lambda table: table.label),
        Measure("brier", mean_of(lambda table: (table.p_true - table.label) ** 2), ratio, False, False),
        Measure("nll", mean_of(_nll), ratio, False, False),
        Measure("captured_mass", mean_of(lambda table: table.captured_mass), ratio, False, True),
    )
}


PROPORTIONS: dict[str, Column] = {
    "accuracy": MEASURES["accuracy"].rows,
    "consistency": MEASURES["consistency"].rows,
    "captured_mass_below_half": mean_of(lambda table: table.captured_mass < 0.5),
}
"""Metrics that are shares of right and wrong, with their rows (right, 1): their intervals need no resampling."""


def measure(name: str) -> Measure:
    """Look a measure up by name."""
    if name not in MEASURES:
        raise LabError(f"measure={name!r}: legal are {', '.join(MEASURES)}.{did_you_mean(name, MEASURES)}")
    return MEASURES[name]
