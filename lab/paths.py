"""Paths as people write them: `~` is a home folder wherever a path is given, in a key, an address or a door's argument. Light.

A test walks the schema: a key that is named like a path and is not in this table fails it.
"""

from __future__ import annotations

import argparse
import json
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
    "model.vision_from": When.frozen,
    "model.llm_from": When.frozen,
    "data.root": When.read,
    "data.path": When.frozen,
    "prompt.template_file": When.frozen,
    "evaluation.also_root": When.frozen,
    "tracking.runs_dir": When.frozen,
    "tracking.cache_dir": When.frozen,
    "tracking.uri": When.frozen,
}
"""The keys that hold a path. `model.start` may hold a run's name instead, those of `model` and `data` the id of a hub, `tracking.uri` a server."""

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


def absent(key: str, given: str | os.PathLike[str], what: str = "file") -> str:
    """The sentence about a path that leads nowhere. key: as it was spelled."""
    text = os.fspath(given)
    begins = "" if os.path.isabs(text) else f"; a relative path begins in {os.getcwd()}"
    return f"{key}={text}: there is no such {what}. Give one that is there{begins}."


AUTO = "auto"
"""`model.family` of an assembled model: its tower says which it is."""


def family_of_tower(vision_from: str | None) -> str:
    """`model.family` of what a tower becomes: that of a whole Qwen3-VL's tower, else LLaVA. Raises `ConfigError` without its config.json."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    if vision_from is None:
        raise ConfigError("model.family=auto: only model=assembled has a tower that says which it is. Name the family of the checkpoint.")
    folder = Path(vision_from)
    try:
        config = folder / "config.json" if folder.is_dir() else Path(hf_hub_download(vision_from, "config.json"))
        return "qwen3_vl" if json.loads(config.read_text(encoding="utf-8"))["model_type"] == "qwen3_vl" else "llava"
    except (OSError, ValueError, KeyError, HFValidationError, HfHubHTTPError) as error:
        first = str(error).strip().split("\n")[0]
        raise ConfigError(f"model.vision_from={vision_from}: its config.json cannot be read ({first}). Give a folder or a hub id.") from None


def argument(given: str) -> Path:
    """The path that a door's argument means, as `type=` of an argparse argument."""
    try:
        return path(given, "a path")
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error).partition(": ")[2]) from None
