"""All numbers that a run records of its predictions, by the names under which `run.json` and the tracker have them.

    SPLIT/METRIC              every metric of `lab.statistics.metrics`, and num_clusters, consistency_by_chance, brier_PART
    SPLIT/accuracy_low, _high     ends of the 95 % interval; of dev also ece_low, ece_high. Absent where there is no interval
    dev_scaled/METRIC         of dev at the temperature that minival gives, which is dev_scaled/temperature
    dev_subset/NAME/accuracy  and num_examples

A report makes these anew from the same predictions; what it shows of one run, a run has recorded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re

from lab.answers.predictions import PredictionTable
from lab.errors import LabError
from lab.statistics import calibration, metrics
from lab.statistics.comparing import Interval, intervals
from lab.statistics.resampling import clusters

log = logging.getLogger(__name__)

LONGEST = 60
"""Characters of a subset's name that are kept."""


def of_split(name: str, table: PredictionTable, num_resamples: int) -> dict[str, float]:
    """Numbers of the predictions of one split."""
    cluster = clusters(table)
    out = {f"{name}/{key}": value for key, value in metrics.summarise(table).items()}
    out |= {f"{name}/{key}": value for key, value in brier_parts(table).items()}
    out[f"{name}/num_clusters"] = float(cluster.max() + 1)
    out[f"{name}/consistency_by_chance"] = metrics.consistency_by_chance(table.sentence_group)
    if cluster.max() > 0:
        asked = ("accuracy", "ece") if name == "dev" else ("accuracy",)
        for key, one in intervals(table, asked, num_resamples=num_resamples, cluster=cluster).items():
            out |= ends(f"{name}/{key}", one)
    return out


def ends(name: str, found: Interval) -> dict[str, float]:
    """`NAME_low` and `NAME_high`; nothing where there is no interval."""
    return {f"{name}_low": found.low, f"{name}_high": found.high} if found.has_ends else {}


def brier_parts(table: PredictionTable) -> dict[str, float]:
    """`brier_reliability` and its like."""
    parts = dataclasses.asdict(metrics.brier_parts(table.p_true, table.label))
    return {f"brier_{key}": value for key, value in parts.items()}


def of_scaling(minival: PredictionTable, dev: PredictionTable) -> dict[str, float]:
    """Numbers of dev at the temperature that minival gives; where it gives none, only the reason in the log."""
    try:
        fitted = calibration.fit(minival, "minival")
    except LabError as error:
        log.info("no temperature: %s", error)
        return {}
    after = calibration.apply(fitted, dev)
    out = {f"dev_scaled/{key}": value for key, value in (metrics.summarise(after) | brier_parts(after)).items()}
    return {**out, "dev_scaled/temperature": fitted.value, "dev_scaled/temperature_at_limit": float(fitted.at_limit)}


def of_subsets(dev: PredictionTable) -> dict[str, float]:
    """Accuracy and size of every subset of dev that has a name."""
    out: dict[str, float] = {}
    for name in sorted({name for name in dev.subset.tolist() if name}):
        inside = dev.subset == name
        out[f"dev_subset/{metric_name(name)}/accuracy"] = float(dev.correct[inside].mean())
        out[f"dev_subset/{metric_name(name)}/num_examples"] = float(inside.sum())
    return out


def metric_name(text: str) -> str:
    """A name from data as a tracker takes it; one that had to be changed ends in digits of its hash, so that none meet."""
    kept = re.sub(r"[^A-Za-z0-9_. -]", "_", text)[:LONGEST].strip(" .")
    return kept if kept == text else f"{kept}-{hashlib.sha256(text.encode(errors='replace')).hexdigest()[:8]}"
