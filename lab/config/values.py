"""An experiment as plain values, without credentials."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from typing import Any

from lab.config.experiment import Experiment
from lab.host.redaction import without_secrets

ADDRESSES = (
    ("tracking", "uri"), ("model", "path"), ("model", "vision_from"), ("model", "llm_from"), ("data", "root"), ("data", "path"),
    ("evaluation", "judge", "base_url"), ("endpoint", "base_url"),
)  # fmt: skip
"""Keys that may hold an address, and in it a password."""


def as_dict(x: Experiment) -> dict[str, Any]:
    """The experiment as plain JSON values: dicts, lists, strings, numbers, None. Credentials in an address are `***`."""
    values = plain(x)
    for *sections, key in ADDRESSES:
        section = functools.reduce(lambda within, name: within[name], sections, values)
        if section[key] is not None:
            section[key] = without_secrets(section[key])
    values["data"]["parts"] = [without_secrets(option) for option in values["data"]["parts"]]
    return values


def plain(section: Any) -> dict[str, Any]:
    """A section, or all of them, as plain JSON values; an address as it was given."""
    values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(section), default=lambda value: value.value))
    return values


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"lora": {"r": 8}}` as `{"lora.r": 8}`."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return out


def differing(flats: Sequence[dict[str, Any]]) -> list[str]:
    """Keys of flat configs whose values are not the same in all; one that a config lacks is None there."""
    keys = dict.fromkeys(key for values in flats for key in values)
    return [key for key in keys if len({repr(values.get(key)) for values in flats}) > 1]
