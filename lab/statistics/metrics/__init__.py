"""Metrics: one object says all there is to know of one, and each kind of answer has a file here that lists its own in `KIND`.

Report columns and definitions, intervals, paired tests, what an evaluation prints and the names in run.json and MLflow come
from these objects. `register` adds one from outside.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib import import_module

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.errors import LabError, did_you_mean
from lab.statistics import functional
from lab.statistics.functional import NUM_BINS, bin_index
from lab.statistics.resampling import cluster_sums

Column = Callable[[PredictionTable], np.ndarray]
"""Something of every example, [n] or [n, k]."""
Weighted = Callable[[np.ndarray], np.ndarray]
"""A number of a table where each example counts so many times, [B, n] -> [B]."""


def ratio(sums: np.ndarray) -> np.ndarray:
    """sum x / sum 1, [..., 2] -> [...]."""
    return sums[..., 0] / sums[..., 1]


@dataclass(frozen=True)
class Metric:
    """A number of a table of predictions.

    header: of its column in a report. unit: "%" (a share, compared in percentage points), "nats" or "".
    higher_is_better: None for a count of what was asked, which has no interval.
    of: the number. says: its definition, at the foot of a report ("": none of its own).
    each: what is averaged over examples, [n]; or else rows and value: k numbers of every example, [n, k], and what their sums give,
    [..., k] -> [...]. Either makes bootstrap and paired tests one matrix product. weighted: made once of a table whose number is no
    such sum (a ranking over all examples). With none of them every resample is computed anew and two arms cannot be compared.
    exact: a share of right and wrong, whose interval needs no resampling. interval: every run and report gives its interval.
    needs: the columns it reads. only: whether a table can have it. chance: what guessing gives. note: what a reader must know of the
    number of a table, beside it in brackets.
    """

    name: str
    header: str
    unit: str
    higher_is_better: bool | None
    of: Callable[[PredictionTable], float]
    says: str = ""
    each: Column | None = None
    rows: Column | None = None
    value: Callable[[np.ndarray], np.ndarray] = ratio
    weighted: Callable[[PredictionTable], Weighted] | None = None
    exact: bool = False
    interval: bool = False
    needs: tuple[str, ...] = ("right", "log_p", "prediction")
    only: Callable[[PredictionTable], bool] = lambda table: True
    chance: Callable[[PredictionTable], float] | None = None
    note: Callable[[PredictionTable], str] = lambda table: ""

    @property
    def title(self) -> str:
        """`ECE, %`."""
        return self.title_with()

    def title_with(self, *words: str) -> str:
        """`ECE on dev, %`."""
        return " ".join((self.header, *words)) + (f", {self.unit}" if self.unit else "")

    @property
    def in_points(self) -> bool:
        return self.unit == "%"

    @property
    def scale(self) -> float:
        """From the number to the unit shown."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def additive(self) -> bool:
        """Whether sums over examples give it."""
        return self.each is not None or self.rows is not None

    def cluster_sums(self, table: PredictionTable, cluster: np.ndarray) -> np.ndarray:
        """The rows of each cluster summed, float [C, k]; those of a mean are (x, 1)."""
        if self.each is not None:
            return cluster_sums(np.stack([np.asarray(self.each(table), dtype=np.float64), np.ones(len(table))], axis=1), cluster)
        if self.rows is None:
            raise LabError(f"metric={self.name!r}: it is no sum over examples, so two arms cannot be compared in it.")
        return cluster_sums(self.rows(table), cluster)


@dataclass(frozen=True)
class Kind:
    """A kind of answer and its metrics by name.

    headline: what arms are compared in, claims are about and the best arm is chosen by; `each` of it says which examples are right.
    shown: columns of a report's main table and lines of an evaluation. watched: what ends training early and picks its weights.
    truth: the column of right answers. own: metrics that were registered from outside.
    """

    name: str
    metrics: dict[str, Metric]
    headline: str
    shown: list[str]
    watched: str
    truth: str
    own: list[str] = field(default_factory=list)

    @property
    def main(self) -> Metric:
        """The headline metric."""
        return self.metrics[self.headline]

    @property
    def with_interval(self) -> tuple[str, ...]:
        """Names of the metrics whose intervals every report gives."""
        return tuple(name for name, metric in self.metrics.items() if metric.interval)

    def metric(self, name: str | None = None) -> Metric:
        """Look a metric up; the headline without a name. Raises `LabError` for a name that is none."""
        if name is not None and name not in self.metrics:
            raise LabError(f"metric={name!r}: legal are {', '.join(self.metrics)}.{did_you_mean(name, self.metrics)}")
        return self.main if name is None else self.metrics[name]


def gap_rows(confidence: Column, outcome: Column) -> Column:
    """Rows of a binned calibration error: outcome - confidence in the column of its bin, and 1 in the last."""

    def rows(table: PredictionTable) -> np.ndarray:
        promised = confidence(table)
        gaps = np.zeros((len(table), NUM_BINS + 1))
        gaps[np.arange(len(table)), bin_index(promised)] = outcome(table) - promised
        gaps[:, -1] = 1.0
        return gaps

    return rows


def mean_gap(sums: np.ndarray) -> np.ndarray:
    """sum_b |sum of gaps in bin b| / n: the ECE with equal-width bins."""
    return np.abs(sums[..., :-1]).sum(axis=-1) / sums[..., -1]


def selective(needs: tuple[str, ...]) -> tuple[Metric, Metric]:
    """What confidence is worth where the least confident answers may be withheld, of any kind's `confidence` and `correct`."""
    return (
        Metric(
            "auroc_confidence", "AUROC of confidence", "", True, lambda table: functional.auroc(table.confidence, table.correct),
            "AUROC of confidence: probability that a right answer is more confident than a wrong one, 1/2 for equal ones (Hendrycks and "
            "Gimpel 2017); undefined where all answers are right or all wrong.",
            needs=needs,
        ),
        Metric(
            "aurc", "area under risk-coverage", "", False, lambda table: functional.aurc(table.confidence, table.correct),
            "Risk-coverage: error rate of the k most confident answers, mean over k (El-Yaniv and Wiener 2010; Geifman et al. 2019); less is "
            "better.",
            needs=needs,
        ),
    )  # fmt: skip


def count(name: str, of: Callable[[PredictionTable], int], needs: str) -> Metric:
    """How much was asked."""
    return Metric(name, name.replace("_", " "), "", None, lambda table: float(of(table)), needs=(needs,))


COUNTS = (
    count("num_examples", len, "sample_id"),
    count("num_image_sets", lambda table: len(np.unique(table.image_set)), "image_set"),
    count("num_sentence_groups", lambda table: len(np.unique(table.question_group)), "question_group"),
)


def summarise(table: PredictionTable) -> dict[str, float]:
    """Every metric that the table can have; NaN where it is undefined (an AUROC of one class)."""
    return {name: metric.of(table) for name, metric in KINDS[table.kind].metrics.items() if metric.only(table)}


def headlines(kind: Kind) -> tuple[str, ...]:
    return (kind.headline,)


def columns(names: Callable[[Kind], Iterable[str]] = headlines) -> tuple[str, ...]:
    """Columns that some metrics of each kind need, to be read of a file whose kind is not yet known."""
    needs = (column for kind in KINDS.values() for name in names(kind) for column in kind.metrics[name].needs)
    return tuple(dict.fromkeys(needs))


def register(kind: str, metric: Metric, *, shown: bool = True) -> None:
    """Add a metric to a kind of answer. Raises `LabError` for an unknown kind or a name that is taken."""
    if kind not in KINDS:
        raise LabError(f"kind={kind!r}: legal are {', '.join(KINDS)}.{did_you_mean(kind, KINDS)}")
    if metric.name in KINDS[kind].metrics:
        raise LabError(f"metric={metric.name!r}: {kind} has one of this name; choose another.")
    KINDS[kind].metrics[metric.name] = metric
    KINDS[kind].own.append(metric.name)
    if shown:
        KINDS[kind].shown.append(metric.name)


KINDS: dict[str, Kind] = {
    module.name: import_module(f"{__name__}.{module.name}").KIND for module in pkgutil.iter_modules(__path__)
}
