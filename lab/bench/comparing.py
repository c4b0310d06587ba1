"""Ratios of two arms, printed only where both have done the same arithmetic."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from lab.bench.figures import BenchError, Figure, spread
from lab.bench.rounds import Taken

TOLERANCE = 1e-5
"""Largest difference of two losses of one step in float32, times the loss where that is above 1."""
COMPARED = 5
"""First steps whose losses are compared: later ones drift apart by rounding alone."""


def largest_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Of the first steps' losses, over the loss where that is above 1; infinite where one is no number."""
    pairs = list(zip(ours, theirs, strict=False))[:COMPARED]
    return max(abs(a - b) / max(1.0, abs(a)) if math.isfinite(a) and math.isfinite(b) else math.inf for a, b in pairs)


def require_same_losses(ours: Sequence[float], theirs: Sequence[float], name: str, tolerance: float = TOLERANCE) -> float:
    """The largest difference. Raises `BenchError` if it is above the tolerance: the arms have not learnt the same thing."""
    difference = largest_difference(ours, theirs)
    if difference > tolerance:
        pairs = list(zip(ours, theirs, strict=False))[:COMPARED]
        rows = "\n".join(f"  step {step}: ours {a:.7f}, {name} {b:.7f}" for step, (a, b) in enumerate(pairs, 1))
        raise BenchError(
            f"no ratio is printed: the losses of the first steps differ by {difference:.2g}, more than {tolerance:.0e}, "
            f"so ours and {name} have not done the same work.\n{rows}"
        )
    return difference


def against(ours: Taken, theirs: Taken, name: str, examples: int) -> list[Figure]:
    """Step times of a peer and their ratio to ours. examples: in one step. Raises `BenchError` where losses differ."""
    difference = max(
        require_same_losses(mine.losses, other.losses, name) for mine, other in zip(ours.rounds, theirs.rounds, strict=True)
    )
    note = f"losses of {COMPARED} steps differ by {difference:.1e} at most"
    middle, least = (how(theirs.seconds) / how(ours.seconds) for how in (statistics.median, min))
    return [
        *spread(f"step, {name}", theirs.seconds),
        Figure(f"throughput, {name}", examples / statistics.median(theirs.seconds), "examples/s"),
        Figure(f"processor time a step, {name}", 1e3 * theirs.cpu_s, "ms", "all processes of the arm, warm-up included"),
        Figure(f"peak memory, {name}", theirs.peak_mb, "MiB", "resident, main process"),
        Figure(f"{name} / ours, medians", middle, "times", note),
        Figure(f"{name} / ours, smallest", least, "times", note),
    ]
