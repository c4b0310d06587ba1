"""Intervals of many arms at once: those of `lab.statistics.comparing.intervals`, for a fraction of its cost.

Arms that were asked the same are resampled with the same clusters anyway, so the draws are made once and multiply the
cluster sums of all arms side by side. Shares have their exact intervals side by side too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.statistics import proportions
from lab.statistics.comparing import LEVEL, Interval, resampled
from lab.statistics.measures import MEASURES, PROPORTIONS
from lab.statistics.metrics import METRICS
from lab.statistics.resampling import cluster_sums, drawn_sums, quantiles

SEED = 0


def intervals_of_arms(
    tables: Sequence[PredictionTable], names: Sequence[str], cluster: np.ndarray, num_resamples: int
) -> list[dict[str, Interval]]:
    """Intervals of metrics of sums (`MEASURES`) and of shares, for tables of the same items in the same order."""
    drawn = [name for name in names if name not in PROPORTIONS]
    limits = draws(tables, drawn, cluster, num_resamples) if drawn else {}
    for name in names:
        if name in PROPORTIONS:
            limits[name] = proportions.interval(
                np.stack([cluster_sums(PROPORTIONS[name](table), cluster) for table in tables], axis=1), LEVEL
            )
    made: list[dict[str, Interval]] = []
    for place, table in enumerate(tables):
        made.append({})
        for name in names:
            low, high, method = float(limits[name][0][place]), float(limits[name][1][place]), proportions.METHOD
            if name in drawn:
                low, high, method = resampled(low, high)
            size = (len(table), int(cluster.max()) + 1)
            times = num_resamples if name in drawn else 0
            made[place][name] = Interval(METRICS[name](table), low, high, LEVEL, *size, times, SEED, method)
    return made


def draws(
    tables: Sequence[PredictionTable], names: Sequence[str], cluster: np.ndarray, num_resamples: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Both percentiles of every metric, one number a table."""
    parts = [[MEASURES[name].sums(table, cluster) for name in names] for table in tables]
    ends = np.cumsum([part.shape[1] for part in parts[0]])[:-1]
    sums = np.stack([np.concatenate(part, axis=1) for part in parts], axis=1)
    drawn = {name: np.empty((num_resamples, len(tables))) for name in names}
    for chunk, resample in drawn_sums(sums, num_resamples, SEED):
        for name, part in zip(names, np.split(resample, ends, axis=-1), strict=True):
            drawn[name][chunk] = MEASURES[name].value(part)
    return {name: quantiles(drawn[name], LEVEL) for name in names}
