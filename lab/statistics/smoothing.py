"""Smooth ECE: calibration error without bins; Blasiok and Nakkiran (2023, 2309.12236).

    r(t) = 1/n sum_i K_w(t, f_i) (y_i - f_i)        K_w: Gaussian of width w on [0, 1], reflected at both ends
    smECE_w = integral of |r(t)| over [0, 1]        smECE = smECE_w at the one w that equals it

smECE_w never rises with w, so there is one such w, and no bin width to choose.

Two conventions:

    definition   the formulas above, to 1e-6.
    relplot      the authors' package, version 1.0.3 (agreement to 1e-9 in tests/test_smoothing.py). It differs in that
                 w is the least multiple of 1/1024 with smECE_w <= w, and the value smECE at that w;
                 the Gaussian is cut off at +-1/2 and reflected once;
                 forecasts are split linearly between the two nearest of max(1000, round(10/w)) + 1 nodes, and the mass of
                 the two outermost nodes counts half, so that forecasts within 1/1000 of 0 or 1 weigh less;
                 |r| is summed over max(200, round(10/w)) even points and divided by the sum of the smoothed density there
                 (plus 1e-4 a point) instead of by n.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

CELLS = 4096
"""Cells of the grid on [0, 1]; splitting a forecast between two nodes widens its Gaussian by less than 1e-4."""
NARROWEST = 1e-3
"""Least width: a smaller smECE is given at this width."""
STEP = 1 / 1024
"""relplot's resolution of w."""


def by_definition(forecast: np.ndarray, residual: np.ndarray) -> float:
    """smECE; residual = outcome - forecast, both [n]."""
    spectrum = np.fft.rfft(mirrored(spread(forecast, residual, CELLS), ends=2.0))
    frequency = np.pi * np.arange(len(spectrum))

    def at(width: float) -> float:
        smoothed = np.fft.irfft(spectrum * np.exp(-0.5 * (frequency * width) ** 2))[: CELLS + 1]
        height = np.abs(smoothed)
        return float(height.sum() - (height[0] + height[-1]) / 2) / len(forecast)

    return fixed_point(at)


def as_relplot(forecast: np.ndarray, residual: np.ndarray) -> tuple[float, float]:
    """smECE and its width by the conventions of relplot 1.0.3."""

    def at(width: float) -> float:
        return relplot_at(forecast, residual, width)

    low, high = 1, 1024  # smECE_w > w at low / 1024 (1: not tried), not at high / 1024
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if at(middle * STEP) <= middle * STEP else (middle, high)
    return at(high * STEP), high * STEP


def fixed_point(at: Callable[[float], float]) -> float:
    """The value that a falling function takes where it equals its argument, to 1e-9."""
    low, high = NARROWEST, 1.0
    if at(low) <= low:
        return at(low)
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle) > middle else (low, middle)
    return (low + high) / 2


def relplot_at(forecast: np.ndarray, residual: np.ndarray, width: float) -> float:
    """smECE_w by the conventions of relplot 1.0.3."""
    cells, points = max(1000, round(10 / width)), max(200, round(10 / width))
    offset = np.arange(-cells, cells) / cells + (cells % 2) / (2 * cells)  # an even number of nodes has none in the middle
    kernel = np.exp(-0.5 * (offset / width) ** 2) / (width * np.sqrt(2 * np.pi)) * (np.abs(offset) <= 0.5 + 1e-12)
    transfer = np.fft.rfft(np.roll(kernel, -cells))
    places, nodes = np.linspace(0, 1, points), np.linspace(0, 1, cells + 1)

    def smoothed(weight: np.ndarray) -> np.ndarray:
        mass = mirrored(spread(forecast, weight, cells), ends=1.0)
        return np.interp(places, nodes, np.fft.irfft(np.fft.rfft(mass) * transfer)[: cells + 1])

    return float(np.abs(smoothed(residual)).sum() / (smoothed(np.ones(len(forecast))).sum() + 1e-4 * points))


def spread(place: np.ndarray, weight: np.ndarray, cells: int) -> np.ndarray:
    """Split weights at places in [0, 1] linearly between the two nearest of `cells` + 1 even nodes."""
    scaled = place * cells
    left = np.minimum(scaled.astype(np.int64), cells - 1)
    share = scaled - left
    return np.bincount(left, weight * (1 - share), cells + 1) + np.bincount(left + 1, weight * share, cells + 1)


def mirrored(mass: np.ndarray, ends: float) -> np.ndarray:
    """One period of the reflection at 0 and 1, [2 cells]; a weight at an end meets its own mirror image: ends=2."""
    inner = mass[1:-1]
    return np.concatenate([[ends * mass[0]], inner, [ends * mass[-1]], inner[::-1]])
