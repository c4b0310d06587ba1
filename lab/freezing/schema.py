"""A composed config as the classes of a schema: unknown keys, missing values and wrong types are told here. Light."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab import bounds
from lab.errors import ConfigError, did_you_mean

S = TypeVar("S")


def checked(composed: DictConfig, schema: type[S], numbers: Mapping[str, bounds.Bounds]) -> S:
    """The config as a schema's own classes, but for what words and values mean. Raises `ConfigError`: unknown, missing, out of bounds."""
    given: Any = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    reject_unknown(given, schema)
    bounds.check_given(given, schema, numbers)
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError(f"{missing[0]}: no value is given, and it has no default. Give it as {missing[0]}=VALUE.")
    return typed(composed, schema)


def typed(composed: DictConfig, schema: type[S]) -> S:
    """The config as the schema's own classes. Raises `ConfigError` for a value of another type."""
    try:
        known = OmegaConf.get_type(composed) is schema  # composed over the schema, which has checked every value
        config = OmegaConf.to_object(composed if known else OmegaConf.merge(structured(schema), composed))
    except OmegaConfBaseException as error:
        raise ConfigError(wrong_type(error, composed)) from None
    assert isinstance(config, schema)
    return config


@functools.cache
def structured(schema: type) -> DictConfig:
    """The schema for OmegaConf, which copies it."""
    return OmegaConf.structured(schema)


def wrong_type(error: OmegaConfBaseException, composed: DictConfig) -> str:
    """What OmegaConf says of a value of another type, headed by its key and the value."""
    key = error.full_key or ""
    return f"{key}={bounds.spelled(OmegaConf.select(composed, key))}: {(error.msg or str(error)).strip()}."


def reject_unknown(given: dict[str, Any], schema: type, prefix: str = "") -> None:
    """Raise a `ConfigError` for the first key of `given` that `schema` does not have."""
    hints = typing.get_type_hints(schema)
    for key, value in given.items():
        if key not in hints:
            legal = ", ".join(sorted(hints))
            raise ConfigError(f"{prefix}{key}: there is no such key.{did_you_mean(key, hints)} Legal here: {legal}.")
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, dict):
            reject_unknown(value, hints[key], f"{prefix}{key}.")


def legal_keys(schema: type, prefix: str = "") -> list[str]:
    """Every key of the schema, sections included: `lora`, `lora.r`, ..."""
    keys: list[str] = []
    for key, hint in typing.get_type_hints(schema).items():
        keys.append(prefix + key)
        if dataclasses.is_dataclass(hint):
            keys += legal_keys(typing.cast(type, hint), f"{prefix}{key}.")
    return keys
