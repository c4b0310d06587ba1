"""The sections `sweep` and `race`: what arms have in common, and which are stopped early."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class MatchOn(Enum):
    samples = "samples"
    order = "order"
    tokens = "tokens"
    parameters = "parameters"
    flops = "flops"


class RaceMode(Enum):
    """What a sweep does with arms that a race may stop: tell which they would have been, or stop them."""

    watch = "watch"
    stop = "stop"


@dataclass
class SweepSection:
    """What the arms of a sweep must have in common (`lab.report.matching`); a sweep that breaks it stops before training.

    self_check: the first steps of one arm are repeated over a base loaded anew, and the difference is printed.
    replicates: every arm so many times, with seeds `seed`, `seed` + 1, ...: what differs between them is noise.
    clone: a run whose config is taken, but for the keys that the command gives (`lab.cloning`).
    race: arms are stopped early, by the rule of `race`.
    """

    require: list[MatchOn] = field(default_factory=list)
    self_check: bool = True
    replicates: int = 1
    clone: str | None = None
    race: RaceMode | None = None


@dataclass
class RaceSection:
    """How a race decides (`lab.statistics.race`); read where `sweep.race` says so.

    rungs: shares of `trainer.max_steps` after which minival is asked and arms may be stopped. alpha: probability, over all rungs, of
    stopping an arm that leads all others by more than `indifference`, a share of right answers. pace: by rung, the share of the arms
    at the start among whose best none is stopped. budget: share of the steps of all arms that may be taken; arms are then stopped by
    rank alone, a heuristic without an error rate.
    """

    rungs: list[float] = field(default_factory=lambda: [0.25, 0.5])
    alpha: float = 0.05
    indifference: float = 0.01
    pace: list[float] = field(default_factory=lambda: [0.6, 0.2])
    budget: float | None = None
