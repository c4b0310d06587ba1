"""Metrics as pure functions on arrays.

p_true: P(True) renormalised, [n] in [0, 1]. label: the truth, [n] of 0/1. confidence: probability
of the answer given, [n]. correct: that answer is right, [n] of 0/1. group: any hashable, [n].
`iou` and `average_precision`, of boxes, are those of `lab.statistics.detection`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.errors import LabError
from lab.statistics import smoothing
from lab.statistics.detection import average_precision as average_precision
from lab.statistics.detection import iou as iou

NUM_BINS = 15
CLIP = 1e-12


@dataclass(frozen=True)
class Bins:
    """A reliability diagram: what was promised and what came true, per bin of confidence.

    lower, upper: edges [m] (of equal-mass bins: the smallest and largest value inside); count [m];
    mean_confidence, mean_outcome: [m], NaN in an empty bin.
    """

    lower: np.ndarray
    upper: np.ndarray
    count: np.ndarray
    mean_confidence: np.ndarray
    mean_outcome: np.ndarray

    @property
    def gap(self) -> np.ndarray:
        """|outcome - confidence| per bin, 0 in an empty bin."""
        return np.abs(np.nan_to_num(self.mean_outcome - self.mean_confidence))

    @property
    def weight(self) -> np.ndarray:
        """Share of the examples in each bin."""
        return self.count / self.count.sum()

    @property
    def mean_gap(self) -> float:
        """sum_b |B_b|/n * |mean outcome - mean confidence|: the ECE over these bins."""
        return float(self.weight @ self.gap)

    @property
    def debiased(self) -> float:
        """The L2 error over these bins less what sampling puts in it; see `ece_debiased`."""
        noise = self.mean_outcome * (1 - self.mean_outcome) / np.maximum(self.count - 1, 1)
        squared = np.where(self.count > 1, self.gap**2 - noise, 0.0)
        return float(np.sqrt(max(0.0, self.weight @ squared)))


def mean(name: str, values: np.ndarray) -> float:
    """Mean of one column; `accuracy` is that of what is right."""
    return float(_column(name, values).mean())


def bin_index(confidence: np.ndarray, num_bins: int = NUM_BINS) -> np.ndarray:
    """Give every confidence the number of its equal-width bin (lo, hi] on [0, 1]; 0 is in the first. Guo et al. (2017).

    netcal and torchmetrics take [lo, hi): they differ where a confidence is an edge.
    """
    if num_bins < 1:
        raise LabError(f"num_bins={num_bins}: at least one bin is needed.")
    index = np.searchsorted(np.linspace(0, 1, num_bins + 1), confidence) - 1
    return np.clip(index, 0, num_bins - 1)


def reliability_bins(confidence: np.ndarray, outcome: np.ndarray, num_bins: int = NUM_BINS) -> Bins:
    """Bin by equal widths; the reliability diagram of DeGroot and Fienberg (1983)."""
    confidence, outcome = _pair(confidence, outcome)
    index = bin_index(confidence, num_bins)
    edges = np.linspace(0, 1, num_bins + 1)
    return _bins(index, num_bins, confidence, outcome, edges[:-1], edges[1:])


def equal_mass_bins(confidence: np.ndarray, outcome: np.ndarray, num_bins: int = NUM_BINS) -> Bins:
    """Bin by equal counts: `np.array_split` of the stable order by confidence (the first n mod m get one more)."""
    confidence, outcome = _pair(confidence, outcome)
    num_bins = min(num_bins, len(confidence))
    order = np.argsort(confidence, kind="stable")
    parts = np.array_split(order, num_bins)
    index = np.empty(len(order), dtype=np.int64)
    index[order] = np.repeat(np.arange(num_bins), [len(part) for part in parts])
    lower = confidence[[part[0] for part in parts]]
    upper = confidence[[part[-1] for part in parts]]
    return _bins(index, num_bins, confidence, outcome, lower, upper)


def ece(confidence: np.ndarray, outcome: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """Expected calibration error, sum_b |B_b|/n * |mean outcome - mean confidence|, equal-width bins.

    Guo et al. (2017, 1706.04599), section 2. With (confidence, correct) it is the top-label ECE, the
    headline; with (p_true, label) the P(True) ECE, a different number.
    """
    return reliability_bins(confidence, outcome, num_bins).mean_gap


def ece_equal_mass(confidence: np.ndarray, outcome: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """ECE over bins of equal counts; Nguyen and O'Connor (2015, 1508.05154)."""
    return equal_mass_bins(confidence, outcome, num_bins).mean_gap


def mce(confidence: np.ndarray, outcome: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """Maximum calibration error: the widest gap of any bin; Guo et al. (2017, 1706.04599), section 2."""
    return float(reliability_bins(confidence, outcome, num_bins).gap.max())


def ece_debiased(confidence: np.ndarray, outcome: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """Debiased L2 calibration error over equal-mass bins.

    sqrt(max(0, sum_b |B_b|/n * (gap_b^2 - v_b (1 - v_b) / (|B_b| - 1)))), v_b = mean outcome of bin b;
    a bin of one example counts 0. Kumar, Liang and Ma (2019, 1909.10155). Ties across a bin's
    edge are split by order here and kept together by their package, uncertainty-calibration.
    """
    return equal_mass_bins(confidence, outcome, num_bins).debiased


def smece(confidence: np.ndarray, outcome: np.ndarray) -> float:
    """Smooth ECE, which has no bins; Blasiok and Nakkiran (2023, 2309.12236), see `lab.statistics.smoothing`."""
    confidence, outcome = _pair(confidence, outcome)
    if confidence.min() < 0 or confidence.max() > 1:
        raise LabError(f"confidence: {confidence.min():g} to {confidence.max():g} given; probabilities lie in [0, 1].")
    return smoothing.by_definition(confidence, outcome - confidence)


def brier(p_true: np.ndarray, label: np.ndarray) -> float:
    """mean (P(True) - y)^2; Brier (1950). The multi-class sum form is twice this."""
    p_true, label = _pair(p_true, label)
    return float(np.mean((p_true - label) ** 2))


def brier_parts(p_true: np.ndarray, label: np.ndarray, num_bins: int = NUM_BINS) -> dict[str, float]:
    """Murphy's (1973) partition over equal-width bins: brier = reliability - resolution + uncertainty + within_bin, exactly.

    reliability = sum_b w_b (p_b - y_b)^2, resolution = sum_b w_b (y_b - y)^2, uncertainty = y (1 - y);
    within_bin = variance of p inside bins - 2 covariance of p and y inside bins; Stephenson, Coelho and
    Jolliffe (2008). within_bin is 0 when all forecasts of a bin are equal.
    """
    p_true, label = _pair(p_true, label)
    bins, index = reliability_bins(p_true, label, num_bins), bin_index(p_true, num_bins)
    p_in, y_in = p_true - bins.mean_confidence[index], label - bins.mean_outcome[index]
    base = label.mean()
    return {
        "reliability": float(bins.weight @ bins.gap**2),
        "resolution": float(bins.weight @ np.nan_to_num(bins.mean_outcome - base) ** 2),
        "uncertainty": float(base * (1 - base)),
        "within_bin": float(np.mean(p_in**2) - 2 * np.mean(p_in * y_in)),
    }


def nll(p_true: np.ndarray, label: np.ndarray) -> float:
    """-mean log p(label), probabilities clipped to [1e-12, 1]."""
    return float(nll_items(p_true, label).mean())


def nll_items(p_true: np.ndarray, label: np.ndarray) -> np.ndarray:
    """-log p(label) of every example, [n]."""
    p_true, label = _pair(p_true, label)
    return -np.log(np.clip(np.where(label > 0.5, p_true, 1 - p_true), CLIP, 1.0))


def auroc(score: np.ndarray, positive: np.ndarray) -> float:
    """P(score of a positive > score of a negative) + 1/2 P(equal); Mann and Whitney (1947).

    NaN when there is only one class. With (p_true, label): does P(True) rank true statements first.
    With (confidence, correct): does confidence rank right answers first.
    """
    score, positive = _pair(score, positive)
    _, inverse, count = np.unique(score, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[inverse]  # mid-ranks from 1
    num_positive = positive.sum()
    num_negative = len(positive) - num_positive
    if num_positive == 0 or num_negative == 0:
        return float("nan")
    return float((rank @ positive - num_positive * (num_positive + 1) / 2) / (num_positive * num_negative))


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Error rate of the k most confident answers against k/n; El-Yaniv and Wiener (2010).

    Returns (coverage [n], risk [n]). Inside a tie every answer counts the tie's mean error, the
    expectation over all orders, so that the order of rows does not matter.
    """
    confidence, correct = _pair(confidence, correct)
    values, inverse, count = np.unique(-confidence, return_inverse=True, return_counts=True)
    tie_error = np.bincount(inverse, 1 - correct, len(values)) / count
    k = np.arange(1, len(correct) + 1)
    return k / len(correct), np.cumsum(np.repeat(tie_error, count)) / k


def aurc(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Area under the risk-coverage curve: mean over k of the error rate of the k most confident answers.

    Geifman, Uziel and El-Yaniv (2019, 1805.08206); smaller is better.
    """
    return float(risk_coverage(confidence, correct)[1].mean())


def consistency(correct: np.ndarray, group: np.ndarray) -> float:
    """Share of sentence groups whose every member is right; Suhr et al. (2017, 2019, 1811.00491)."""
    correct = _column("correct", correct)
    if len(correct) != len(group):
        raise LabError(f"correct has {len(correct)} examples and group {len(group)}; they must describe the same ones.")
    _, inverse, count = np.unique(group, return_inverse=True, return_counts=True)
    return float((np.bincount(inverse, correct) == count).mean())


def consistency_by_chance(group: np.ndarray) -> float:
    """Expected consistency of fair coin flips: mean over groups of 2^-size."""
    return float(np.mean(0.5 ** np.unique(group, return_counts=True)[1]))


def _column(name: str, values: np.ndarray) -> np.ndarray:
    """Check one column of numbers: not empty, one axis, no NaN."""
    values = np.asarray(values)
    if values.ndim != 1 or not len(values):
        raise LabError(f"{name}: shape {values.shape} given; a metric needs one axis with at least one example.")
    if values.dtype.kind not in "buif":
        raise LabError(f"{name}: {values.dtype} given; a metric needs numbers or booleans.")
    values = values.astype(np.float64)
    if np.isnan(values).any():
        num = int(np.isnan(values).sum())
        raise LabError(f"{name}: NaN in {num} of {len(values)} examples; a metric of them is undefined.")
    return values


def _pair(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = _column("first argument", first), _column("second argument", second)
    if len(first) != len(second):
        raise LabError(f"the two columns have {len(first)} and {len(second)} examples; they must describe the same ones.")
    return first, second


def _bins(
    index: np.ndarray, num_bins: int, confidence: np.ndarray, outcome: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> Bins:
    count = np.bincount(index, minlength=num_bins)
    with np.errstate(invalid="ignore"):  # 0/0 in an empty bin: NaN is the documented answer
        mean_confidence = np.bincount(index, confidence, num_bins) / count
        mean_outcome = np.bincount(index, outcome, num_bins) / count
    return Bins(lower, upper, count, mean_confidence, mean_outcome)
