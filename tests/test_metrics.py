"""Metrics against the golden vectors, against other libraries where conventions coincide, and saying where they do not."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prediction_tables import from_log_odds

from lab.answers.choice import sigmoid
from lab.errors import LabError
from lab.statistics import functional
from lab.statistics.metrics import summarise

EXACT = 1e-9

# A: edge cases. Probabilities sit on bin edges on purpose, so that the edge rule shows.
P_A = np.array([.05, .10, .20, .30, .40, .50, .55, .60, .70, .80, .90, .95, 1, 0, .62, .58])  # fmt: skip
Y_A = np.array([0, 0, 1, 0, 1, 1, 0, 1, 1, 0, 1, 1, 1, 0, 0, 1])
# B: 1,000 points off every edge, without a random generator.
_I = np.arange(1, 1001)
P_B = np.mod(_I * 0.6180339887498949, 1)
Y_B = (np.mod(_I * 0.7548776662466927, 1) < P_B + 0.35 * np.sin(29 * P_B)).astype(int)


def top(p, y):
    """Confidence and correctness of the answer p >= 1/2."""
    return np.maximum(p, 1 - p), (p >= 0.5) == y


def table_of(p, y, **more):
    return from_log_odds(np.log(p) - np.log1p(-p), y, **more)


def test_golden_a_means():
    confidence, correct = top(P_A, Y_A)
    assert functional.mean("correct", correct) == pytest.approx(0.6875, abs=EXACT)
    assert confidence.mean() == pytest.approx(0.759375, abs=EXACT)
    assert functional.brier(P_A, Y_A) == pytest.approx(0.19489375, abs=EXACT)
    assert functional.nll(P_A, Y_A) == pytest.approx(0.54228849, abs=5e-9)  # printed to 8 digits


@pytest.mark.parametrize(
    ("kind", "num_bins", "expected"),
    [("top", 10, 0.171875), ("top", 15, 0.246875), ("p_true", 10, 0.243125), ("p_true", 15, 0.280625)],
)
def test_golden_a_equal_width(kind, num_bins, expected):
    columns = top(P_A, Y_A) if kind == "top" else (P_A, Y_A)
    assert functional.ece(*columns, num_bins) == pytest.approx(expected, abs=EXACT)


@pytest.mark.parametrize(("num_bins", "expected"), [(10, 0.184375), (15, 0.286875)])
def test_golden_a_equal_mass(num_bins, expected):
    assert functional.ece_equal_mass(*top(P_A, Y_A), num_bins) == pytest.approx(expected, abs=EXACT)


def test_golden_b_means():
    confidence, correct = top(P_B, Y_B)
    assert Y_B.mean() == pytest.approx(0.516, abs=EXACT)
    assert functional.mean("correct", correct) == pytest.approx(0.708, abs=EXACT)
    assert confidence.mean() == pytest.approx(0.749979900005037, abs=EXACT)
    assert functional.brier(P_B, Y_B) == pytest.approx(0.19239440559471283, abs=EXACT)
    assert functional.nll(P_B, Y_B) == pytest.approx(0.5872573678165041, abs=EXACT)
    assert functional.auroc(P_B, Y_B) == pytest.approx(0.782204977897367, abs=EXACT)
    assert functional.auroc(confidence, correct) == pytest.approx(0.6786916647318317, abs=EXACT)


@pytest.mark.parametrize(
    ("num_bins", "of_top", "of_p_true"),
    [
        (10, 0.07261611461002374, 0.11577268881538093),
        (15, 0.07357371520779128, 0.16920890103602165),
        (20, 0.08163310898497145, 0.17602156626983492),
    ],
)
def test_golden_b_equal_width(num_bins, of_top, of_p_true):
    assert functional.ece(*top(P_B, Y_B), num_bins) == pytest.approx(of_top, abs=EXACT)
    assert functional.ece(P_B, Y_B, num_bins) == pytest.approx(of_p_true, abs=EXACT)


@pytest.mark.parametrize(
    ("num_bins", "of_top", "of_p_true"),
    [(10, 0.08103325561245861, 0.11397312869784243), (15, 0.08349094274536176, 0.1708112999613853)],
)
def test_golden_b_equal_mass(num_bins, of_top, of_p_true):
    assert functional.ece_equal_mass(*top(P_B, Y_B), num_bins) == pytest.approx(of_top, abs=EXACT)
    assert functional.ece_equal_mass(P_B, Y_B, num_bins) == pytest.approx(of_p_true, abs=EXACT)


def test_golden_b_maximum():
    assert functional.mce(*top(P_B, Y_B)) == pytest.approx(0.13803378963631996, abs=EXACT)
    assert functional.mce(P_B, Y_B) == pytest.approx(0.3183322337641315, abs=EXACT)


def test_golden_b_debiased():
    """uncertainty-calibration 0.1.4 by execution: one column; two with mode="top-label"; two with "marginal".

    "marginal" is the root mean square over the columns P(True) and P(False): 0.18956279388293246 by execution with numpy
    2.4. The golden .18956278 is a misprint by 1.4e-8: neither that number rounded nor cut off.
    """
    of_true, of_false = functional.ece_debiased(P_B, Y_B), functional.ece_debiased(1 - P_B, 1 - Y_B)
    assert of_true == pytest.approx(0.18855915372721258, abs=EXACT)
    assert functional.ece_debiased(*top(P_B, Y_B)) == pytest.approx(0.0783616903309976, abs=EXACT)
    marginal = np.sqrt((of_true**2 + of_false**2) / 2)
    assert marginal == pytest.approx(0.18956279388293246, abs=EXACT)
    assert marginal == pytest.approx(0.18956278, abs=2e-8)


def test_debiased_is_nearer_to_the_truth_of_a_calibrated_forecast():
    generator = np.random.default_rng(0)
    plain, debiased = [], []
    for _ in range(50):
        p = generator.uniform(size=600)
        y = generator.uniform(size=600) < p
        bins = functional.equal_mass_bins(p, y)
        plain.append(np.sqrt(bins.weight @ bins.gap**2))
        debiased.append(functional.ece_debiased(p, y))
    assert np.mean(debiased) < 0.5 * np.mean(plain)


@pytest.mark.parametrize("num_bins", [10, 15, 20])
def test_netcal_agrees_off_the_edges(num_bins):
    from netcal.metrics import ECE, MCE

    assert ECE(num_bins).measure(P_B, Y_B) == pytest.approx(functional.ece(P_B, Y_B, num_bins), abs=EXACT)
    assert MCE(num_bins).measure(P_B, Y_B) == pytest.approx(functional.mce(P_B, Y_B, num_bins), abs=EXACT)


def test_netcal_differs_where_conventions_do():
    from netcal.metrics import ACE, ECE

    assert abs(ECE(10).measure(P_A, Y_A) - functional.ece(P_A, Y_A, 10)) > 0.03  # [lo,hi) is not (lo,hi]
    ten, fifteen = (ECE(m, equal_intervals=False).measure(P_B, Y_B) for m in (10, 15))
    assert ten == pytest.approx(functional.ece_equal_mass(P_B, Y_B, 10), abs=EXACT)
    assert fifteen == pytest.approx(0.16881039, abs=5e-9)  # quantile edges, not array_split
    assert abs(fifteen - functional.ece_equal_mass(P_B, Y_B, 15)) > 1e-3
    for num_bins, unweighted in ((10, 0.11574664), (15, 0.16944367)):  # ACE: plain mean over bins
        assert ACE(num_bins).measure(P_B, Y_B) == pytest.approx(unweighted, abs=5e-9)


def test_torchmetrics_agrees_off_the_edges_in_float32():
    torch = pytest.importorskip("torch")
    from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

    p, y = torch.tensor(P_B, dtype=torch.float64), torch.tensor(Y_B)
    two = torch.stack([1 - p, p], dim=1)
    for num_bins in (10, 15, 20):
        binary = float(binary_calibration_error(p, y, n_bins=num_bins, norm="l1"))
        assert binary == pytest.approx(functional.ece(P_B, Y_B, num_bins), abs=1e-7)
        multi = float(multiclass_calibration_error(two, y, num_classes=2, n_bins=num_bins, norm="l1"))
        assert multi == pytest.approx(functional.ece(*top(P_B, Y_B), num_bins), abs=1e-7)


def test_torchmetrics_moves_points_on_the_edges():
    torch = pytest.importorskip("torch")
    from torchmetrics.functional.classification import binary_calibration_error

    moved = float(binary_calibration_error(torch.tensor(P_A), torch.tensor(Y_A), n_bins=10, norm="l1"))
    assert moved == pytest.approx(0.193125, abs=1e-6)  # float32 edges: neither rule in float64
    assert abs(moved - functional.ece(P_A, Y_A, 10)) > 0.01


def test_scikit_learn_agrees():
    from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

    generator = np.random.default_rng(3)
    coarse = np.round(generator.uniform(0.01, 0.99, 700), 1).clip(0.1, 0.9)  # many ties
    for p, y in ((P_B, Y_B), (coarse, generator.integers(0, 2, 700))):
        assert functional.brier(p, y) == pytest.approx(brier_score_loss(y, p), abs=1e-12)
        assert functional.nll(p, y) == pytest.approx(log_loss(y, p), abs=1e-12)
        assert functional.auroc(p, y) == pytest.approx(roc_auc_score(y, p), abs=1e-12)


def test_brier_parts_add_up():
    parts = functional.brier_parts(P_B, Y_B)
    total = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["within_bin"]
    assert total == pytest.approx(functional.brier(P_B, Y_B), abs=1e-12)
    assert parts["uncertainty"] == pytest.approx(0.516 * 0.484, abs=1e-12)
    coarse = np.round(P_B, 1)  # one forecast in each of 11 bins: Murphy's identity without the rest
    murphy = functional.brier_parts(coarse, Y_B, num_bins=11)
    assert murphy["within_bin"] == pytest.approx(0, abs=1e-12)


def test_risk_coverage_by_hand():
    coverage, risk = functional.risk_coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 0, 1, 0]))
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])
    assert functional.aurc(np.array([0.9, 0.8, 0.7, 0.6]), np.array([1, 0, 1, 0])) == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 4)


def test_risk_coverage_of_ties_is_the_mean_over_orders():
    """All confidences equal: every order is as good, so the risk is the error rate at every coverage."""
    assert functional.aurc(np.full(10, 0.8), np.arange(10) < 7) == pytest.approx(0.3)
    generator = np.random.default_rng(0)
    confidence, correct = np.array([0.9, 0.7, 0.7, 0.7, 0.6]), np.array([1, 1, 0, 0, 1])
    orders = []
    for _ in range(4000):
        order = np.lexsort((generator.uniform(size=5), -confidence))
        orders.append((np.cumsum(1 - correct[order]) / np.arange(1, 6)).mean())
    assert functional.aurc(confidence, correct) == pytest.approx(np.mean(orders), abs=5e-3)


def test_consistency_and_its_levels():
    group = np.array(["a", "a", "b", "c", "c", "c"])
    correct = np.array([1, 1, 0, 1, 1, 0])
    assert functional.consistency(correct, group) == pytest.approx(1 / 3)
    assert functional.consistency_by_chance(group) == pytest.approx((1 / 4 + 1 / 2 + 1 / 8) / 3)


def test_reliability_bins_keep_every_point():
    bins = functional.reliability_bins(np.array([0.0, 1.0, 0.2, 0.21]), np.array([0, 1, 1, 0]), num_bins=5)
    assert bins.count.tolist() == [2, 1, 0, 0, 1]
    assert np.isnan(bins.mean_outcome[2]) and bins.gap[2] == 0
    assert bins.lower.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def test_equal_mass_bins_with_fewer_examples_than_bins():
    assert functional.equal_mass_bins(np.array([0.2, 0.9]), np.array([0, 1]), 15).count.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: functional.mean("correct", np.array([])), "at least one example"),
        (lambda: functional.mean("correct", np.array([1.0, np.nan])), "NaN in 1 of 2"),
        (lambda: functional.ece(np.array([0.5]), np.array([1, 0])), "1 and 2 examples"),
        (lambda: functional.ece(P_A, Y_A, num_bins=0), "at least one bin"),
        (lambda: functional.mean("correct", np.array(["yes"])), "numbers or booleans"),
        (lambda: functional.consistency(np.array([1, 0]), np.array(["a"])), "2 examples and group 1"),
    ],
)
def test_refusals(call, says):
    with pytest.raises(LabError, match=says):
        call()


def test_auroc_of_one_class_is_undefined():
    assert np.isnan(functional.auroc(np.array([0.1, 0.9]), np.array([1, 1])))


def test_summarise_is_the_functions_on_the_columns():
    group = [f"{i // 3}" for i in range(1000)]
    image_set = [f"{i // 6}" for i in range(1000)]
    mass = np.where(np.arange(1000) < 250, 0.4, 0.9)
    summary = summarise(table_of(P_B, Y_B, image_set=image_set, group=group, log_mass=np.log(mass)))
    confidence, correct = top(P_B, Y_B)
    expected = {
        "accuracy": 0.708,
        "ece": 0.07357371520779128,
        "ece_equal_mass": 0.08349094274536176,
        "ece_p_true": 0.16920890103602165,
        "ece_debiased": 0.0783616903309976,
        "smece": functional.smece(confidence, correct),
        "mce": 0.13803378963631996,
        "brier": 0.19239440559471283,
        "nll": 0.5872573678165041,
        **{f"brier_{key}": value for key, value in functional.brier_parts(P_B, Y_B).items()},
        "auroc_label": 0.782204977897367,
        "auroc_confidence": 0.6786916647318317,
        "aurc": functional.aurc(confidence, correct),
        "consistency": functional.consistency(correct, np.array(group)),
        "captured_mass": 0.775,
        "captured_mass_below_half": 0.25,
        "num_examples": 1000,
        "num_image_sets": 167,
        "num_sentence_groups": 334,
    }
    assert {name: summary[name] for name in expected} == pytest.approx(expected, abs=EXACT)


def test_confidence_is_of_the_recorded_answer():
    table = table_of(np.array([0.8, 0.3]), np.array([1, 1]))
    assert table.confidence == pytest.approx([0.8, 0.7])
    other = table.replace(prediction=np.array([1, 1]))  # free text may disagree with the likelier answer
    assert other.confidence == pytest.approx([0.2, 0.7])


def test_sigmoid_at_the_ends():
    assert sigmoid(np.array([-np.inf, -800.0, 0.0, 800.0, np.inf])).tolist() == [0, 0, 0.5, 1, 1]


def test_imports_are_light():
    """numpy and pyarrow only: a report must not wait for torch."""
    heavy = "torch", "scipy", "sklearn", "torchmetrics", "pandas", "transformers"
    modules = [f"lab.statistics.{name}" for name in ("metrics", "smoothing", "calibration", "comparing", "verdict", "summary")]
    code = f"import sys, {', '.join(modules)}; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), st.booleans()), min_size=2, max_size=40))
def test_only_the_order_of_confidences_counts_for_selective_prediction(answers: list[tuple[float, bool]]) -> None:
    """Any increasing map leaves both as they are; no order has a smaller area than right answers first, none a larger one than last."""
    confidence, correct = np.array([p for p, _ in answers]), np.array([right for _, right in answers])
    area, ranked = functional.aurc(confidence, correct), functional.auroc(confidence, correct)
    assert functional.aurc(np.exp(3 * confidence), correct) == pytest.approx(area)
    assert functional.aurc(correct.astype(float), correct) <= area + 1e-12 <= functional.aurc(-correct.astype(float), correct) + 2e-12
    if correct.any() and not correct.all():
        assert functional.auroc(np.exp(3 * confidence), correct) == pytest.approx(ranked)
        assert functional.auroc(-confidence, correct) == pytest.approx(1 - ranked)
    coverage, risk = functional.risk_coverage(confidence, correct)
    assert risk[-1] == pytest.approx(1 - correct.mean()) and coverage[-1] == 1
