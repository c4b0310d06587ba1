"""Arms as they learn, and their answers: what a race is tried on.

Accuracy begins at a value of all arms and ends at an arm's own, going there as 1 - exp(-RATE speed t), t the share of training done:
the more there is to learn, the more does an arm's speed count at a rung.
An answer is right where a normal margin is positive. What all arms share of it (question and cluster) gives two arms of 75 to 80 % a
correlation of right answers of about .56; the rest is an arm's own, half of it lasting over rungs. Its score is -log(1 + exp(-2 margin)).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

START, BEST, RATE = 0.67, 0.8, 6.0
QUESTION, SHARED_CLUSTER, OWN_CLUSTER, OWN_LASTING, OWN_PASSING = 0.69, 0.1, 0.01, 0.1, 0.1
"""Parts of the variance of a margin, 1 in all."""
PER_CLUSTER = 4
POINT = 0.01


@dataclass(frozen=True)
class Arms:
    """start: true accuracy before training. final: at the end. speed: 1 is usual. onset: share of training before an arm learns. All [A]."""

    start: float
    final: np.ndarray
    speed: np.ndarray
    onset: np.ndarray

    def accuracy(self, t: float) -> np.ndarray:
        """True accuracy after a share of the training, [A]."""
        rate = RATE * self.speed
        learnt = -np.expm1(-rate * np.maximum(0.0, t - self.onset)) / -np.expm1(-rate * (1 - self.onset))
        return self.start + (self.final - self.start) * learnt


def world(behind: np.ndarray, speed: np.ndarray | float = 1.0, onset: np.ndarray | float = 0.0) -> Arms:
    """Arms that begin at `START` and end so many points behind `BEST`."""
    final = BEST - POINT * behind
    return Arms(START, final, np.broadcast_to(speed, final.shape), np.broadcast_to(onset, final.shape))


def one_ahead(points: float) -> Callable[[int, np.random.Generator], Arms]:
    """One arm that ends so many points before all others."""
    return lambda number, generator: world(np.where(np.arange(number) == 0, 0.0, points))


def speeds(number: int, generator: np.random.Generator) -> np.ndarray:
    return np.exp(generator.normal(0.0, 0.5, number))


def spread(number: int) -> np.ndarray:
    return np.linspace(0.0, 5.0, number)


def failing(number: int, generator: np.random.Generator) -> np.ndarray:
    """`spread`, the last quarter of it 10 to 20 points lower."""
    fails = np.arange(number) >= number - number // 4
    return spread(number) + np.where(fails, generator.uniform(10.0, 20.0, number), 0.0)


def one_slow(number: int) -> Arms:
    """An arm of a third of the others' speed that wins by three points."""
    slow = np.arange(number) == 0
    return world(np.where(slow, 0.0, 3.0), speed=np.where(slow, 1 / 3, 1.0))


WORLDS: dict[str, Callable[[int, np.random.Generator], Arms]] = {
    "equal": lambda number, generator: world(np.zeros(number)),
    "noise": lambda number, generator: world(generator.normal(0.0, 1.0, number)),
    "one+3": one_ahead(3.0),
    "one+5": one_ahead(5.0),
    "one+10": one_ahead(10.0),
    "spread": lambda number, generator: world(spread(number)),
    "mixed": lambda number, generator: world(spread(number), speeds(number, generator)),
    "fail": lambda number, generator: world(failing(number, generator), speeds(number, generator)),
    "plateau": lambda number, generator: world(spread(number), onset=generator.uniform(0.15, 0.5, number)),
    "cross": lambda number, generator: one_slow(number),
}
"""By what the arms are at the end, and how they get there."""


def answers(arms: Arms, times: tuple[float, ...], num_questions: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Right and score at each time, [T, A, n], and the clusters, int [n]."""
    num_times, num_arms = len(times), len(arms.final)
    cluster = np.arange(num_questions) // PER_CLUSTER
    num_clusters = int(cluster[-1]) + 1

    def part(variance: float, *shape: int) -> np.ndarray:
        return np.sqrt(variance) * generator.standard_normal(shape)

    margin = part(QUESTION, num_questions) + part(SHARED_CLUSTER, num_clusters)[cluster]
    margin = margin + part(OWN_CLUSTER, num_arms, num_clusters)[:, cluster] + part(OWN_LASTING, num_arms, num_questions)
    margin = margin + part(OWN_PASSING, num_times, num_arms, num_questions)
    margin += np.stack([ndtri(arms.accuracy(t)) for t in times])[:, :, None]
    return margin > 0, -np.logaddexp(0.0, -2.0 * margin), cluster
