"""Paths as people write them: `~` is a home folder wherever a path is given, in a key, an address or a door's argument. Light.

A test walks the schema: a key that is named like a path and is not in this table fails it.
"""

from __future__ import annotations

import argparse
import os
import re
from enum import Enum
from pathlib import Path

from lab.errors import ConfigError


class When(Enum):
    """When a key's path is made of what was given."""

    frozen = "once, by lab.freezing: whoever reads the key finds the path"
    read = "by whoever reads it, since the spelling is part of the identity of runs that are there"


PATHS = {
    "model.path": When.frozen,
    "model.start": When.frozen,
    "data.root": When.read,
    "data.path": When.frozen,
    "prompt.template_file": When.frozen,
    "tracking.runs_dir": When.frozen,
    "tracking.cache_dir": When.frozen,
    "tracking.uri": When.frozen,
}
"""The keys that hold a path. `model.start` may hold a run's name instead, `model.path`, `data.root` and `data.path` the id of a hub,
`tracking.uri` a server."""

FILE_ADDRESS = re.compile(r"(sqlite(?:\+\w+)?:///|file:(?://)?)(~.*)", re.DOTALL)


PACKAGE = Path(__file__).parent


def shipped(name: str) -> Path:
    """The folder `conf` or `sweeps`: beside the package in a checkout, inside it in an installed wheel."""
    inside = PACKAGE / name
    return inside if inside.is_dir() else PACKAGE.parent / name


def expanded(given: str, key: str) -> str:
    """The text with `~` or `~user` at its beginning, or at the beginning of a `sqlite:///` or `file:` address's path, as a folder.

    Nothing else is changed: relative paths stay relative. Raises `ConfigError` for a text that is no path, or a user unknown here.
    """
    if not given.strip() or "\0" in given:
        raise ConfigError(f"{key}={given!r}: this is no path. Give one, or leave {key} out.")
    address = FILE_ADDRESS.fullmatch(given)
    if address is not None:
        return address[1] + expanded(address[2], key)
    path = os.path.expanduser(given)
    if path.startswith("~"):
        user = given.partition("/")[0]
        raise ConfigError(f"{key}={given}: {user} is the home of no user here. Write the folder out, or ./{given} for one of that name.")
    return path


def path(given: str, key: str) -> Path:
    """The path that a text means. Raises `ConfigError` as `expanded` does."""
    return Path(expanded(given, key))


def argument(given: str) -> Path:
    """The path that a door's argument means, as `type=` of an argparse argument."""
    try:
        return path(given, "a path")
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error).partition(": ")[2]) from None
