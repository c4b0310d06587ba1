"""A claim needs every guard: Holm, the interval, the noise floor. The sentence says what was seen."""

import dataclasses
import math

import pytest

from lab.errors import LabError
from lab.statistics.comparing import Comparison
from lab.statistics.metrics import KINDS
from lab.statistics.seeds import NoiseFloor
from lab.statistics.verdict import verdict, verdicts

METRICS = KINDS["choice"].metrics

SEEN = Comparison(
    metric=METRICS["accuracy"],
    first=0.712,
    second=0.691,
    difference=0.021,
    low=0.010,
    high=0.032,
    level=0.95,
    p_value=0.004,
    standard_error=0.0056,
    num_examples=6982,
    num_clusters=1054,
    num_seeds=1,
    method="",
)


def but(**changes):
    return dataclasses.replace(SEEN, **changes)


def floor(points):
    """A noise floor whose bound for one seed is `points`."""
    one = NoiseFloor(1.0, 10, 0.95)
    return NoiseFloor(points / 100 / one.bound(), 10, 0.95)


def test_a_claim():
    claim = verdict(SEEN, "r=32", "r=8", floor=floor(0.9))
    assert claim.claimed and claim.against == ()
    assert claim.sentence == (
        "r=32 beats r=8 by 2.1 points (95 % interval 1.0 to 3.2, Holm p = 0.004); noise floor 0.9: claim."
    )


def test_no_claim():
    claim = verdict(but(difference=0.006, low=-0.004, high=0.016, p_value=0.31), "r=32", "r=8", floor=floor(0.9))
    assert not claim.claimed and len(claim.against) == 3
    assert claim.sentence == (
        "r=32 is 0.6 points ahead of r=8 (95 % interval -0.4 to 1.6, Holm p = 0.31); noise floor 0.9: no claim."
    )


@pytest.mark.parametrize(
    ("changes", "holm_p", "bound", "why"),
    [
        ({}, 0.05, 0.9, "Holm p is not below 0.05"),
        ({"low": -0.001}, 0.004, 0.9, "the interval includes 0"),
        ({"low": 0.0}, 0.004, 0.9, "the interval includes 0"),
        ({}, 0.004, 2.2, "the difference is within the noise floor"),
    ],
)
def test_each_guard_alone_forbids_the_claim(changes, holm_p, bound, why):
    claim = verdict(but(**changes), "a", "b", holm_p=holm_p, floor=floor(bound))
    assert not claim.claimed and claim.against == (why,)


def test_a_floor_that_was_not_measured_is_said():
    claim = verdict(SEEN, "r=32", "r=8")
    assert claim.claimed and claim.noise_floor is None
    assert claim.sentence.endswith("noise floor not measured: claim for these trained models, not for their settings.")


def test_the_better_arm_comes_first():
    turned = but(first=0.691, second=0.712, difference=-0.021, low=-0.032, high=-0.010)
    claim = verdict(turned, "r=8", "r=32")
    assert (claim.better, claim.worse, claim.difference, claim.low, claim.high) == ("r=32", "r=8", 0.021, 0.010, 0.032)
    lower = but(metric=METRICS["ece"], first=0.05, second=0.071, difference=-0.021, low=-0.032, high=-0.010)
    assert verdict(lower, "r=8", "r=32").sentence.startswith("r=8 beats r=32 by 2.1 points of ece (95 % interval 1.0 to 3.2")
    higher = but(metric=METRICS["nll"], difference=0.021)
    assert verdict(higher, "r=8", "r=32").sentence.startswith(
        "r=32 beats r=8 by 0.0210 of nll (95 % interval 0.0100 to 0.0320"
    )


def test_small_numbers_are_not_printed_as_zero():
    claim = verdict(but(low=0.0004, p_value=0.0004), "a", "b")
    assert "interval 0.04 to 3.20, Holm p < 0.001" in claim.sentence


def test_level_arms():
    claim = verdict(but(difference=0.0, low=0.0, high=0.0, p_value=1.0), "a", "b")
    assert claim.sentence.startswith("a and b are level in accuracy (95 % interval 0.0 to 0.0, Holm p = 1.00)")
    assert not claim.claimed


def test_without_an_interval_the_sentence_prints_none():
    two = but(low=-math.inf, high=math.inf, p_value=1.0, num_seeds=2, method="two seeds carry no interval; run at least three")
    claim = verdict(two, "r=32", "r=8", floor=floor(0.9))
    assert not claim.claimed and claim.against == (two.method,)
    assert claim.sentence == (
        "r=32 is 2.1 points ahead of r=8 (two seeds carry no interval; run at least three); noise floor 0.6: no claim."
    )


def test_a_family_is_adjusted_together():
    family = [(but(p_value=p), f"r={i}", "r=8") for i, p in enumerate((0.01, 0.04, 0.03, 0.005))]
    claims = verdicts(family)
    assert [claim.holm_p for claim in claims] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [claim.claimed for claim in claims] == [True, False, False, True]
    assert verdicts([]) == []


def test_more_seeds_lower_the_floor():
    assert not verdict(SEEN, "a", "b", floor=floor(3)).claimed
    assert verdict(but(num_seeds=4), "a", "b", floor=floor(3)).claimed


def test_alpha_and_interval_belong_together():
    with pytest.raises(LabError, match=r"alpha=0.01: the interval was made at level 0.95; use level=0.99"):
        verdict(SEEN, "a", "b", alpha=0.01)
