"""Pieces of one's own without a change to `lab/`: metrics, data sets and rules from a folder, `plugins=[FOLDER]`. Light.

    FOLDER/*.py                         imported in the order of their names, each by itself; they call
                                        `lab.statistics.metrics.register`, `lab.data.register` or `lab.statistics.rules.register`
    FOLDER/conf/<dial>/<option>.yaml    options beside the shipped ones

An item that is no folder is an entry point of an installed package, in the group `vlm_lab.plugins`. To import is to execute: what is
named on the user's own command or in their own config is imported, what a run's record names never is (`missing` tells of it).
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab import paths
from lab.errors import ConfigError
from lab.host.files import text_hash

HELP = "folders of your own metrics, data sets and rules, whose Python files are executed; those that a run names are not, unless given here"
GROUP = "vlm_lab.plugins"
LOADED: dict[str, Path | None] = {}
"""What was imported in this process, by name, with its folder; None: an entry point."""


def load(names: Iterable[str]) -> None:
    """Import what was not imported yet. Raises `ConfigError` for what is not there, or cannot be imported."""
    for name in names:
        folder = paths.path(name, "plugins").resolve()
        if name in LOADED or folder in LOADED.values():
            continue
        if folder.is_dir():
            for file in sorted(folder.glob("*.py")):
                execute(name, file)
            LOADED[name] = folder
        else:
            enter(name)
            LOADED[name] = None


def execute(name: str, file: Path) -> None:
    """Import one file under a name that no other module has."""
    module_name = f"vlm_lab_plugin_{text_hash(str(file), digits=8)}_{file.stem}"
    spec = importlib.util.spec_from_file_location(module_name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"plugins={name}: {file} cannot be imported ({type(error).__name__}: {error}).") from error


def enter(name: str) -> None:
    """Import an entry point."""
    import importlib.metadata

    known = {point.name: point for point in importlib.metadata.entry_points(group=GROUP)}
    if name not in known:
        installed = f"Installed are {', '.join(sorted(known))}." if known else "No package that is installed has any."
        raise ConfigError(f"plugins={name}: there is no such folder, nor an entry point of this name in {GROUP}. {installed}")
    try:
        known[name].load()
    except Exception as error:
        raise ConfigError(f"plugins={name}: {known[name].value} cannot be imported ({type(error).__name__}: {error}).") from error


def named(arguments: Sequence[str]) -> list[str]:
    """What a command line in Hydra's grammar gives as `plugins`."""
    given = [argument for argument in arguments if argument.lstrip("+").startswith("plugins=")]
    if not given:
        return []
    from hydra.core.override_parser.overrides_parser import OverridesParser

    value = OverridesParser.create().parse_overrides([given[-1]])[0].value()
    return [str(one) for one in value] if isinstance(value, list) else [str(value)]


def conf_folders() -> list[Path]:
    """The folders of options of what was imported."""
    return [folder / "conf" for folder in LOADED.values() if folder is not None and (folder / "conf").is_dir()]


def missing(config: Mapping[str, Any]) -> list[str]:
    """What a run's stored config names and this process has not imported."""
    return [name for name in config.get("plugins", ()) if name not in LOADED and paths.path(name, "plugins").resolve() not in LOADED.values()]
