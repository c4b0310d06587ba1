"""Intervals and paired comparisons against loops written out, exact counts, and scipy."""

import itertools
import time
from dataclasses import asdict

import numpy as np
import pytest
from prediction_tables import guesses, nested, rival
from scipy.stats import binomtest

from lab.errors import DataError, LabError
from lab.statistics import comparing, intervals, resampling
from lab.statistics.metrics import KINDS, ratio

METRICS = KINDS["choice"].metrics
# captured_mass_below_half is left out: the mass is 1 in all tables here
ADDITIVE = sorted(name for name, metric in METRICS.items() if metric.additive and name != "captured_mass_below_half")


def draws_as_counts(num_clusters, num_resamples, seed):
    return np.concatenate([sums for _, sums in resampling.drawn_sums(np.eye(num_clusters), num_resamples, seed)])


# --- clusters ---------------------------------------------------------------------------------------------------------


def test_clusters_are_the_image_sets_where_sentences_stay_inside():
    table = nested()
    _, sets = np.unique(table.image_set, return_inverse=True)
    assert np.array_equal(resampling.clusters(table), sets)


def test_clusters_join_image_sets_that_share_a_sentence():
    """data=pairs: blocks of four pairs and four sentences, every sentence asked of every pair."""
    cells = [(4 * block + i, 4 * block + j) for block in range(10) for i in range(4) for j in range(4)]
    table = guesses(np.random.default_rng(0), [i for i, _ in cells], [j for _, j in cells])
    cluster = resampling.clusters(table).reshape(10, 16)
    assert (cluster == cluster[:, :1]).all() and sorted(cluster[:, 0].tolist()) == list(range(10))


def test_one_cluster_cannot_be_resampled():
    table = guesses(np.random.default_rng(0), ["a"] * 6, ["s"] * 6)
    with pytest.raises(LabError, match="all 6 examples hang together in one cluster"):
        intervals.interval(table)


# --- intervals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADDITIVE)
def test_resampled_sums_equal_resampled_examples(name):
    """The matrix product gives what drawing whole clusters of examples gives, copy by copy."""
    table = nested(12)
    cluster = resampling.clusters(table)
    sums = METRICS[name].cluster_sums(table, cluster)
    fast = np.concatenate([METRICS[name].value(part) for _, part in resampling.drawn_sums(sums, 2000, 5)])
    for resample, counts in list(enumerate(draws_as_counts(12, 2000, 5)))[:60]:
        rows, copy = [], []
        for c, count in enumerate(counts.astype(int)):
            for k in range(count):
                members = np.flatnonzero(cluster == c)
                rows += members.tolist()
                copy += [k] * len(members)
        drawn = table.take(np.array(rows))
        own = np.array([f"{g}/{k}" for g, k in zip(drawn.question_group, copy, strict=True)])
        drawn = drawn.replace(question_group=own)  # a cluster drawn twice brings its groups twice
        assert fast[resample] == pytest.approx(METRICS[name].of(drawn), abs=1e-12)
    assert METRICS[name].value(sums.sum(axis=0)) == pytest.approx(METRICS[name].of(table), abs=1e-12)


def test_interval_agrees_with_the_cluster_robust_error():
    from lab.statistics.power_analysis import cluster_error

    table = nested(400, seed=2)
    found = intervals.interval(table, num_resamples=4000)
    error = cluster_error(table.correct, resampling.clusters(table))
    assert found.estimate == table.correct.mean()
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert (found.num_clusters, found.num_examples) == (400, len(table))


def test_any_other_metric_takes_the_general_path():
    table = nested(60)
    names = ("auroc_label", "aurc", "ece_debiased")
    found = intervals.intervals([table], names, seed=3)[0]
    cluster = resampling.clusters(table)
    drawn = [METRICS["aurc"].of(table.take(rows)) for rows in resampling.drawn_rows(cluster, 2000, 3)]
    expected = np.quantile(drawn, [0.025, 0.975])
    assert (found["aurc"].low, found["aurc"].high) == pytest.approx(tuple(expected), abs=1e-12)
    for name in names:
        assert found[name].low < found[name].high
        assert found[name].estimate == METRICS[name].of(table)


def test_general_path_draws_whole_clusters():
    table = nested(15)
    cluster = resampling.clusters(table)
    size = np.bincount(cluster)
    seen = np.zeros(len(size))
    for rows in resampling.drawn_rows(cluster, 2000, 0):
        times = np.bincount(rows, minlength=len(cluster))
        assert all(np.ptp(times[cluster == c]) == 0 for c in range(3))
        copies = np.bincount(cluster[rows], minlength=len(size)) / size
        assert copies.sum() == len(size)
        seen += copies
    assert seen / 2000 == pytest.approx(np.ones(len(size)), abs=0.1)


def test_seeds_give_the_same_interval_and_other_seeds_another():
    table = nested()
    assert intervals.interval(table, seed=1) == intervals.interval(table, seed=1)
    assert intervals.interval(table, seed=1) != intervals.interval(table, seed=2)


def test_chunks_do_not_change_the_draws(monkeypatch):
    whole = draws_as_counts(30, 2000, 4)
    monkeypatch.setattr(resampling, "_CELLS", 5000)
    assert np.array_equal(draws_as_counts(30, 2000, 4), whole)


@pytest.mark.parametrize("clustered", [True, False])
def test_seven_thousand_examples_in_a_third_of_a_second(clustered):
    image_set = np.arange(7000) * 1054 // 7000
    table = guesses(np.random.default_rng(0), image_set, np.arange(7000))
    cluster = resampling.clusters(table) if clustered else np.arange(7000)
    took = []
    for _ in range(5):
        start = time.process_time()
        intervals.interval(table, "accuracy", num_resamples=2000, cluster=cluster)
        took.append(time.process_time() - start)
    assert min(took) < 0.3


# --- two arms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ADDITIVE)
def test_compare_against_a_loop(name):
    first = nested(10, seed=3)
    second = rival(first, 4)
    found = comparing.compare(first, second, name, seed=6)
    cluster = resampling.clusters(first)
    sums = [METRICS[name].cluster_sums(t, cluster) for t in (first, second)]
    value = METRICS[name].value
    counts = draws_as_counts(10, 2000, 6)
    drawn = [value(c @ sums[0]) - value(c @ sums[1]) for c in counts]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])), abs=1e-12)
    assert found.difference == pytest.approx(METRICS[name].of(first) - METRICS[name].of(second), abs=1e-12)
    at_least = 0
    for swapped in itertools.product([False, True], repeat=10):  # every swap of the arms in the ten clusters
        swap = np.array(swapped)[cluster]
        mixed = [
            a.replace(
                log_p=np.where(swap[:, None], b.log_p, a.log_p),
                captured_mass=np.where(swap, b.captured_mass, a.captured_mass),
                prediction=np.where(swap, b.prediction, a.prediction),
            )
            for a, b in ((first, second), (second, first))
        ]
        gap = abs(METRICS[name].of(mixed[0]) - METRICS[name].of(mixed[1]))
        at_least += gap >= abs(found.difference) - 1e-12
    assert found.p_value == pytest.approx(at_least / 1024, abs=1e-15)


def test_sampled_swaps_agree_with_all_swaps(monkeypatch):
    generator = np.random.default_rng(0)
    a, b = generator.normal(0.4, 1, (13, 1)), generator.normal(0, 1, (13, 1))
    ones = np.ones((13, 1))
    sums = np.concatenate([a, ones], 1), np.concatenate([b, ones], 1)
    exact = resampling.swap_p_value(*sums, ratio, 0, 0)
    monkeypatch.setattr(resampling, "_EXACT", 0)
    assert resampling.swap_p_value(*sums, ratio, 40000, 0) == pytest.approx(float(exact), abs=0.008)


def test_row_order_does_not_matter():
    first = nested(30)
    second = rival(first, 1)
    shuffled = second.take(np.random.default_rng(0).permutation(len(second)))
    assert comparing.compare(first, shuffled) == comparing.compare(first, second)


def test_exchanging_the_arms_mirrors_the_result():
    first = nested(30)
    second = rival(first, 1)
    one, other = comparing.compare(first, second), comparing.compare(second, first)
    assert (one.difference, one.low, one.high) == pytest.approx((-other.difference, -other.high, -other.low), abs=1e-12)
    assert (one.p_value, one.mcnemar_p, one.discordant) == (other.p_value, other.mcnemar_p, other.discordant[::-1])


def test_an_arm_does_not_differ_from_itself():
    table = nested(30)
    for name in ADDITIVE:
        found = comparing.compare(table, table, name)
        assert (found.difference, found.p_value) == (0, 1)
        if name == "accuracy":  # 30 clusters or a little fewer, the larger counting for more: about 3 / 30
            assert -found.low == found.high and 0.09 < found.high < 0.2
        else:
            assert not found.has_interval and "every resample gives the same number" in found.method


def test_other_items_are_refused():
    table = nested(30)
    n = len(table)
    names = table.sample_id.copy()
    names[:2] = ["new-1", "new-2"]
    with pytest.raises(DataError, match=f"3 samples only in the first table and 2 only in the second, {n - 3} in both"):
        comparing.compare(table, table.replace(sample_id=names).take(np.r_[0 : n - 1]))
    right = table.right.copy()
    right[5] = 1 - right[5]
    with pytest.raises(DataError, match=f"1 of {n} samples have another label"):
        comparing.compare(table, table.replace(right=right))


def test_unknown_names_are_refused():
    table = nested(5)
    with pytest.raises(LabError, match="Did you mean 'accuracy'"):
        intervals.interval(table, "acuracy")
    with pytest.raises(LabError, match="metric='aurc': it is no sum over examples"):
        comparing.compare(table, table, "aurc")
    with pytest.raises(LabError, match="num_examples.: more of it is neither"):
        intervals.interval(table, "num_examples")
    with pytest.raises(LabError, match="evaluation.bootstrap=100: too few"):
        intervals.interval(table, num_resamples=100)
    with pytest.raises(LabError, match="level=95"):
        intervals.interval(table, level=95)


# --- p-values ---------------------------------------------------------------------------------------------------------


def test_mcnemar_is_the_exact_binomial_test():
    for b, c in itertools.product([0, 1, 2, 5, 9, 10, 30, 300, 700], repeat=2):
        expected = binomtest(min(b, c), b + c, 0.5).pvalue if b + c else 1.0
        assert comparing.mcnemar(b, c) == pytest.approx(expected, rel=1e-9), (b, c)
    assert comparing.mcnemar(40000, 41000) == pytest.approx(binomtest(40000, 81000, 0.5).pvalue, rel=1e-9)
    with pytest.raises(LabError, match="counts"):
        comparing.mcnemar(-1, 3)


def test_mcnemar_counts_discordant_examples():
    first = nested(30)
    second = rival(first, 1)
    found = comparing.compare(first, second)
    only_first = sum(bool(a) and not b for a, b in zip(first.correct, second.correct, strict=True))
    only_second = sum(bool(b) and not a for a, b in zip(first.correct, second.correct, strict=True))
    assert found.discordant == (only_first, only_second)
    assert found.difference == pytest.approx((only_first - only_second) / len(first), abs=1e-12)
    assert asdict(comparing.compare(first, second, "brier"))["mcnemar_p"] is None


def test_holm_by_hand_and_by_its_procedure():
    assert comparing.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert comparing.holm([0.9, 0.8]).tolist() == [1, 1]
    assert comparing.holm([]).tolist() == []
    generator = np.random.default_rng(0)
    for _ in range(200):  # reject while p_(i) < alpha / (m - i + 1), then stop
        p = generator.uniform(0, 0.05, generator.integers(1, 8))
        alpha, rejected = 0.05, set()
        for i, k in enumerate(np.argsort(p)):
            if p[k] > alpha / (len(p) - i):
                break
            rejected.add(int(k))
        assert set(np.flatnonzero(comparing.holm(p) <= alpha).tolist()) == rejected
    for bad in ([0.5, float("nan")], [1.5], [-0.1]):
        with pytest.raises(LabError, match="from 0 to 1"):
            comparing.holm(bad)


def test_many_pairs_side_by_side_are_each_pair_alone():
    """Shared resamples and swaps change no bit of any pair, however many stand beside it; other clusters are refused."""
    first = nested(40)
    others = [rival(first, seed, 0.1 * (seed + 1)) for seed in range(5)]
    for name in ("accuracy", "ece"):
        together = comparing.compare_paired([comparing.paired(first, other, name) for other in others])
        alone = [comparing.compare(first, other, name) for other in others]
        if name == "accuracy":  # sums of whole numbers
            assert together == alone
        for one, other in zip(together, alone, strict=True):
            assert (one.low, one.high, one.p_value) == pytest.approx((other.low, other.high, other.p_value), abs=1e-12)
    assert comparing.compare_paired([]) == []
    small = nested(20)
    with pytest.raises(LabError, match="equally many clusters"):
        comparing.compare_paired([comparing.paired(first, others[0]), comparing.paired(small, rival(small, 1))])


def test_what_is_derived_from_a_table_cannot_be_written_to():
    table = nested(5)
    with pytest.raises(ValueError, match="read-only"):
        table.correct[0] = True
    assert table.correct is table.correct and table.take(np.arange(3)).correct.tolist() == table.correct[:3].tolist()
    turned = table.replace(prediction=1 - table.prediction)
    assert (turned.correct == ~table.correct).all()
