"""Temperature scaling: one scalar, fitted on held-out predictions, that makes confidence honest.

    z' = z / T,  z = log p_true - log p_false

The predicted answer never changes. Guo, Pleiss, Sun and Weinberger (2017, 1706.04599), section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from lab.answers.choice import ChoiceTable, sigmoid
from lab.answers.predictions import PredictionTable
from lab.errors import LabError

COLDEST, HOTTEST = 1e-3, 1e3


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature and where it comes from.

    split: the name of the split it was fitted on.
    at_limit: the optimum lies outside [1e-3, 1e3] (all answers right: T -> 0; anti-correlated: T -> inf).
    """

    value: float
    split: str
    num_examples: int
    at_limit: bool
    sample_ids: frozenset[str] = field(repr=False)


def fit(table: PredictionTable, split: str) -> Temperature:
    """Minimise the mean NLL of the renormalised answer over T in [1e-3, 1e3]."""
    if not split:
        raise LabError("split='': name the split the temperature is fitted on (minival), so that a report can say it.")
    if not isinstance(table, ChoiceTable):
        raise LabError(f"calibration: a temperature scales the log-odds of two options, and these answers are {table.kind}.")
    value, at_limit = minimise(table.log_odds, table.label)
    return Temperature(value, split, len(table), at_limit, frozenset(table.sample_id.tolist()))


def apply(temperature: Temperature, table: PredictionTable, allow_fitted: bool = False) -> PredictionTable:
    """Scale a table's log-odds by 1/T; its captured mass, answers and every other column stay.

    Raises `LabError` for a table that shares samples with the one the temperature was fitted on, unless `allow_fitted`.
    """
    shared = temperature.sample_ids.intersection(table.sample_id.tolist())
    if shared and not allow_fitted:
        raise LabError(
            f"calibration: {len(shared)} of {len(table)} samples were used to fit the temperature on "
            f"{temperature.split!r}; calibration measured on them flatters. Fit on minival and apply to dev."
        )
    z = table.log_odds / temperature.value
    mass = np.logaddexp(table.log_p_true, table.log_p_false)
    return table.replace(log_p=np.stack([mass - np.logaddexp(0.0, -z), mass - np.logaddexp(0.0, z)], axis=1))


def minimise(z: np.ndarray, label: np.ndarray) -> tuple[float, bool]:
    """Find T* and whether it lies at a limit.

    In b = 1/T the NLL is convex (logistic regression without intercept), so its slope
    g(b) = -mean(s z sigmoid(-s z b)) rises and has at most one root: Newton steps, replaced by bisection
    (in log b) where they leave the bracket, to a relative 1e-13.
    """
    margin = _signed(z, label)
    low, high = 1 / HOTTEST, 1 / COLDEST
    if not np.any(margin):
        return 1.0, True
    if _slope(margin, low)[0] >= 0:
        return HOTTEST, True
    if _slope(margin, high)[0] <= 0:
        return COLDEST, True
    b = 1.0
    for _ in range(200):
        slope, curvature = _slope(margin, b)
        if abs(slope) <= 1e-13 * b * curvature:  # a Newton step would change nothing
            break
        low, high = (low, b) if slope > 0 else (b, high)
        step = b - slope / curvature if curvature > 0 else low
        after = step if low < step < high else float(np.sqrt(low * high))
        if abs(after - b) <= 1e-13 * b:
            break
        b = after
    return 1 / b, False


def _signed(z: np.ndarray, label: np.ndarray) -> np.ndarray:
    """s z: the log-odds of the right answer, [n]."""
    z = np.asarray(z, dtype=np.float64)
    if not len(z) or not np.isfinite(z).all():
        raise LabError(
            f"calibration: {int((~np.isfinite(z)).sum())} of {len(z)} log-odds are not finite; "
            "a temperature needs at least one example, and both answers with a probability above 0."
        )
    return np.where(np.asarray(label, dtype=bool), z, -z)


def _slope(margin: np.ndarray, b: float) -> tuple[float, float]:
    """First and second derivative of the mean NLL in b = 1/T."""
    wrong = sigmoid(-margin * b)
    return -float(np.mean(margin * wrong)), float(np.mean(margin**2 * wrong * (1 - wrong)))
