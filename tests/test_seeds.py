"""Noise floor of replicates, and arms compared over several seeds: do the bounds hold as often as they say."""

import numpy as np
import pytest
from prediction_tables import nested, rival
from scipy.special import ndtri
from scipy.stats import t as student

from lab.errors import LabError
from lab.statistics import comparing, seeds
from lab.statistics.metrics import KINDS
from lab.statistics.verdict import verdict

METRICS = KINDS["choice"].metrics


def test_noise_floor_by_hand():
    floor = seeds.noise_floor([[0.70, 0.72], [0.60, 0.63, 0.63], [0.9]])
    assert floor.freedom == 3  # (2 - 1) + (3 - 1) + 0
    assert floor.sd == pytest.approx(((0.0002 + 0.0006) / 3) ** 0.5, abs=1e-12)
    assert floor.bound() == pytest.approx(student.ppf(0.975, 3) * floor.sd * 2**0.5, rel=1e-9)
    assert floor.bound(4) == pytest.approx(floor.bound() / 2, rel=1e-9)


def test_one_pair_of_replicates_is_honest_about_it():
    floor = seeds.noise_floor([[0.70, 0.71]])
    assert floor.bound() == pytest.approx(12.706 * 0.01, rel=1e-3)


def test_noise_floor_holds_as_often_as_it_says():
    """A fresh pair of replicates stays inside the 95 % bound made from three arms with two seeds each."""
    generator, inside = np.random.default_rng(0), 0
    for _ in range(4000):
        floor = seeds.noise_floor(generator.normal(0.7, 0.004, (3, 2)) + generator.normal(0, 0.05, (3, 1)))
        inside += abs(np.diff(generator.normal(0.7, 0.004, 2))[0]) <= floor.bound()
    assert 0.94 < inside / 4000 < 0.96


def test_noise_floor_refusals():
    with pytest.raises(LabError, match="no arm was run with two seeds"):
        seeds.noise_floor([[0.7], [0.8]])
    with pytest.raises(LabError, match="finite"):
        seeds.noise_floor([[0.7, float("nan")]])
    with pytest.raises(LabError, match="num_seeds=0"):
        seeds.noise_floor([[0.7, 0.71]]).bound(0)


def test_one_seed_is_the_plain_comparison():
    first = nested(30)
    second = rival(first, 1)
    assert seeds.compare_seeds([first], [second]) == comparing.compare(first, second)
    with pytest.raises(LabError, match="2 and 1 runs given"):
        seeds.compare_seeds([first, second], [second])


def test_several_seeds_from_tables():
    base = nested(80)
    first, second = [rival(base, s, 0.1) for s in range(3)], [rival(base, 10 + s, 0.6) for s in range(3)]
    shuffled = [second[0], second[1].take(np.arange(len(base))[::-1]), second[2]]
    for name in (name for name, metric in METRICS.items() if metric.additive):
        found = seeds.compare_seeds(first, shuffled, name)
        expected = np.mean([METRICS[name].of(t) for t in first]) - np.mean([METRICS[name].of(t) for t in second])
        assert found.difference == pytest.approx(expected, abs=1e-12)
        assert found.num_seeds == 3 and found.low < found.difference < found.high
        assert (found.p_value < 0.05) == (found.low > 0 or found.high < 0)
    same = seeds.compare_seeds(first, first)
    assert (same.difference, same.p_value) == (0, 1) and not same.has_interval and same.method == seeds.ALIKE


def test_two_seeds_carry_no_interval():
    """One degree of freedom: nothing is said but the difference, and no claim can come of it, however large it is."""
    base = nested(80)
    first, second = [rival(base, s, 0.1) for s in range(2)], [rival(base, 10 + s, 0.9) for s in range(2)]
    found = seeds.compare_seeds(first, second)
    assert (found.low, found.high, found.p_value, found.num_seeds) == (-np.inf, np.inf, 1.0, 2)
    assert not found.has_interval and found.method == seeds.NO_INTERVAL
    assert found.difference == np.mean([t.correct.mean() for t in first]) - np.mean([t.correct.mean() for t in second])
    claim = verdict(found, "a", "b", floor=seeds.noise_floor([[0.7, 0.7001], [0.6, 0.6001]]))
    assert abs(found.difference) > claim.noise_floor and not claim.claimed and claim.against == (seeds.NO_INTERVAL,)
    third = seeds.compare_seeds([*first, rival(base, 2, 0.1)], [*second, rival(base, 12, 0.9)])
    assert third.has_interval and third.p_value < 0.05


@pytest.mark.parametrize(("seed_sd", "item_share"), [(0.0, 0.1), (0.0, 0.5), (0.08, 0.2)])
def test_interval_over_seeds_covers_no_difference(seed_sd, item_share):
    """Three seeds an arm, seeds and items both drawn anew: 95 % intervals cover 0 in 92 to 99.5 % of 400 worlds.

    seed_sd: shift of a run's latent score by its seed. item_share: part of the latent score that an arm
    keeps over its seeds (the rest is new under each seed: interaction).
    """
    generator, covered = np.random.default_rng(5), 0
    num_clusters, size, num_seeds = 120, 5, 3
    shape = (num_clusters, 2, num_seeds, size)
    for _ in range(400):
        latent = 0.8 * generator.standard_normal((num_clusters, 1, 1, size))
        kept = generator.standard_normal((num_clusters, 2, 1, 1)) + generator.standard_normal((num_clusters, 2, 1, size))
        latent = latent + item_share * kept + 0.5 * generator.standard_normal(shape)
        latent = latent + seed_sd * generator.standard_normal((1, 2, num_seeds, 1))
        right = latent > -ndtri(0.7)
        sums = np.stack([right.sum(-1), np.full(shape[:-1], size)], axis=-1).astype(float)
        found = seeds.crossed(
            sums, METRICS["accuracy"], num_clusters * size, num_resamples=2000, level=0.95, seed=0
        )
        covered += found.low <= 0 <= found.high
    print(f"\nseed_sd={seed_sd}, item_share={item_share}: {100 * covered / 400:.1f} % covered")
    assert 0.92 <= covered / 400 <= 0.995
