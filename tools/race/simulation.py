"""Many races of one world through `lab.statistics.race.decide`, and what came of them with Monte-Carlo errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lab.host.progress import Report, silent
from lab.statistics.race import NUM_SWAPS, Rule, decide
from tools.race.worlds import POINT, START, WORLDS, Arms, answers


@dataclass(frozen=True)
class Raced:
    """What came of one race.

    kept: the arm with most right answers at the end goes on to it. within: an arm within a point of the truly best does.
    saved: share of all steps that was not taken, the questions asked not subtracted. loss: points of true final accuracy of the arm
    that is chosen against the one without stopping. leading: an arm stopped at a rung although it truly led all others by a point.
    """

    kept: bool
    within: bool
    saved: float
    loss: float
    leading: bool


def race(arms: Arms, rungs: Sequence[float], num_questions: int, rule: Rule, num_swaps: int, seed: Sequence[int]) -> Raced:
    """Race arms to the end."""
    generator = np.random.default_rng([*seed, 1])
    right, score, cluster = answers(arms, (*rungs, 1.0), num_questions, generator)
    num_arms = len(arms.final)
    running, saved, leading = np.arange(num_arms), 0.0, False
    for number, t in enumerate(rungs):
        there = right[number, running], score[number, running], cluster
        stops = decide(*there, rung=number, num_arms=num_arms, rule=rule, num_swaps=num_swaps).stops
        truth = np.sort(arms.accuracy(t)[running])
        leads = (arms.accuracy(t)[running] == truth[-1]) & (len(running) > 1 and truth[-1] - truth[-2] >= POINT)
        leading |= bool((stops & leads).any())
        saved += stops.sum() * (1 - t) / num_arms
        running = running[~stops]
    final = right[-1].mean(axis=1)
    winner, chosen = final.argmax(), running[final[running].argmax()]
    within = bool((arms.final[running] >= arms.final.max() - POINT - 1e-12).any())
    return Raced(winner in running, within, saved, 100 * float(arms.final[winner] - arms.final[chosen]), leading)


def simulate(
    name: str, num_races: int, num_arms: int, num_questions: int, rungs: Sequence[float], rule: Rule, num_swaps: int = NUM_SWAPS,
    start: float = START, report: Report = silent,
) -> list[Raced]:
    """Races of a world, each with its own arms in random order and its own questions; the seed is the number of the race."""
    raced = []
    for number in range(num_races):
        generator = np.random.default_rng([number, num_arms, num_questions])
        drawn, order = WORLDS[name](num_arms, generator), generator.permutation(num_arms)
        arms = Arms(start, drawn.final[order], drawn.speed[order], drawn.onset[order])
        raced.append(race(arms, rungs, num_questions, rule, num_swaps, [number, num_arms, num_questions]))
        report(f"{name} (races)", number + 1, num_races, "")
    return raced


def row(name: str, raced: Sequence[Raced]) -> tuple[str, ...]:
    """A line of the table: shares and the mean loss ± their Monte-Carlo standard errors; of what is saved the median and quartiles."""

    def share(key: str) -> str:
        mean = float(np.mean([getattr(one, key) for one in raced]))
        return f"{mean:.3f} ± {np.sqrt(mean * (1 - mean) / len(raced)):.3f}"

    low, middle, high = (100 * np.quantile([one.saved for one in raced], part) for part in (0.25, 0.5, 0.75))
    loss = np.array([one.loss for one in raced])
    error = loss.std(ddof=1) / np.sqrt(len(raced)) if len(raced) > 1 else np.nan
    return (name, f"{middle:.0f} ({low:.0f}-{high:.0f})", share("kept"), share("within"), f"{loss.mean():.2f} ± {error:.2f}", share("leading"))


HEADER = ("world", "saved, %", "kept", "within 1", "loss, points", "stopped though leading")
