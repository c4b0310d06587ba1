"""Intervals of shares: coverage by exact sums, with clusters by simulation; words where no error or difference was seen."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from prediction_tables import from_log_odds, nested
from scipy.stats import binom

from lab.report.formatting import percent_within, points, unseen
from lab.statistics import intervals, proportions
from lab.statistics.comparing import compare
from lab.statistics.metrics import KINDS
from lab.statistics.seeds import compare_seeds, noise_floor
from lab.statistics.verdict import verdict

LEVEL = 0.95


def singles(right: int, size: int) -> np.ndarray:
    """Sums of clusters of one example each."""
    return np.stack([np.arange(size) < right, np.ones(size)], axis=1).astype(np.float64)


def covers(sums: np.ndarray, p: float) -> np.ndarray:
    """Whether the intervals of many worlds hold p; sums [C, worlds, 2]. By the tail at p, without looking for the ends."""
    size, whole = proportions.effective_size(sums, LEVEL), sums.sum(axis=0)
    tail = proportions._mid_tail(np.full(len(size), p), size * (whole[:, 0] / whole[:, 1]), size)
    return (tail >= (1 - LEVEL) / 2) & (tail <= (1 + LEVEL) / 2)


def test_coverage_by_exact_sums() -> None:
    """At least 93 % in every cell, at most 97 % where n (1 - p) >= 10. Run with -s for the table."""
    print("\n    n" + "".join(f"{name:>9}" for name in ("p = 0.5", "0.9", "0.99", "1 - 1/n")) + "   (coverage, %)")
    for n in (20, 100, 1000):
        right = np.arange(n + 1)
        low, high = proportions.limits(right, np.full(n + 1, n), LEVEL)
        shares = (0.5, 0.9, 0.99, 1 - 1 / n)
        covered = [binom.pmf(right, n, p)[(low <= p) & (p <= high)].sum() for p in shares]
        print(f"{n:5d}" + "".join(f"{100 * share:9.2f}" for share in covered))
        for p, share in zip(shares, covered, strict=True):
            assert share >= 0.93, (n, p, share)
            assert share <= 0.97 or n * (1 - p) < 10 - 1e-9, (n, p, share)


def test_the_ends_have_the_tails_they_are_defined_by() -> None:
    for right, size in ((3, 20), (19, 20), (1, 100), (990, 1000)):
        low, high = map(float, proportions.limits(np.array(right), np.array(size), LEVEL))
        for p, tail in ((low, 0.025), (high, 0.975)):
            assert binom.sf(right, size, p) + binom.pmf(right, size, p) / 2 == pytest.approx(tail, abs=1e-12)
        other = list(map(float, proportions.limits(np.array(size - right), np.array(size), LEVEL)))
        assert (1 - other[1], 1 - other[0]) == pytest.approx((low, high), abs=1e-12)


def test_without_clusters_the_number_of_examples_stays() -> None:
    for right, size in ((20, 20), (13, 20), (0, 7), (500, 1000)):
        assert proportions.effective_size(singles(right, size), LEVEL) == pytest.approx(size)


def drawn(generator, sizes, p: float, correlation: float, worlds: int) -> np.ndarray:
    """Beta-binomial clusters, [C, worlds, 2]."""
    size = np.repeat(np.asarray(sizes)[:, None], worlds, axis=1)
    if correlation:
        p = generator.beta(p * (1 - correlation) / correlation, (1 - p) * (1 - correlation) / correlation, size.shape)
    return np.stack([generator.binomial(size, p), size], axis=-1).astype(np.float64)


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.3, 0.6])
def test_coverage_with_clusters(correlation: float) -> None:
    """Image sets of two, of four to six and of sixteen examples. Run with -s for the table (coverage, %)."""
    generator, worlds = np.random.default_rng(0), 2000
    for sizes in ([2], [4, 5, 6, 5], [16]):
        for number in (20, 60, 200):
            every = (sizes * number)[:number]
            shares = (0.5, 0.9, 0.99, 1 - 1 / sum(every))
            covered = [covers(drawn(generator, every, p, correlation, worlds), p).mean() for p in shares]
            said = "".join(f"{100 * share:7.1f}" for share in covered)
            print(f"\nicc {correlation}, {number:3d} clusters of {sizes}:{said}", end="")
            assert min(covered) >= 0.93, (sizes, number, covered)


@pytest.mark.parametrize("bias", [0.0, 0.1, 0.4])
def test_coverage_with_balanced_pairs(bias: float) -> None:
    """Four or six statements a set, half of them true: who says True too often is right on one and so wrong on another."""
    generator, worlds = np.random.default_rng(1), 2000
    half = np.repeat(np.tile([2, 3], 30)[:, None], worlds, axis=1)
    for p in (0.5, 0.59):
        right = generator.binomial(half, p + bias) + generator.binomial(half, p - bias)
        assert covers(np.stack([right, 2 * half], axis=-1).astype(np.float64), p).mean() >= 0.93
    always = np.stack([half, 2 * half], axis=-1)[:, 0].astype(np.float64)  # always True: one half in every set
    low, high = proportions.interval(always, LEVEL)
    assert low < 0.45 and high > 0.55


def test_twenty_of_twenty_right_is_not_certain() -> None:
    z = np.full(20, 3.0)
    label = np.ones(20, dtype=bool)
    table = from_log_odds(z, label)
    found = intervals.intervals([table], ("accuracy", "consistency", "captured_mass_below_half", "ece", "nll"))[0]
    assert percent_within(1.0, found["accuracy"]) == percent_within(1.0, found["consistency"]) == "100.0 [86.1, 100.0]"
    assert percent_within(0.0, found["captured_mass_below_half"]) == "0.0 [0.0, 13.9]"
    assert unseen("r=8", found["accuracy"]) == (
        "r=8: 0 of 20 wrong. An error rate of up to 13.9 % is compatible with this (95 % upper bound)."
    )
    assert proportions.upper_bound(20, LEVEL) == pytest.approx(1 - found["accuracy"].low, abs=1e-12)
    for name in ("ece", "nll"):  # not shares, and the same in every resample
        assert not found[name].has_ends and found[name].method == intervals.ALIKE
        assert percent_within(0.05, found[name]) == "5.0 [no interval]"
    wrong = intervals.interval(table.replace(right=1 - table.right))
    assert unseen("r=8", wrong).startswith("r=8: 0 of 20 right. An accuracy of up to 13.9 % is compatible")
    sets = intervals.interval(table.replace(image_set=np.repeat([f"s{i}" for i in range(5)], 4)))
    assert sets.low < 0.6 and "over 5 clusters" in unseen("r=8", sets)
    assert unseen("r=8", dataclasses.replace(sets, estimate=0.95)) is None
    together = intervals.intervals([table, table], ("accuracy", "ece"), cluster=np.arange(20))
    assert repr(together[1]) == repr({name: found[name] for name in ("accuracy", "ece")})


@pytest.mark.parametrize("name", sorted(name for name, metric in KINDS["choice"].metrics.items() if metric.exact))
def test_every_share_widens_with_its_clusters(name: str) -> None:
    """Five copies of every example in its own cluster narrow an interval hardly; counted alone they would by more than half."""
    table = nested(40)
    copied = table.take(np.repeat(np.arange(len(table)), 5))
    group = np.array([f"{name}/{i % 5}" for i, name in enumerate(copied.question_group)])
    cluster = np.unique(table.image_set, return_inverse=True)[1]
    once = intervals.interval(table, name, cluster=cluster)
    again = intervals.interval(copied.replace(question_group=group), name, cluster=np.repeat(cluster, 5))
    assert once.estimate == pytest.approx(again.estimate)
    assert again.high - again.low >= 0.9 * (once.high - once.low)


def test_arms_that_never_differ_are_bounded_and_claim_nothing() -> None:
    label = np.ones(20, dtype=bool)
    right, wrong = (from_log_odds(np.full(20, z), label) for z in (3.0, -3.0))
    same = compare(right, right)
    assert points(same.difference, same.low, same.high) == "+0.0 [-13.9, +13.9]"
    claim = verdict(same, "a", "b")
    assert not claim.claimed
    assert claim.sentence.startswith("a and b are level in accuracy (95 % interval -13.9 to 13.9, Holm p = 1.00)")
    apart = compare(right, wrong)
    assert (apart.low, apart.high) == (pytest.approx(1 - 2 * proportions.upper_bound(20, LEVEL)), 1.0)
    assert verdict(apart, "a", "b").claimed and not verdict(compare(right, right, "brier"), "a", "b").claimed
    sets = np.repeat([f"s{i}" for i in range(30)], 2)
    one = from_log_odds(np.tile([3.0, -3.0], 30), np.ones(60, dtype=bool), image_set=sets)
    none = from_log_odds(np.full(60, -3.0), np.ones(60, dtype=bool), image_set=sets)
    found = compare(one, none)  # half a point of every set: no resample differs
    claim = verdict(found, "a", "b")
    assert not found.has_interval and found.p_value < 0.001
    assert not claim.claimed and claim.against == ("no interval: every resample gives the same number",)
    several = compare_seeds([right] * 3, [wrong] * 3)
    assert not several.has_interval and several.p_value == 1.0 and not verdict(several, "a", "b").claimed


def test_replicates_that_came_out_alike_bound_nothing() -> None:
    label = np.ones(20, dtype=bool)
    right, wrong = (from_log_odds(np.full(20, z), label) for z in (3.0, -3.0))
    claim = verdict(compare(right, wrong), "a", "b", floor=noise_floor([[1.0, 1.0], [0.0, 0.0]]))
    assert claim.noise_floor is None and claim.sentence.endswith("claim for these trained models, not for their settings.")
