"""The arms of a sweep: what each is, what it is called, and what to type to get it alone. Light."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from lab import config
from lab.config import Experiment, also_asked, as_dict, flat, identity
from lab.store import runs
from lab.store.runs import Run

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arm:
    """One experiment of a sweep and the overrides that made it.

    pause_at: optimizer steps after which it waits for the others of its race; None: it runs to its end.
    start: the arm of the same sweep that it starts from (`lab.sweeping.chaining`).
    """

    experiment: Experiment
    overrides: tuple[str, ...]
    pause_at: int | None = None
    start: Arm | None = None


@dataclass(frozen=True)
class SweepSource:
    """Where a sweep comes from: its name, the command line, the question in its file's header, and when it began."""

    name: str
    command: str
    config_name: str
    question: str | None
    started: float

    @classmethod
    def of(cls, config: DictConfig) -> SweepSource:
        """Read Hydra's own record of the command."""
        from lab.cli import process_started, sweep_question

        config_name = str(config.hydra.job.config_name)
        overrides = list(config.hydra.overrides.task)
        how = [one for one in config.hydra.overrides.hydra if not one.startswith("hydra.mode=")]
        command = f"{command_of(config_name, [*how, *overrides])} -m"
        name = config_name if config_name != "train" else " ".join(o for o in overrides if not o.startswith("tracking.")) or "sweep"
        return cls(name, command, config_name, sweep_question(config_name), process_started())


def quoted(override: str) -> str:
    """An override as a shell takes it."""
    return shlex.quote(override)


def command_of(config_name: str, overrides: Sequence[str]) -> str:
    """What to type for overrides of a config."""
    chosen = [] if config_name == "train" else ["-cn", config_name]
    return " ".join(["python -m lab.train", *chosen, *map(quoted, overrides)])


def arm_command(config_name: str, arm: Arm) -> str:
    """What to type to get one arm alone."""
    alone = [] if config_name == "train" else ["hydra.mode=RUN"]
    return command_of(config_name, [*alone, *arm.overrides])


def differing(experiments: Sequence[Experiment]) -> list[str]:
    """Config keys whose values are not the same in all experiments; names that only label an option are left out."""
    flats = [flat(as_dict(x)) for x in experiments]
    changed = [key for key in config.differing(flats) if not key.startswith("tracking.")]
    names = {key.rpartition(".")[0] for key in changed if key.endswith(".name")}
    beside_name = [key for key in changed if key.rpartition(".")[0] in names and not key.endswith(".name")]
    free = [key for key in beside_name if varies_within_name(flats, key)]
    return [key for key in changed if key not in beside_name or key in free]


def varies_within_name(flats: Sequence[dict[str, Any]], key: str) -> bool:
    """Whether a key takes several values among arms that chose the same option of its dial."""
    dial = key.rpartition(".")[0]
    values: dict[Any, set[str]] = {}
    for one in flats:
        values.setdefault(one[f"{dial}.name"], set()).add(repr(one[key]))
    return any(len(found) > 1 for found in values.values())


def arm_name(x: Experiment, dials: Sequence[str]) -> str:
    """A short name from what differs, such as `lora.r=8`."""
    values = flat(as_dict(x))
    return " ".join(f"{key.removesuffix('.name')}={values[key]}" for key in dials) or identity(x)


def drop_duplicates(arms: Sequence[Arm]) -> list[Arm]:
    """Arms of different identity; what a repeated one asks is asked of the first, with a warning."""
    kept: dict[str, Arm] = {}
    for arm in arms:
        name = identity(arm.experiment)
        if name in kept:
            log.warning("%s trains the same run as %s: it is trained once", " ".join(arm.overrides), " ".join(kept[name].overrides))
            arm = replace(kept[name], experiment=also_asked(kept[name].experiment, as_dict(arm.experiment)))
        kept[name] = arm
    return list(kept.values())


def log_path(x: Experiment, record: Run) -> Path:
    """Where an arm's process writes what it prints."""
    return runs.folder(Path(x.tracking.runs_dir), record.identity) / "log.txt"
