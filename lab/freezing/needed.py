"""Keys that an option leaves to the user, `path: ???` in its YAML: OmegaConf drops this mark where the schema has a default. Light."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from lab import plugins
from lab.config import DIALS, Experiment
from lab.errors import ConfigError
from lab.paths import shipped


def require_given(x: Experiment) -> None:
    """Raise a `ConfigError` for the first key that the chosen option of a dial needs and nobody has given."""
    for dial in DIALS:
        section = getattr(x, dial)
        for key, comment in needed(dial, section.name).items():
            if getattr(section, key) in (None, []):
                raise ConfigError(f"{dial}.{key}: no value is given, and {dial}={section.name} needs one: {comment}. Give it as {dial}.{key}=VALUE.")


@functools.cache
def needed(dial: str, option: str) -> dict[str, str]:
    """The keys of an option that have no value, each with the first clause of its comment."""
    files = (Path(folder) / dial / f"{option}.yaml" for folder in (shipped("conf"), *plugins.conf_folders()))
    text = next((file.read_text(encoding="utf-8") for file in files if file.is_file()), "")
    marked = re.findall(r"^(\w+): \?\?\? *#? *(.*(?:\n +# .*)*)", text, re.MULTILINE)
    return {key: re.sub(r"\n +# ", " ", comment).partition("; ")[0] for key, comment in marked}
