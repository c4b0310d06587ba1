"""`sweep.clone=RUN`: the config of a run that is there, with the keys changed that the command gives. Light."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab import paths
from lab.config import ADDRESSES, Experiment, as_dict, differing, flat
from lab.errors import ConfigError, did_you_mean
from lab.freezing import freeze, from_dict
from lab.freezing.schema import literal
from lab.host.redaction import HIDDEN
from lab.store import runs
from lab.store.runs import Run

log = logging.getLogger(__name__)

OF_THE_COMMAND = ("tracking", "plugins", "sweep.clone")
"""What is never another run's: where results go, whose code is executed, and which run is cloned."""


def clone(composed: DictConfig, overrides: Sequence[str], config_name: str) -> Experiment:
    """The experiment of the run `sweep.clone` with every key that overrides name as it was composed, a dial with all of its keys.

    Says what differs. Raises `ConfigError` for a run that is not there, or a sweep file whose own keys would be lost, or a record of
    another version; `DataError` for a run that cannot be read.
    """
    if config_name != "train":
        raise ConfigError(f"sweep.clone={composed.sweep.clone}: the keys of -cn {config_name} would be lost. Give them as KEY=VALUE.")
    run = load(str(composed.sweep.clone), str(composed.tracking.runs_dir))
    values: Any = OmegaConf.create(literal(run.config))
    keys = [one.lstrip("+~").partition("=")[0] for one in overrides]
    for key in (*OF_THE_COMMAND, *keys):
        OmegaConf.update(values, key, OmegaConf.select(composed, key), merge=False, force_add=True)
    hidden = [".".join(key) for key in ADDRESSES if HIDDEN in str(OmegaConf.select(values, ".".join(key)))]
    if hidden:
        raise ConfigError(f"{hidden[0]}: the record of run {run.identity} keeps no password, so give {hidden[0]}=ADDRESS with it.")
    try:
        x = freeze(values)
    except (ConfigError, OmegaConfBaseException):
        from_dict(run.config, f"sweep.clone={run.identity}: run.json")  # where its record itself is of another version, it says so
        raise
    log.info("clone of run %s (%s): %s", run.identity, run.name, changes(run.config, as_dict(x)))
    return x


def load(name: str, folder: str) -> Run:
    """The run to clone."""
    runs_dir = paths.path(folder, "tracking.runs_dir")
    run = runs.load(runs_dir, name)
    if run is None:
        near = did_you_mean(name, [path.parent.name for path in runs_dir.glob("*/run.json")])
        raise ConfigError(f"sweep.clone={name}: {runs_dir} holds no such run.{near} Its folders bear the runs' names: ls {runs_dir}")
    return run


def changes(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Which keys differ, and how."""
    old, new = flat(before), flat(after)
    keys = [key for key in differing([old, new]) if not key.startswith(OF_THE_COMMAND)]
    return ", ".join(f"{key} {old.get(key)} -> {new.get(key)}" for key in keys) or "nothing differs, so it is that run"
