"""How often the laboratory claims a difference that is not there, and finds one that is: simulated NLVR2 dev sets.

6,982 examples in 1,054 image sets of the real sizes. An example is right when a latent score passes a
threshold. The score is shared by all arms (image set 15 %, example 70 %) or an arm's own (image set 3 %,
example 12 %): two arms disagree on some 15 % of the examples and their difference has an intra-cluster
correlation near 0.05, a design effect of 1.3. Everything is seeded; run with -s to see the figures.
"""

import numpy as np
import pytest
from prediction_tables import from_log_odds
from scipy.special import ndtri, stdtr, stdtrit

from lab.statistics import power_analysis
from lab.statistics.comparing import Comparison, compare, paired_interval
from lab.statistics.metrics import KINDS, ratio
from lab.statistics.resampling import cluster_sums, swap_p_value
from lab.statistics.verdict import verdict, verdicts

SIZES = np.repeat(np.arange(1, 9), [3, 18, 34, 62, 85, 177, 294, 381])
SET, EXAMPLE, OWN_SET, OWN_EXAMPLE = 0.15, 0.70, 0.03, 0.12  # shares of the latent score's variance
BATCH = 100  # worlds that share one draw of resamples and swaps


def arms(generator, sizes, num_worlds, accuracies, own_sets=None):
    """Which examples each arm gets right, bool [n] per world: a list over arms of [n, worlds], and the clusters."""
    cluster = np.repeat(np.arange(len(sizes)), sizes)

    def noise(share, by_set):
        rows = len(sizes) if by_set else len(cluster)
        drawn = np.float32(share**0.5) * generator.standard_normal((rows, num_worlds), dtype=np.float32)
        return drawn[cluster] if by_set else drawn

    shared = noise(SET, True) + noise(EXAMPLE, False)
    right = []
    for accuracy, own_set in zip(accuracies, own_sets or [OWN_SET] * len(accuracies), strict=True):
        latent = shared + noise(own_set, True) + noise(OWN_SET + OWN_EXAMPLE - own_set, False)
        right.append(latent > -ndtri(accuracy))
    return right, cluster


def sums_of(right, cluster):
    """[C, worlds, 2]: right answers and examples of each image set."""
    ones = np.broadcast_to(np.bincount(cluster)[:, None], (cluster[-1] + 1, right.shape[1]))
    return np.stack([cluster_sums(right.astype(np.float64), cluster), ones], axis=-1)


def comparisons(first, second, cluster, seed):
    """`compare` for all worlds at once: the same functions on arrays with one more axis."""
    a, b = sums_of(first, cluster), sums_of(second, cluster)
    low, high, error = paired_interval(a, b, ratio, 2000, 0.95, seed)
    p_value = swap_p_value(a, b, ratio, 1999, seed)
    value = ratio(a.sum(axis=0)), ratio(b.sum(axis=0))
    return [
        Comparison(KINDS["choice"].main, x, y, x - y, lo, hi, 0.95, p, e, len(cluster), len(a), 1, "")
        for x, y, lo, hi, p, e in zip(*value, low, high, p_value, error, strict=True)
    ]


def share_claimed(sizes, num_worlds, accuracies, own_sets=None, seed=0):
    """Share of pairs of arms with a claim, and the mean discordance and correlation of their differences."""
    generator, claimed, discordance, icc = np.random.default_rng(seed), 0, [], []
    for batch in range(num_worlds // BATCH):
        (first, second), cluster = arms(generator, sizes, BATCH, accuracies, own_sets)
        claimed += sum(verdict(c, "a", "b").claimed for c in comparisons(first, second, cluster, batch))
        difference = first.astype(np.float64) - second
        discordance.append(np.abs(difference).mean())
        icc += [power_analysis.intra_cluster_correlation(difference[:, world], cluster) for world in range(10)]
    return claimed / num_worlds, float(np.mean(discordance)), float(np.mean(icc))


def test_the_simulation_goes_through_the_same_door():
    (first, second), cluster = arms(np.random.default_rng(0), SIZES, 1, (0.72, 0.72))
    fast = comparisons(first, second, cluster, 3)[0]
    label = np.arange(len(cluster)) % 2 == 0
    names = [f"{c:04d}" for c in cluster]
    tables = [
        from_log_odds(np.where(right[:, 0] == label, 1.0, -1.0), label, image_set=names) for right in (first, second)
    ]
    slow = compare(*tables, num_swaps=1999, seed=3)
    for name in ("difference", "low", "high", "p_value", "num_examples", "num_clusters"):
        assert getattr(fast, name) == pytest.approx(getattr(slow, name), abs=1e-12), name


def test_no_difference_is_claimed_in_one_pair_of_twenty():
    claimed, discordance, icc = share_claimed(SIZES, 1000, (0.72, 0.72))
    print(f"\nno difference: a claim in {100 * claimed:.1f} % of 1,000 pairs; discordance {discordance:.3f}, icc {icc:.3f}")
    assert 0.03 <= claimed <= 0.07


def test_equal_accuracy_of_unlike_arms_is_not_claimed_either():
    """One arm's errors cling to its image sets four times as much: equal means, not exchangeable."""
    claimed, *_ = share_claimed(SIZES, 1000, (0.72, 0.72), own_sets=(0.03, 0.12), seed=1)
    print(f"\nunlike arms: a claim in {100 * claimed:.1f} % of 1,000 pairs")
    assert 0.03 <= claimed <= 0.07


def test_few_clusters_do_not_invite_claims():
    claimed, *_ = share_claimed(SIZES[::44], 1000, (0.72, 0.72), seed=2)
    print(f"\n24 image sets: a claim in {100 * claimed:.1f} % of 1,000 pairs")
    assert claimed <= 0.07


def test_a_sweep_of_six_arms_without_differences():
    """Six arms over half of dev, five comparisons with the first and all fifteen pairs: any claim after Holm in at most 7 % of sweeps."""
    generator, num_sweeps, against_first, all_pairs = np.random.default_rng(3), 400, 0, 0
    for batch in range(num_sweeps // BATCH):
        right, cluster = arms(generator, SIZES[::2], BATCH, (0.72,) * 6)
        pairs = [(i, j) for i in range(6) for j in range(i)]
        found = {pair: comparisons(right[pair[0]], right[pair[1]], cluster, batch) for pair in pairs}
        for sweep in range(BATCH):
            family = {pair: (found[pair][sweep], f"arm {pair[0]}", f"arm {pair[1]}") for pair in pairs}
            all_pairs += any(claim.claimed for claim in verdicts(list(family.values())))
            against_first += any(claim.claimed for claim in verdicts([family[i, 0] for i in range(1, 6)]))
    print(
        f"\nsix arms: any claim in {100 * against_first / num_sweeps:.1f} % of {num_sweeps} sweeps against the first arm, "
        f"{100 * all_pairs / num_sweeps:.1f} % over all pairs"
    )
    assert against_first / num_sweeps <= 0.07
    assert all_pairs / num_sweeps <= 0.07


@pytest.mark.parametrize(
    ("what", "sizes", "difference"),
    [
        ("3 points, all of dev", SIZES, 0.030),
        ("3 points, a third of the image sets", SIZES[::3], 0.030),
        ("3 points, a quarter of the image sets", SIZES[::4], 0.030),
        ("1.5 points, all of dev", SIZES, 0.015),
    ],
)
def test_power_is_what_the_planning_says(what, sizes, difference):
    """Share of 500 pairs claimed against the power of the test with the simulation's own discordance and correlation."""
    claimed, discordance, icc = share_claimed(sizes, 500, (0.715 + difference / 2, 0.715 - difference / 2), seed=4)
    plan = {"cluster_sizes": sizes, "icc": icc}
    smallest = power_analysis.smallest_detectable(int(sizes.sum()), discordance, **plan)
    bar, freedom = stdtrit(len(sizes) - 1, 0.975), len(sizes) - 1
    reach = difference * (bar + stdtrit(freedom, 0.8)) / smallest
    stated = stdtr(freedom, reach - bar) + stdtr(freedom, -reach - bar)
    print(
        f"\n{what}: found in {100 * claimed:.1f} % of 500 pairs, stated {100 * stated:.1f} %; smallest detectable "
        f"{100 * smallest:.2f} points (discordance {discordance:.3f}, icc {icc:.3f})"
    )
    assert claimed == pytest.approx(stated, rel=0.10)


def test_the_smallest_detectable_difference_is_found_four_times_in_five():
    """Plan with figures of a pilot, then make arms that differ by exactly what the plan calls detectable."""
    sizes = SIZES[::2]
    _, discordance, icc = share_claimed(sizes, 100, (0.73, 0.71), seed=5)
    smallest = power_analysis.smallest_detectable(int(sizes.sum()), discordance, cluster_sizes=sizes, icc=icc)
    claimed, *_ = share_claimed(sizes, 1000, (0.715 + smallest / 2, 0.715 - smallest / 2), seed=6)
    print(f"\n{100 * smallest:.2f} points, called detectable with power 80 %: found in {100 * claimed:.1f} % of 1,000 pairs")
    assert claimed == pytest.approx(0.80, rel=0.10)
