"""Where a catalogue comes from: one file here for each `source=NAME`, with `read(config) -> Catalogue`, imported when it is asked for."""

from __future__ import annotations

import importlib
from pathlib import Path

from lab.curation.catalogue import Catalogue
from lab.curation.config import Curation
from lab.errors import ConfigError, did_you_mean

NAMES = tuple(sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py")))


def read(config: Curation) -> Catalogue:
    """The catalogue that `source` names. Raises `ConfigError`, or `DataError` for one that is missing or broken as a whole."""
    name = config.source.name
    if name not in NAMES:
        raise ConfigError(f"source.name={name}: legal values are {', '.join(NAMES)}.{did_you_mean(name, NAMES)}")
    return importlib.import_module(f"lab.curation.sources.{name}").read(config)
