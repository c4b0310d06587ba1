"""The smallest detectable difference: the published table, and the design effect."""

import numpy as np
import pytest
from prediction_tables import nested, rival

from lab.errors import LabError
from lab.statistics import power_analysis, resampling

SIZES = np.repeat(np.arange(1, 9), [3, 18, 34, 62, 85, 177, 294, 381])  # NLVR2 dev: examples of its 1,054 image sets


@pytest.mark.parametrize(
    ("num", "expected"),
    [(985, (2.00, 2.82, 3.99)), (2300, (1.31, 1.85, 2.61)), (3562, (1.05, 1.48, 2.10)), (6982, (0.75, 1.06, 1.50))],
)
def test_independent_examples_give_the_known_table(num, expected):
    """domain facts 1.9: percentage points at discordance 5, 10, 20 %."""
    found = [round(100 * power_analysis.smallest_detectable(num, q), 2) for q in (0.05, 0.10, 0.20)]
    assert found == list(expected)


def test_clusters_widen_it_by_the_root_of_the_design_effect():
    alone = power_analysis.smallest_detectable(6982, 0.15)
    clustered = power_analysis.smallest_detectable(6982, 0.15, cluster_sizes=SIZES, icc=0.05)
    effect = power_analysis.design_effect(SIZES, 0.05)
    assert effect == pytest.approx(1 + (48660 / 6982 - 1) * 0.05, abs=1e-12)
    assert clustered == pytest.approx(alone * effect**0.5, rel=1e-3)  # and Student's quantile for 1,053
    assert power_analysis.smallest_detectable(60, 0.15, cluster_sizes=[15] * 4) > 1.4 * power_analysis.smallest_detectable(60, 0.15)


def test_intra_cluster_correlation_is_found_again():
    generator = np.random.default_rng(0)
    cluster = np.repeat(np.arange(len(SIZES) * 10), np.tile(SIZES, 10))
    for truth in (0.0, 0.05, 0.3):
        values = generator.normal(0, truth**0.5, cluster.max() + 1)[cluster]
        values = values + generator.normal(0, (1 - truth) ** 0.5, len(cluster))
        assert power_analysis.intra_cluster_correlation(values, cluster) == pytest.approx(truth, abs=0.01)
    assert power_analysis.intra_cluster_correlation(np.ones(6), np.array([0, 0, 1, 1, 2, 2])) == 0
    assert power_analysis.intra_cluster_correlation(np.arange(3.0), np.arange(3)) == 0


def test_cluster_error_of_single_examples_is_the_plain_one():
    values = np.random.default_rng(1).normal(size=50)
    assert power_analysis.cluster_error(values, np.arange(50)) == pytest.approx(values.std(ddof=1) / 50**0.5, rel=1e-12)


def test_cluster_error_is_the_spread_over_fresh_clusters():
    generator = np.random.default_rng(2)
    cluster, means, errors = np.repeat(np.arange(len(SIZES)), SIZES), [], []
    for _ in range(400):
        values = generator.normal(0, 0.3, len(SIZES))[cluster] + generator.normal(0, 1, len(cluster))
        means.append(values.mean())
        errors.append(power_analysis.cluster_error(values, cluster))
    assert np.mean(errors) == pytest.approx(np.std(means, ddof=1), rel=0.08)


def test_measured_on_two_runs():
    first = nested(400, seed=3)
    second = rival(first, 4)
    found = power_analysis.resolution(first, second)
    d = first.correct.astype(float) - second.correct
    assert found.discordance == np.abs(d).mean()
    planned = power_analysis.smallest_detectable(
        len(first), found.discordance, cluster_sizes=np.bincount(resampling.clusters(first)), icc=found.icc
    )
    assert found.smallest_detectable == pytest.approx(planned, rel=0.1)
    assert found.num_clusters == 400
    same = power_analysis.resolution(first, first)
    assert (same.smallest_detectable, same.discordance, same.design_effect) == (0, 0, 1)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"discordance": 0}, "discordance in"),
        ({"discordance": 0.2, "icc": 2}, "icc in"),
        ({"discordance": 0.2, "cluster_sizes": [2, 3]}, "add up to 5, num_examples=100"),
        ({"discordance": 0.2, "cluster_sizes": [100]}, "two or more"),
        ({"discordance": 0.2, "cluster_sizes": [20] * 5, "icc": -0.5}, "too negative"),
        ({"discordance": 0.2, "power": 1.0}, "between 0 and 1"),
    ],
)
def test_refusals(how, says):
    with pytest.raises(LabError, match=says):
        power_analysis.smallest_detectable(100, **how)
