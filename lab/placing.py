"""`evaluation.also_root` and `evaluation.max_samples` written into the options of `evaluation.also` that are benchmarks. Light."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from lab.benchmark_specs import ALIASES, SPECS
from lab.config import Experiment
from lab.errors import ConfigError

KEYS = ("evaluation.also_root", "evaluation.max_samples")
"""Keys that say something of the benchmarks in `evaluation.also`, and of nothing else."""


def require_read(x: Experiment) -> None:
    """Raise a `ConfigError` where one of `KEYS` is given and `evaluation.also` names nothing that it would be read for."""
    given = [key for key in KEYS if getattr(x.evaluation, key.partition(".")[2]) is not None]
    if given and not any(benchmark_of([*spelled.split(), ""][0]) for spelled in x.evaluation.also):
        raise ConfigError(unread(given[0], x.data.name))


def unread(key: str, name: str) -> str:
    """The sentence about one of `KEYS` that nothing reads. name: of the data that are asked by themselves."""
    own = {"evaluation.also_root": "data.root=FOLDER", "evaluation.max_samples": "data.num_dev=N"}[key]
    return f"{key}: it is of benchmarks in evaluation.also, which names none. Add some, as in evaluation.also=[gqa]; of data={name} give {own}."


def placed(also: Sequence[str], root: str | None, max_samples: int | None) -> list[str]:
    """The options with `root=` and `num_dev=` behind those benchmarks that say nothing of them, so that a record says where and how many.

    root: the folder with a folder for each. Raises `ConfigError` for one that has none there, or for an option that cannot be read.
    """
    return [of_one(spelled, root, max_samples) for spelled in also]


def of_one(spelled: str, root: str | None, max_samples: int | None) -> str:
    """One option, as `placed` has it."""
    try:
        name, *keys = shlex.split(spelled) or [""]
    except ValueError as error:
        raise ConfigError(f"evaluation.also=[{spelled}]: it cannot be read ({error}).") from None
    given, benchmark = {key.partition("=")[0] for key in keys}, benchmark_of(name)
    if benchmark is None:
        return spelled
    more = []
    if root is not None and "root" not in given:
        folder = Path(root) / benchmark
        if not folder.is_dir():
            raise ConfigError(
                f"evaluation.also_root={root}: it has no folder {benchmark} for evaluation.also=[{spelled}]. Put the set there, as "
                f"data.root of data={benchmark} takes it, or give '{name} root=FOLDER'."
            )
        more.append(shlex.quote(f"root={folder}"))
    if max_samples is not None and "num_dev" not in given:
        more.append(f"num_dev={max_samples}")
    return " ".join((spelled, *more))


def benchmark_of(name: str) -> str | None:
    """The benchmark that a data option is, by its own name or another spelling; None for other data."""
    name = ALIASES.get(name, name)
    return name if name in SPECS else None
