"""When processes that work side by side start, and when the last of them has ended."""

from __future__ import annotations

from collections.abc import Sequence


def most_beside(number: int, cores: int) -> int:
    """How many of so many processes `another` has run at once."""
    return min(number, 2 * cores - 1)


def another(waiting: int, steps: Sequence[int], cores: int, most: int) -> bool:
    """Whether one more process starts beside those that run, of which each has taken so many steps.

    cores: so many run at once as long as the others fill the cores again. Those that do not, the last, start as soon as those before have
    taken steps, so that no core is idle in the end; `most` at once.
    """
    last = waiting + len(steps) < 2 * cores and min(steps, default=0) > 0
    return len(steps) < (most if last else cores)


def makespan(seconds: Sequence[float], cores: int) -> float:
    """Seconds until processes that start in this order have ended. seconds: of each on a core of its own; several to a core share it evenly."""
    waiting, left, elapsed = list(seconds), [], 0.0
    while waiting or left:
        while waiting and another(len(waiting), [1] * len(left), cores, most_beside(len(seconds), cores)):
            left.append(waiting.pop(0))
        first = min(left)
        elapsed += first * max(1.0, len(left) / cores)
        left = [one - first for one in left if one > first]
    return elapsed
