"""Experiments composed as `lab.cli.compose` does, in a sixth of the time: Hydra is asked once for every option.

Plain values are then set on a copy, as Hydra sets them: in the order given, by `OmegaConf.update`. What is no plain value, and what
cannot be set, is left to Hydra.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab import cli
from lab.config import DIALS, RECIPE, Experiment

CONF = Path(__file__).parents[1] / "conf"


def compose(*overrides: str, config_name: str = "train") -> Experiment:
    """One experiment from overrides, checked."""
    if any(override.lstrip("+").startswith("plugins") for override in overrides):
        return cli.compose(overrides, config_name)
    try:
        options = tuple(override for override in overrides if chooses_options(override))
        config = copy.deepcopy(of_options(options, config_name))
        for override in overrides:
            if override not in options:
                value = parsed(override)
                OmegaConf.update(config, value.key_or_group, value.value(), merge=True)
    except (HydraException, OmegaConfBaseException):
        return cli.compose(overrides, config_name)
    return cli.frozen(config, overrides, config_name)


@functools.cache
def of_options(options: tuple[str, ...], config_name: str) -> DictConfig:
    """What Hydra composes of options: of several dials each alone, where each fills the section of its dial only."""
    dials = [option.partition("=")[0] for option in options]
    if len(options) < 2 or not all(map(apart, options)) or len(set(dials)) < len(dials):
        return cli.compose_config(options, config_name)
    config = copy.deepcopy(of_options((), config_name))
    for dial, option in zip(dials, options, strict=True):
        OmegaConf.update(config, dial, of_options((option,), config_name)[dial], merge=False)
    return config


@functools.cache
def apart(option: str) -> bool:
    """Whether an option leaves the other dials alone; data choose how they are asked, and some models where images enter them."""
    dial, _, name = option.partition("=")
    return dial in DIALS and (CONF / dial / f"{name}.yaml").is_file() and "override /" not in (CONF / dial / f"{name}.yaml").read_text()


@functools.cache
def parsed(override: str) -> Override:
    """An override as Hydra's grammar reads it."""
    return OverridesParser.create().parse_override(override)


def chooses_options(override: str) -> bool:
    """Whether it is more than a value of one key of the schema."""
    key = override.partition("=")[0]
    if key in (*DIALS, RECIPE) or key.partition(".")[0] == "hydra" or not key.replace(".", "").replace("_", "").isalnum():
        return True
    return parsed(override).type is not OverrideType.CHANGE or parsed(override).is_sweep_override()
