"""Where the image enters the language model.

Identity: `conditioning=prefix` changes nothing; logits are bit-identical to the checkpoint's.
"""

from __future__ import annotations

from lab.config import ConditioningDial
from lab.errors import ConfigError, did_you_mean
from lab.model import Vlm

METHODS = ("prefix",)


def install(vlm: Vlm, dial: ConditioningDial) -> None:
    """Let the image enter where the dial says. Raises `ConfigError` for an unknown method."""
    if dial.name not in METHODS:
        raise ConfigError(
            f"conditioning.name={dial.name}: there is no such method.{did_you_mean(dial.name, METHODS)} "
            f"Legal: {', '.join(METHODS)}."
        )
    assert vlm.model is not None
