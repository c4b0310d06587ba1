"""What the race of a sweep has decided, rung by rung: `runs/sweeps/<sweep>/race.json`. What stands there is never decided anew."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab.errors import DataError
from lab.host.files import write_atomically
from lab.store.parsing import parsed


@dataclass
class Race:
    """The race of one sweep.

    mode: `sweep.race` of the latest command. rule: the section `race`, with which all was decided. samples_per_step: of training.
    rungs: those decided, each with `step`, `questions`, `clusters`, `alpha` (spent there), `decided` (when) and `arms`: of every arm
    that took part its `run`, `accuracy`, `score`, `p_accuracy`, `p_score` and whether it `stops`.
    """

    sweep: str
    mode: str
    rule: dict[str, Any]
    max_steps: int
    samples_per_step: int
    num_arms: int
    rungs: list[dict[str, Any]] = field(default_factory=list)

    def rung(self, step: int) -> dict[str, Any] | None:
        """What was decided at a step; None if nothing was."""
        return next((rung for rung in self.rungs if rung["step"] == step), None)

    def stops(self) -> Iterator[tuple[str, int]]:
        """The arms that the race stops, or would, in order: run and step."""
        for rung in self.rungs:
            yield from ((arm["run"], rung["step"]) for arm in rung["arms"] if arm["stops"])

    def shares(self) -> tuple[float, float]:
        """Steps not taken, and samples' worth of questions asked, as shares of the steps of all arms; a question is a third of a sample."""
        whole = self.num_arms * self.max_steps
        saved = sum(self.max_steps - step for _, step in self.stops())
        asked = sum(rung["questions"] * len(rung["arms"]) for rung in self.rungs) / FORWARDS / self.samples_per_step
        return saved / whole, asked / whole


FORWARDS = 3
"""Forward passes that a trained sample costs: its own, and a backward of about two."""


def path_of(runs_dir: Path, sweep: str) -> Path:
    """Where a sweep's race is recorded."""
    return runs_dir / "sweeps" / sweep / "race.json"


def save(runs_dir: Path, race: Race) -> None:
    """Write the record."""
    path = path_of(runs_dir, race.sweep)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(asdict(race), indent=1) + "\n")


def load(runs_dir: Path, sweep: str) -> Race | None:
    """Read a sweep's race, or None if it had none. Raises `DataError` for a file that is no race."""
    path = path_of(runs_dir, sweep)
    try:
        race = parsed(path, Race)
    except FileNotFoundError:
        return None
    if race.sweep != sweep:
        raise DataError(f"{path}: it is the race of sweep {race.sweep}; its folder was renamed or copied.")
    return race
