"""Intervals of many arms from one set of draws: those of `lab.evaluation.statistics.intervals`, for a fraction of its cost.

Arms that were asked the same are resampled with the same clusters anyway, so the draws are made once and multiply the
cluster sums of all arms side by side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lab.evaluation.measures import MEASURES
from lab.evaluation.metrics import METRICS
from lab.evaluation.predictions import PredictionTable
from lab.evaluation.resampling import drawn_sums, quantiles
from lab.evaluation.statistics import LEVEL, Interval

SEED = 0


def intervals_of_arms(
    tables: Sequence[PredictionTable], names: Sequence[str], cluster: np.ndarray, num_resamples: int
) -> list[dict[str, Interval]]:
    """Percentile intervals of metrics of sums (`MEASURES`), for tables of the same items in the same order."""
    parts = [[MEASURES[name].sums(table, cluster) for name in names] for table in tables]
    ends = np.cumsum([part.shape[1] for part in parts[0]])[:-1]
    sums = np.stack([np.concatenate(part, axis=1) for part in parts], axis=1)
    draws = {name: np.empty((num_resamples, len(tables))) for name in names}
    for chunk, drawn in drawn_sums(sums, num_resamples, SEED):
        for name, part in zip(names, np.split(drawn, ends, axis=-1), strict=True):
            draws[name][chunk] = MEASURES[name].value(part)
    limits = {name: quantiles(draws[name], LEVEL) for name in names}
    return [
        {
            name: Interval(
                estimate=METRICS[name](table),
                low=float(limits[name][0][place]),
                high=float(limits[name][1][place]),
                level=LEVEL,
                num_examples=len(table),
                num_clusters=len(sums),
                num_resamples=num_resamples,
                seed=SEED,
            )
            for name in names
        }
        for place, table in enumerate(tables)
    ]
