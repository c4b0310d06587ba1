"""Smooth ECE: its definition summed directly, the authors' package by its own numbers."""

import numpy as np
import pytest
from test_metrics import P_A, P_B, Y_A, Y_B, top

from lab.errors import LabError
from lab.statistics import functional


def summed(forecast, outcome, width, points=1500):
    """smECE_w straight from its definition: every forecast's Gaussian and its mirror images, on even midpoints."""
    t = (np.arange(points) + 0.5) / points
    density = np.zeros(points)
    for image in range(-1, 2):
        for centre in (2 * image + forecast, 2 * image - forecast):
            density += np.exp(-0.5 * ((t[:, None] - centre) / width) ** 2) @ (outcome - forecast)
    return float(np.abs(density).mean() / (len(forecast) * width * np.sqrt(2 * np.pi)))


def few_large(seed, num=400):
    """Forecasts crowded at both ends, as those of an overconfident model are."""
    generator = np.random.default_rng(seed)
    forecast = generator.beta(0.3, 0.3, num)
    return forecast, (generator.uniform(size=num) < 0.8 * forecast + 0.1).astype(float)


@pytest.mark.parametrize("columns", [(P_B, Y_B), top(P_B, Y_B), (P_A, Y_A), few_large(0), few_large(1)])
def test_the_definition_summed_directly(columns):
    forecast, outcome = columns
    found = functional.smece(forecast, outcome)
    assert summed(forecast, outcome, found) == pytest.approx(found, rel=1e-4)
    assert summed(forecast, outcome, 1.05 * found) < found < summed(forecast, outcome, 0.95 * found) + 1e-12


@pytest.mark.parametrize(
    ("columns", "defined", "packaged"),
    [
        ((P_B, Y_B), 0.059473, 0.05788414753050693),
        (top(P_B, Y_B), 0.051722, 0.05154578859227338),
        ((P_A, Y_A), 0.102839, 0.10776368101809407),  # two of 16 forecasts are 0 and 1, which the package weighs by half
    ],
)
def test_how_far_the_package_lies_apart(columns, defined, packaged):
    """relplot 1.0.3 by execution, smECE(f, y): the golden vectors. It takes the value at a width up to 1/1024 above the fixed point."""
    assert functional.smece(*columns) == pytest.approx(defined, abs=1e-6)
    assert functional.smece(*columns) == pytest.approx(packaged, rel=0.05)


def test_a_forecast_that_is_always_right_has_none():
    assert functional.smece(np.array([0.0, 1.0, 1.0]), np.array([0, 1, 1])) == 0.0


def test_order_and_mirror_change_nothing():
    assert functional.smece(P_B[::-1], Y_B[::-1]) == pytest.approx(functional.smece(P_B, Y_B), abs=1e-9)
    assert functional.smece(1 - P_B, 1 - Y_B) == pytest.approx(functional.smece(P_B, Y_B), abs=1e-9)


def test_refusals():
    with pytest.raises(LabError, match="1.2 given; probabilities lie in"):
        functional.smece(np.array([0.2, 1.2]), np.array([0, 1]))
