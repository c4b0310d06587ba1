"""Temperature scaling: the golden optimum, the limits, and who may be judged by it."""

import numpy as np
import pytest
from prediction_tables import from_log_odds
from scipy.optimize import minimize_scalar

from lab.errors import LabError
from lab.statistics import calibration
from lab.statistics.metrics import summarise

_I = np.arange(1, 1001)
P_B = np.mod(_I * 0.6180339887498949, 1)
Y_B = np.mod(_I * 0.7548776662466927, 1) < P_B + 0.35 * np.sin(29 * P_B)


def golden(split="minival"):
    return from_log_odds(np.log(P_B) - np.log1p(-P_B), Y_B, split=split)


def nll_at(z, label, temperature):
    """mean log(1 + exp(-s z / T)), s = +1 for True and -1 for False."""
    return float(np.logaddexp(0.0, -np.where(label, z, -z) / temperature).mean())


def test_golden_b():
    fitted = calibration.fit(golden(), "minival")
    assert fitted.value == pytest.approx(1.4596037, abs=5e-8)
    assert (fitted.split, fitted.num_examples, fitted.at_limit) == ("minival", 1000, False)
    scaled = calibration.apply(fitted, golden(), allow_fitted=True)
    summary = summarise(scaled)
    assert summary["nll"] == pytest.approx(0.5724082488731373, abs=1e-9)
    assert summary["ece"] == pytest.approx(0.0608887, abs=5e-8)
    assert summary["brier"] == pytest.approx(0.1920093, abs=5e-8)


def test_optimum_is_stationary_and_agrees_with_scipy():
    generator = np.random.default_rng(0)
    for truth in (0.2, 0.7, 1.0, 3.0, 20.0):
        logit = generator.normal(0, 2, 4000)
        y = generator.uniform(size=4000) < 1 / (1 + np.exp(-logit))
        z = logit * truth  # over-confident by `truth`
        value, at_limit = calibration.minimise(z, y)
        slope = np.mean(np.where(y, z, -z) / (1 + np.exp(np.where(y, z, -z) / value)))
        assert not at_limit and abs(slope) < 1e-10 * np.abs(z).mean()
        assert value == pytest.approx(truth, rel=0.1)
        other = minimize_scalar(lambda t, z=z, y=y: nll_at(z, y, np.exp(t)), bounds=(-5, 5), method="bounded")
        assert nll_at(z, y, value) <= other.fun + 1e-12
        assert value == pytest.approx(np.exp(other.x), rel=1e-4)


def test_extreme_logits_converge():
    generator = np.random.default_rng(1)
    z = generator.standard_t(1, 3000) * 5  # Cauchy: the largest logit is in the thousands
    y = generator.uniform(size=3000) < 1 / (1 + np.exp(-np.clip(z, -2, 2)))
    value, at_limit = calibration.minimise(z, y)
    margin = np.where(y, z, -z)
    slope = np.mean(margin * np.exp(-np.logaddexp(0, margin / value)))
    assert not at_limit and abs(slope) < 1e-9 * np.abs(z).mean()


def test_limits_are_said():
    z = np.array([1.0, -2.0, 3.0])
    assert calibration.minimise(z, z > 0) == (calibration.COLDEST, True)  # all right: the colder the better
    assert calibration.minimise(z, z < 0) == (calibration.HOTTEST, True)  # all wrong: a coin is better
    assert calibration.minimise(np.zeros(3), z > 0) == (1.0, True)  # nothing to scale


def test_apply_keeps_answers_mass_and_rank():
    fitted = calibration.fit(golden("minival"), "minival")
    before = golden("dev")
    after = calibration.apply(fitted, before)
    assert (after.prediction == before.prediction).all()
    assert ((after.p_true >= 0.5) == (before.p_true >= 0.5)).all()
    assert np.exp(after.log_p_true) + np.exp(after.log_p_false) == pytest.approx(before.captured_mass)
    assert after.log_odds == pytest.approx(before.log_odds / fitted.value)
    kept, scaled = summarise(before), summarise(after)
    for name in ("accuracy", "auroc_label", "auroc_confidence", "aurc", "consistency", "captured_mass"):
        assert scaled[name] == pytest.approx(kept[name], abs=1e-12)


def test_refuses_to_judge_what_it_was_fitted_on():
    fitted = calibration.fit(golden("minival"), "minival")
    with pytest.raises(LabError, match="1000 of 1000 samples were used to fit the temperature on 'minival'"):
        calibration.apply(fitted, golden("minival"))
    mixed = golden("dev")
    names = mixed.sample_id.astype("U20")
    names[:3] = golden("minival").sample_id[:3]
    with pytest.raises(LabError, match="3 of 1000 samples"):
        calibration.apply(fitted, mixed.replace(sample_id=names))
    assert len(calibration.apply(fitted, golden("dev"))) == 1000


def test_refusals():
    with pytest.raises(LabError, match="name the split"):
        calibration.fit(golden(), "")
    z = np.array([np.inf, 1.0])
    with pytest.raises(LabError, match="1 of 2 log-odds are not finite"):
        calibration.minimise(z, z > 0)
