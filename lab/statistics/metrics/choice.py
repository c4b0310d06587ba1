"""Metrics of True/False predictions. `ece`, `ece_equal_mass`, `ece_debiased`, `smece` and `mce` are of the top label."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.statistics import functional
from lab.statistics.metrics import COUNTS, Kind, Metric, gap_rows, mean_gap, selective


def group_rows(table: PredictionTable) -> np.ndarray:
    """(all right, 1) at the first example of each sentence group, 0 elsewhere, [n, 2]."""
    _, first, inverse, count = np.unique(table.question_group, return_index=True, return_inverse=True, return_counts=True)
    rows = np.zeros((len(table), 2))
    rows[first, 0] = np.bincount(inverse, table.correct) == count
    rows[first, 1] = 1.0
    return rows


def of_top(
    name: str, header: str, unit: str, better: bool, function: Callable[[np.ndarray, np.ndarray], float], says: str = ""
) -> Metric:
    """A number of how confident the answers are and which of them are right."""
    return Metric(name, header, unit, better, lambda table: function(table.confidence, table.correct), says)


def binary(table: PredictionTable) -> bool:
    """Whether P(True) exists; where not even log p was read, whoever asks for more is told so."""
    return "log_p" not in table.columns or table.binary


def nll_each(table: PredictionTable) -> np.ndarray:
    """-log of the share of the right option, [n]."""
    if table.binary:
        return functional.nll_items(table.p_true, table.label)
    return np.logaddexp.reduce(table.log_p, axis=1) - table.log_p[np.arange(len(table)), table.right]


def brier_part(name: str, header: str, better: bool | None) -> Metric:
    """A term of Murphy's partition of the Brier score."""
    return Metric(f"brier_{name}", header, "", better, lambda t: functional.brier_parts(t.p_true, t.label)[name], only=binary)


METRICS = (
    Metric(
        "accuracy", "accuracy", "%", True, lambda table: functional.mean("correct", table.correct),
        "accuracy: share of examples whose likelier answer is the label. P(True) = p(True) / (p(True) + p(False)), each summed "
        "over the single-token spellings of the answer word, from one forward pass.",
        each=lambda table: table.correct, exact=True, interval=True, needs=("right", "prediction"),
    ),
    Metric(
        "consistency", "consistency", "%", True, lambda table: functional.consistency(table.correct, table.question_group),
        "consistency: share of sentence groups all of whose examples are right; its chance level is the mean of 2 to the minus "
        "group size, which depends on the groups and is not comparable between data sets or subsets.",
        rows=group_rows, exact=True, needs=("right", "prediction"),
        chance=lambda table: functional.consistency_by_chance(table.question_group),
    ),
    Metric(
        "ece", "ECE", "%", False, lambda table: functional.ece(table.confidence, table.correct),
        "ECE: top-label expected calibration error, sum over 15 equal-width bins (lo, hi] of the bin's share times |accuracy - "
        "mean confidence| (Guo et al. 2017). Binned errors are biased upward, and more so under resampling: the interval may lie "
        "above the estimate.",
        rows=gap_rows(lambda table: table.confidence, lambda table: table.correct), value=mean_gap, interval=True,
    ),
    of_top("ece_equal_mass", "equal mass", "%", False, functional.ece_equal_mass, "Equal mass: 15 bins of equal counts."),
    of_top("ece_debiased", "debiased L2", "%", False, functional.ece_debiased, "Debiased L2: Kumar et al. 2019."),
    of_top("smece", "smooth ECE", "%", False, functional.smece, "Smooth ECE: without bins, Blasiok and Nakkiran 2023."),
    of_top("mce", "MCE", "%", False, functional.mce, "MCE: the widest gap of any bin."),
    Metric(
        "ece_p_true", "P(True)", "%", False, lambda table: functional.ece(table.p_true, table.label),
        "P(True): of P(True) against the label instead of the top label.",
        rows=gap_rows(lambda table: table.p_true, lambda table: table.label), value=mean_gap, only=binary,
    ),
    Metric(
        "nll", "NLL", "nats", False, lambda table: float(np.mean(nll_each(table))),
        "NLL: mean negative natural logarithm of the renormalised probability of the label.",
        each=nll_each,
    ),
    Metric(
        "brier", "Brier", "", False, lambda table: functional.brier(table.p_true, table.label),
        "Brier: mean (P(True) - label)^2, 0.25 for P(True) = 1/2 throughout.", each=lambda table: (table.p_true - table.label) ** 2,
        only=binary,
    ),
    brier_part("reliability", "= reliability", False),
    brier_part("resolution", "- resolution", True),
    brier_part("uncertainty", "+ uncertainty", None),
    brier_part("within_bin", "+ within bins", None),
    Metric("auroc_label", "AUROC of P(True)", "", True, lambda table: functional.auroc(table.p_true, table.label), only=binary),
    *selective(("right", "log_p", "prediction")),
    Metric(
        "captured_mass", "captured mass", "%", True, lambda table: functional.mean("captured_mass", table.captured_mass),
        "captured mass: mean of p(True) + p(False) under the full vocabulary, before renormalisation.",
        each=lambda table: table.captured_mass, needs=("captured_mass",),
    ),
    Metric(
        "captured_mass_below_half", "examples with mass < 1/2", "%", False,
        lambda table: functional.mean("captured_mass", table.captured_mass < 0.5),
        each=lambda table: table.captured_mass < 0.5, exact=True, needs=("captured_mass",),
    ),
    *COUNTS,
)  # fmt: skip

KIND = Kind(
    name="choice",
    metrics={metric.name: metric for metric in METRICS},
    headline="accuracy",
    shown=["accuracy", "consistency", "ece", "auroc_confidence", "aurc", "nll", "brier"],
    watched="nll",
    truth="right",
)
