"""Arms that start from other arms of their sweep (`model.start=arm:N`): which those are, and in what order all run. Light."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from lab.config import identity
from lab.errors import ConfigError
from lab.starting import ARM, beginning_with
from lab.sweeping.arms import Arm


def linked(arms: Sequence[Arm], listed: int) -> list[Arm]:
    """The arms, each that names another with that other's run.

    arms: point after point of a grid, `listed` arms each. Raises `ConfigError` for a number that is no arm's before it.
    """
    made: list[Arm] = []
    for place, arm in enumerate(arms):
        asked = ARM.fullmatch(arm.experiment.model.start or "")
        if asked is None:
            made.append(arm)
            continue
        number, own = int(asked[1]), place % listed + 1
        if number >= own:
            raise ConfigError(
                f"model.start={asked[0]}: this is arm {own} of those that the sweep lists, and it can start from one before it alone"
                f"{f': arm:1 to arm:{own - 1}' if own > 1 else ', of which there is none'}."
            )
        made.append(started(arm, made[place - own + number]))
    return made


def started(arm: Arm, start: Arm) -> Arm:
    """An arm that starts from another, by the name of that one's run, also in what makes it alone."""
    name = identity(start.experiment)
    overrides = tuple(f"model.start={name}" if one.startswith("model.start=") else one for one in arm.overrides)
    return replace(arm, experiment=beginning_with(arm.experiment, name), overrides=overrides, start=start)


def batches(arms: Sequence[Arm]) -> list[list[Arm]]:
    """The arms to run, those that start from others after these."""
    depths = [depth(arm) for arm in arms]
    return [[arm for arm, own in zip(arms, depths, strict=True) if own == wanted] for wanted in sorted(set(depths))]


def depth(arm: Arm) -> int:
    """How many arms must have run before it."""
    return 0 if arm.start is None else 1 + depth(arm.start)
