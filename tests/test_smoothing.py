"""Smooth ECE: its definition summed directly, the authors' package by its own numbers, and how far the two lie apart."""

import numpy as np
import pytest
from test_metrics import EXACT, P_A, P_B, Y_A, Y_B, top

from lab.errors import LabError
from lab.statistics import metrics, smoothing


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


@pytest.mark.parametrize(
    ("columns", "value", "width"),
    [
        ((P_B, Y_B), 0.05788414753050693, 62 / 1024),
        (top(P_B, Y_B), 0.05154578859227338, 54 / 1024),
        ((P_A, Y_A), 0.10776368101809407, 111 / 1024),
        (top(P_A, Y_A), 0.09027484378054135, 93 / 1024),
        ((1 / (1 + np.exp(16 - 32 * P_B)), Y_B), 0.2519246597370071, 259 / 1024),  # crowded at the ends
        ((np.array([1.0, 1.0, 0.0]), np.array([1, 0, 0])), 0.33330771223970806, 342 / 1024),
        ((np.array([0.0, 1.0]), np.array([0, 1])), 0.0, 2 / 1024),
    ],
)
def test_relplot_by_its_own_numbers(columns, value, width):
    """relplot 1.0.3 by execution (numpy 2.4): smECE(f, y, return_width=True). Rows 1 to 3 are the golden vectors."""
    forecast, outcome = columns
    assert metrics.smece(forecast, outcome, "relplot") == pytest.approx(value, abs=EXACT)
    assert smoothing.as_relplot(forecast, outcome - forecast)[1] == width


def test_relplot_where_its_grid_has_no_middle():
    """A width under 1/100 may give an even number of nodes, and relplot's kernel then lies half a cell aside."""
    i = np.arange(1, 40001)
    forecast = np.mod(i * 0.6180339887498949, 1)
    outcome = (np.mod(i * 0.7548776662466927, 1) < forecast).astype(float)
    value, width = smoothing.as_relplot(forecast, outcome - forecast)
    assert round(10 / width) % 2 == 1
    assert (value, width) == (pytest.approx(0.0017320930408391587, abs=EXACT), 3 / 1024)


@pytest.mark.parametrize("columns", [(P_B, Y_B), top(P_B, Y_B), (P_A, Y_A), few_large(0), few_large(1)])
def test_the_definition_summed_directly(columns):
    forecast, outcome = columns
    found = metrics.smece(forecast, outcome)
    assert summed(forecast, outcome, found) == pytest.approx(found, rel=1e-4)
    assert summed(forecast, outcome, 1.05 * found) < found < summed(forecast, outcome, 0.95 * found) + 1e-12


@pytest.mark.parametrize(
    ("columns", "defined", "packaged"),
    [
        ((P_B, Y_B), 0.059473, 0.057884),  # the value at a width 1.8 % above the fixed point
        (top(P_B, Y_B), 0.051722, 0.051546),
        ((P_A, Y_A), 0.102839, 0.107764),  # two of 16 forecasts are 0 and 1: they count half, so the rest counts more
        ((1 / (1 + np.exp(16 - 32 * P_B)), Y_B), 0.228381, 0.251925),
    ],
)
def test_how_far_the_conventions_lie_apart(columns, defined, packaged):
    assert metrics.smece(*columns) == pytest.approx(defined, abs=1e-6)
    assert metrics.smece(*columns, "relplot") == pytest.approx(packaged, abs=1e-6)


def test_half_weight_at_the_ends_is_why():
    """With every forecast away from 0 and 1, and at one width, the two conventions agree."""
    forecast = 0.1 + 0.8 * P_B
    at = summed(forecast, Y_B, 0.05)
    assert smoothing.relplot_at(forecast, Y_B - forecast, 0.05) == pytest.approx(at, rel=2e-3)


def test_a_forecast_that_is_always_right_has_none():
    assert metrics.smece(np.array([0.0, 1.0, 1.0]), np.array([0, 1, 1])) == 0.0


def test_order_and_mirror_change_nothing():
    assert metrics.smece(P_B[::-1], Y_B[::-1]) == pytest.approx(metrics.smece(P_B, Y_B), abs=1e-9)
    assert metrics.smece(1 - P_B, 1 - Y_B) == pytest.approx(metrics.smece(P_B, Y_B), abs=1e-9)


def test_refusals():
    with pytest.raises(LabError, match="convention='paper': legal are 'definition'"):
        metrics.smece(P_B, Y_B, "paper")
    with pytest.raises(LabError, match="1.2 given; probabilities lie in"):
        metrics.smece(np.array([0.2, 1.2]), np.array([0, 1]))
