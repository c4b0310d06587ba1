"""Smooth ECE: calibration error without bins; Blasiok and Nakkiran (2023, 2309.12236).

    r(t) = 1/n sum_i K_w(t, f_i) (y_i - f_i)        K_w: Gaussian of width w on [0, 1], reflected at both ends
    smECE_w = integral of |r(t)| over [0, 1]        smECE = smECE_w at the one w that equals it

smECE_w never rises with w, so there is one such w, and no bin width to choose.

The authors' package, relplot, differs: it cuts the Gaussian off at 1/2, reflects it once, and weighs forecasts of 0 and 1 by half.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CELLS = 4096
"""Cells of the grid on [0, 1]; splitting a forecast between two nodes widens its Gaussian by less than 1e-4."""
NARROWEST = 1e-3
"""Least width: a smaller smECE is given at this width."""


def by_definition(forecast: np.ndarray, residual: np.ndarray) -> float:
    """smECE; residual = outcome - forecast, both [n]."""
    spectrum = np.fft.rfft(mirrored(spread(forecast, residual)))
    frequency = np.pi * np.arange(len(spectrum))

    def at(width: float) -> float:
        smoothed = np.fft.irfft(spectrum * np.exp(-0.5 * (frequency * width) ** 2))[: CELLS + 1]
        height = np.abs(smoothed)
        return float(height.sum() - (height[0] + height[-1]) / 2) / len(forecast)

    return fixed_point(at)


def fixed_point(at: Callable[[float], float]) -> float:
    """The value that a falling function takes where it equals its argument, to 1e-9."""
    low, high = NARROWEST, 1.0
    if at(low) <= low:
        return at(low)
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) > middle else (low, middle)
    return (low + high) / 2


def spread(place: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Split weights at places in [0, 1] linearly between the two nearest of `CELLS` + 1 even nodes."""
    scaled = place * CELLS
    left = np.minimum(scaled.astype(np.int64), CELLS - 1)
    share = scaled - left
    return np.bincount(left, weight * (1 - share), CELLS + 1) + np.bincount(left + 1, weight * share, CELLS + 1)


def mirrored(mass: np.ndarray) -> np.ndarray:
    """One period of the reflection at 0 and 1, [2 cells]; a weight at an end meets its own mirror image."""
    inner = mass[1:-1]
    return np.concatenate([[2.0 * mass[0]], inner, [2.0 * mass[-1]], inner[::-1]])
