"""What a user may be told: every error that ends a run with a sentence instead of a traceback.

A message begins with the config key (or the file) at fault, says what was given, what is legal and
what to do. The doors (`lab/train.py`, ...) print it and exit with a non-zero code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LabError(ValueError):
    """An error of the user's making, or of the world's: its text is all that is shown."""


class ConfigError(LabError):
    """A value in the config is not legal, alone or beside another."""


class DataError(LabError):
    """A data set, a record or an image is missing, malformed or not what it says it is."""


class ModelError(LabError):
    """A checkpoint cannot be loaded, or a dial cannot act on this model."""


class TrainingError(LabError):
    """An arm that cannot go on: its loss, its weights or its logits are not finite."""


class BusyError(LabError):
    """A run folder in which another process is at work."""


class ContractError(LabError):
    """An adapter is used with other settings than it was trained with."""


def did_you_mean(given: str, legal: Iterable[str]) -> str:
    """Name the nearest legal word as ` Did you mean 'x'?`, or return an empty string."""
    near = difflib.get_close_matches(given, list(legal), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
