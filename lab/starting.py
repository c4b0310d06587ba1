"""`model.start=RUN`: which run an experiment goes on from, by its name, the first of its digits, or its folder. Light."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from lab import paths
from lab.config import Experiment
from lab.errors import ConfigError
from lab.store import runs
from lab.store.parsing import parsed

ARM = re.compile(r"arm:([1-9]\d*)")
"""The n-th arm of a sweep file, at the same point of its grid and of the same seed (`lab.sweeping.launcher`)."""


def resolved(x: Experiment) -> Experiment:
    """The experiment with the run written out: its whole name, or its folder's absolute path where `tracking.runs_dir` does not hold it.

    Raises `ConfigError` for one that is not there. What names an arm of a sweep stays as it is.
    """
    start = x.model.start
    return x if start is None or ARM.fullmatch(start) else beginning_with(x, named(start, Path(x.tracking.runs_dir)))


def beginning_with(x: Experiment, start: str) -> Experiment:
    """The experiment, starting from a run."""
    return dataclasses.replace(x, model=dataclasses.replace(x.model, start=start))


def named(start: str, runs_dir: Path) -> str:
    """The run that a text names. Raises `ConfigError`, or `DataError` for a folder of which nothing can be read."""
    folder = paths.path(start, "model.start")
    if (folder / "run.json").is_file():
        name = parsed(folder / "run.json", runs.Run).identity
        if name != folder.resolve().name:
            raise ConfigError(f"model.start={start}: the folder holds run {name}, and a run's folder bears its name. Rename it.")
        return name if folder.resolve().parent == runs_dir.resolve() else str(folder.resolve())
    try:
        return runs.identity_of(runs_dir, start)
    except LookupError as error:
        raise ConfigError(f"model.start={start}: {error} Give a run's name or folder.") from None
