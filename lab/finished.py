"""A finished run by its name, and its config with changes: what evaluate, predict, serve, export and verify begin with. Light."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import placing, services
from lab.cli import compose_config
from lab.errors import ConfigError

if TYPE_CHECKING:
    from lab.config import Experiment
    from lab.store.runs import Run


SPEED = ("threads", "accelerator", "feature_cache", "num_workers")
FREE = ("data", "evaluation", "endpoint", "tracking", "plugins", *(f"trainer.{key}" for key in SPEED))
"""Keys that say what is evaluated, where and how fast; the six dials beside `data` are held to the contract."""


def find(runs_dir: Path, given: str, finished: bool = True, weights: bool = True) -> Run:
    """The run of an identity or of its first digits. finished: it must be; weights: it must have some. Raises `DataError` unless there is one."""
    from lab.errors import DataError
    from lab.store import runs

    try:
        run = runs.load(runs_dir, runs.identity_of(runs_dir, given))
    except LookupError as error:
        raise DataError(f"--run {given}: {error}") from None
    assert run is not None
    if finished and run.status != runs.FINISHED:
        raise DataError(f"--run {given}: it is {run.status}; only a finished run has an adapter and a contract to evaluate.")
    if weights:
        services.require_weights(run.config.get("model", {}).get("family", ""))
    return run


def changed(run: Run, overrides: Sequence[str]) -> Experiment:
    """The run's config with changes, checked as any config is; nothing trains. Raises `ConfigError`."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from lab.explaining import explain
    from lab.freezing import freeze, from_dict

    from_dict(run.config, f"run.json of {run.identity}")
    try:
        x = freeze(merged(run, overrides))
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(explain(error, list(overrides))) from None
    given = {word.partition("=")[0] for word in overrides}
    if idle := next((key for key in placing.KEYS if key in given), None):
        raise ConfigError(placing.unread(idle, x.data.name))
    if x.evaluation.judge.base_url is not None:
        raise ConfigError("evaluation.judge: it marks benchmarks that are asked as evaluation.also=[SET,...]. Name them so, or leave it out.")
    return x


def merged(run: Run, overrides: Sequence[str], trains: bool = False) -> Any:
    """The stored config with the changes in it, not yet checked against the schema. trains: its steps stay in it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    from lab.config import DIALS
    from lab.sweeping.launcher import register

    config: Any = OmegaConf.create(run.config)
    config.evaluation.pop("judge", None)  # who judges is said by each command
    for line, override in zip(overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True):
        key = override.key_or_group
        if not override.is_sweep_override() and key in DIALS:
            register()
            config[key] = OmegaConf.to_container(compose_config([line])[key], enum_to_str=True)
        elif override.is_sweep_override() or override.is_delete():
            raise ConfigError(f"{line}: an evaluation takes one value of each key; start it once for each.")
        elif key.partition(".")[0] not in (*DIALS, *FREE) and key not in FREE:
            raise ConfigError(f"{key}: an evaluation does not train. Legal here: {', '.join(DIALS)} and {', '.join(FREE[1:])}.")
        else:
            OmegaConf.update(config, key, override.value(), force_add=True)
    if not trains:
        config.trainer.max_steps, config.trainer.max_epochs = 0, None
    return config
