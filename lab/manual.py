"""`python -m lab.train --help`: the dials, their options and the experiment as composed.

Hydra fills the same template (`hydra.help` in `conf/train.yaml`), but copies its whole config store once for every option it
lists, two seconds of work; here the options are read off the folders.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from string import Template

from lab import plugins
from lab.config import DIALS

FLAGS = ("-h", "--help")
CONFIG_NAME = ("-cn", "--config-name")


def asked(arguments: Sequence[str]) -> bool:
    """Whether the command asks for the manual and uses no flag that only Hydra knows how to honour."""
    flags = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    return any(flag in FLAGS for flag in flags) and set(flags) <= {*FLAGS, *CONFIG_NAME, "-m", "--multirun"}


def split(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the config and the overrides in a command that `asked`."""
    name, overrides, rest = "train", [], iter(arguments)
    for argument in rest:
        flag, _, value = argument.partition("=")
        if flag in CONFIG_NAME:
            name = value or next(rest, "train")
        elif not argument.startswith("-"):
            overrides.append(argument)
    return name, overrides


def options(conf: Path) -> str:
    """One line a dial: its name and the options in its folder and in those of plugins."""
    folders = (conf, *plugins.conf_folders())
    found = {dial: sorted(path.stem for folder in folders for path in (folder / dial).glob("*.yaml")) for dial in sorted(DIALS)}
    return "\n".join(f"{dial}: {', '.join(names)}" for dial, names in found.items())


def show(conf: Path, arguments: Sequence[str]) -> int:
    """Print the manual for a command. Raises Hydra's own errors where its overrides do not compose."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf, open_dict

    name, overrides = split(arguments)
    with initialize_config_dir(str(conf), version_base="1.3"):
        composed = compose(name, [part for part in overrides if not swept(part)], return_hydra_config=True)
    template = Template(composed.hydra.help.template)
    with open_dict(composed):
        del composed["hydra"]
    sys.stdout.write(template.substitute(APP_CONFIG_GROUPS=options(conf), CONFIG=OmegaConf.to_yaml(composed)))
    return 0


def swept(override: str) -> bool:
    """Whether an override names several values, so that no one experiment shows them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(override).is_sweep_override()
