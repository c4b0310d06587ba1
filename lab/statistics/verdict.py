"""What may be said of two arms: a claim is made only where every guard agrees, and the sentence says which did not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lab.errors import LabError
from lab.statistics.comparing import Comparison, holm
from lab.statistics.metrics import KINDS
from lab.statistics.seeds import NoiseFloor

ALPHA = 0.05


@dataclass(frozen=True)
class Claim:
    """A verdict on `better` against `worse`, with `difference`, `low` and `high` so signed that better is positive.

    claimed: Holm p < alpha, there is an interval and it excludes 0, and the difference exceeds the noise floor if known.
    against: the guards that forbid the claim, in words; empty when claimed. noise_floor: None if not measured,
    or if all replicates came out alike, which bounds nothing.
    """

    better: str
    worse: str
    difference: float
    low: float
    high: float
    holm_p: float
    noise_floor: float | None
    claimed: bool
    against: tuple[str, ...]
    sentence: str


def verdict(
    comparison: Comparison,
    first: str,
    second: str,
    *,
    holm_p: float | None = None,
    floor: NoiseFloor | None = None,
    alpha: float = ALPHA,
) -> Claim:
    """Judge one comparison of the arms named `first` and `second`; without `holm_p` it is a family of one."""
    if abs(comparison.level - (1 - alpha)) > 1e-9:
        raise LabError(f"alpha={alpha}: the interval was made at level {comparison.level}; use level={1 - alpha:g}.")
    adjusted = comparison.p_value if holm_p is None else holm_p
    bound = floor.bound(comparison.num_seeds) if floor is not None and floor.sd > 0 else None
    ahead = (comparison.difference >= 0) == comparison.metric.higher_is_better
    better, worse = (first, second) if ahead or comparison.difference == 0 else (second, first)
    low, high = comparison.low, comparison.high
    if comparison.difference < 0:
        low, high = -high, -low
    size = abs(comparison.difference)
    against = []
    if not comparison.has_interval:
        against.append(comparison.method)
    elif not adjusted < alpha:
        against.append(f"Holm p is not below {alpha:g}")
    if comparison.has_interval and low <= 0 <= high:
        against.append("the interval includes 0")
    if bound is not None and size <= bound:
        against.append("the difference is within the noise floor")
    sentence = _sentence(comparison, better, worse, (size, low, high, bound), adjusted, claimed=not against)
    return Claim(better, worse, size, low, high, adjusted, bound, not against, tuple(against), sentence)


def verdicts(
    family: Sequence[tuple[Comparison, str, str]], *, floor: NoiseFloor | None = None, alpha: float = ALPHA
) -> list[Claim]:
    """Judge a family of comparisons (comparison, first, second) together: Holm over all of them, then `verdict`."""
    adjusted = holm([comparison.p_value for comparison, _, _ in family])
    return [
        verdict(comparison, first, second, holm_p=float(p), floor=floor, alpha=alpha)
        for (comparison, first, second), p in zip(family, adjusted, strict=True)
    ]


def _sentence(
    comparison: Comparison,
    better: str,
    worse: str,
    numbers: tuple[float, float, float, float | None],
    holm_p: float,
    *,
    claimed: bool,
) -> str:
    """`r=32 beats r=8 by 2.1 points (95 % interval 1.0 to 3.2, Holm p = 0.004); noise floor 0.9: claim.`

    Where no floor was measured, a claim is one about the two models that were trained, since another seed was not tried.
    Without a claim nothing is said to beat anything: `r=32 is 0.6 points ahead of r=8 (...): no claim.` Two seeds:
    `(two seeds carry no interval; run at least three)` in place of interval and p.
    """
    metric = comparison.metric
    unit = f"{'points ' if metric.in_points else ''}of {metric.name}"
    if metric.in_points and any(metric is kind.main for kind in KINDS.values()):
        unit = "points"
    size, low, high, bound = _written(numbers, metric.in_points)
    p = "p < 0.001" if holm_p < 0.001 else f"p = {holm_p:.3f}" if holm_p < 0.1 else f"p = {holm_p:.2f}"
    guard = "noise floor not measured" if bound is None else f"noise floor {bound}"
    if comparison.difference == 0:
        said = f"{better} and {worse} are level in {metric.header}"
    elif claimed:
        said = f"{better} beats {worse} by {size} {unit}"
    else:
        said = f"{better} is {size} {unit} ahead of {worse}"
    seen = f"{100 * comparison.level:g} % interval {low} to {high}, Holm {p}" if comparison.has_interval else comparison.method
    reach = " for these trained models, not for their settings" if bound is None else ""
    return f"{said} ({seen}); {guard}: {f'claim{reach}' if claimed else 'no claim'}."


def _written(numbers: tuple[float, float, float, float | None], in_points: bool) -> list[str | None]:
    """One decimal for points and four otherwise; one more where a number would be printed as zero and is not."""
    scale, digits = (100, 1) if in_points else (1, 4)
    scaled = [None if number is None else scale * number + 0.0 for number in numbers]
    if any(number and abs(number) < 0.5 * 10.0**-digits for number in scaled):
        digits += 1
    return [None if number is None else f"{number:.{digits}f}" for number in scaled]
