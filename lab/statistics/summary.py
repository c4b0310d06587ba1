"""All numbers that a run records of its predictions, by the names under which `run.json` and the tracker have them.

    SPLIT/METRIC              every metric of `lab.statistics.metrics`, METRIC_by_chance where guessing gives some, and num_clusters
    SPLIT/METRIC_low, _high       ends of the 95 % interval of the headline metric, of dev of all with an interval; absent without
    SPLIT/RULE/SCORE, _low, _high     a benchmark's own scores (`lab.statistics.rules`)
    dev_scaled/METRIC         of dev at the temperature that minival gives, which is dev_scaled/temperature
    dev_subset/NAME/METRIC        the headline metric, and num_examples
    SPLIT/LEARNED, _low, _high     of a metric that lab.score has added, whatever the split
    zero_shot/METRIC          of what the base answers to dev untrained (`lab.run.zero_shot`), as of minival
    DATA/dev/METRIC           of dev of other data that the run was asked too (`evaluation.also`, another part of `data=mixture`), of its own
                              kind: all that dev has but scaled and subsets. DATA/zero_shot/METRIC; of a part DATA/minival/METRIC

A report makes these anew from the same predictions; what it shows of one run, a run has recorded.
"""

from __future__ import annotations

import logging
import re

from lab.answers import learned
from lab.answers.predictions import PredictionTable
from lab.errors import LabError
from lab.host.files import text_hash
from lab.statistics import calibration
from lab.statistics.intervals import Interval, intervals
from lab.statistics.metrics import KINDS, summarise
from lab.statistics.resampling import clusters

log = logging.getLogger(__name__)

LONGEST = 60
"""Characters of a subset's name that are kept."""


def of_split(name: str, table: PredictionTable, num_resamples: int) -> dict[str, float]:
    """Numbers of the predictions of one split."""
    kind, cluster = KINDS[table.kind], clusters(table)
    out = {f"{name}/{key}": value for key, value in summarise(table).items()}
    out |= {f"{name}/{key}_by_chance": metric.chance(table) for key, metric in kind.metrics.items() if metric.chance}
    out[f"{name}/num_clusters"] = float(cluster.max() + 1)
    if cluster.max() > 0:
        names = kind.with_interval if name.endswith("dev") else (kind.headline,)
        for key, one in intervals([table], names, num_resamples=num_resamples, cluster=cluster)[0].items():
            out |= ends(f"{name}/{key}", one)
    return out


def of_learned(name: str, table: PredictionTable, metric: str, num_resamples: int) -> dict[str, float]:
    """Numbers of the scores that a model gave to the answers of one split (`lab.answers.learned`)."""
    metrics = [KINDS[table.kind].metrics[column] for column in learned.COLUMNS[metric]]
    out, cluster = {f"{name}/{each.name}": each.of(table) for each in metrics}, clusters(table)
    compared = [each.name for each in metrics if each.higher_is_better is not None]
    if cluster.max() > 0:
        for key, one in intervals([table], compared, num_resamples=num_resamples, cluster=cluster)[0].items():
            out |= ends(f"{name}/{key}", one)
    return out


def is_learned(name: str) -> bool:
    """Whether a recorded number is one of `of_learned`."""
    return re.sub("_(low|high)$", "", name.rpartition("/")[2]) in learned.NAMES


def ends(name: str, interval: Interval) -> dict[str, float]:
    """`NAME_low` and `NAME_high`; nothing where there is no interval."""
    return {f"{name}_low": interval.low, f"{name}_high": interval.high} if interval.has_ends else {}


def of_scaling(minival: PredictionTable, dev: PredictionTable) -> dict[str, float]:
    """Numbers of dev at the temperature that minival gives; where it gives none, only the reason in the log."""
    try:
        fitted = calibration.fit(minival, "minival")
    except LabError as error:
        log.info("no temperature: %s", error)
        return {}
    out = {f"dev_scaled/{key}": value for key, value in summarise(calibration.apply(fitted, dev)).items()}
    return {**out, "dev_scaled/temperature": fitted.value, "dev_scaled/temperature_at_limit": float(fitted.at_limit)}


def of_subsets(dev: PredictionTable) -> dict[str, float]:
    """Headline metric and size of every subset of dev that has a name."""
    headline, out = KINDS[dev.kind].main, {}
    for name in sorted({name for name in dev.subset.tolist() if name}):
        inside = dev.take(dev.subset == name)
        out[f"dev_subset/{metric_name(name)}/{headline.name}"] = headline.of(inside)
        out[f"dev_subset/{metric_name(name)}/num_examples"] = float(len(inside))
    return out


def metric_name(text: str) -> str:
    """A name from data as a tracker takes it; one that had to be changed ends in digits of its hash, so that none meet."""
    kept = re.sub(r"[^A-Za-z0-9_. -]", "_", text)[:LONGEST].strip(" .")
    return kept if kept == text else f"{kept}-{text_hash(text, digits=8)}"
