"""`sweep.replicates`: identical arms that differ in their seed only, so that a report can say what is noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from lab.errors import ConfigError
from lab.sweeping.arms import Arm
from lab.sweeping.chaining import started

KEY = "sweep.replicates"


def replicated(arms: Sequence[Arm]) -> list[Arm]:
    """Every arm as often as it asks for, with seeds from its own upwards; an arm's overrides make it alone.

    Raises `ConfigError` if the sweep varies the seed besides.
    """
    seeds = sorted({arm.experiment.seed for arm in arms})
    most = max((arm.experiment.sweep.replicates for arm in arms), default=1)
    if most > 1 and len(seeds) > 1:
        given = ",".join(map(str, seeds))
        raise ConfigError(f"{KEY}={most}: it makes the seeds, and the sweep varies them too (seed={given}). Leave one out.")
    return [replicate(arm, number) for arm in arms for number in range(arm.experiment.sweep.replicates)]


def replicate(arm: Arm, number: int) -> Arm:
    """An arm under its `number`-th seed."""
    x = arm.experiment
    if x.sweep.replicates == 1:
        return arm
    seeded = dataclasses.replace(x, seed=x.seed + number, sweep=dataclasses.replace(x.sweep, replicates=1))
    kept = [one for one in arm.overrides if one.partition("=")[0] not in ("seed", KEY)]
    in_file = not any(one.startswith(f"{KEY}=") for one in arm.overrides)
    made = Arm(seeded, (*kept, f"seed={seeded.seed}", *([f"{KEY}=1"] if in_file else [])))
    return made if arm.start is None else started(made, replicate(arm.start, number))
