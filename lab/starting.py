"""`model.start=RUN`: which run an experiment goes on from, by its name, the first of its digits, or its folder. Light."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

from lab import paths
from lab.config import Experiment
from lab.errors import ConfigError, did_you_mean

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
    """The run that a text names."""
    folder = paths.path(start, "model.start")
    known = sorted(path.parent.name for path in runs_dir.glob("*/run.json"))
    fitting = [name for name in known if name == start] or [name for name in known if name.startswith(start)]
    if (folder / "run.json").is_file():
        name = json.loads((folder / "run.json").read_text(encoding="utf-8")).get("identity")
        if name != folder.resolve().name:
            raise ConfigError(f"model.start={start}: the folder holds run {name}, and a run's folder bears its name. Rename it.")
        return name if folder.resolve().parent == runs_dir.resolve() else str(folder.resolve())
    if len(fitting) != 1:
        what = f"{len(fitting)} runs begin with it." if fitting else f"there is no such run.{did_you_mean(start, known)}"
        raise ConfigError(f"model.start={start}: {what} Give a run's name or folder; {runs_dir} holds {', '.join(known) or 'none'}.")
    return fitting[0]
