"""A composed config as the classes of a schema: unknown keys, missing values and wrong types are told here. Light."""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab import bounds
from lab.config.missing import MISSING
from lab.errors import ConfigError, did_you_mean

S = TypeVar("S")


def checked(composed: DictConfig, schema: type[S], numbers: Mapping[str, bounds.Bounds]) -> S:
    """The config as a schema's own classes, but for what words and values mean. Raises `ConfigError`: unknown, missing, out of bounds."""
    given: Any = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    require_known(given, schema, numbers)
    return typed(composed, schema)


def checked_values(values: dict[str, Any], schema: type[S], numbers: Mapping[str, bounds.Bounds]) -> S:
    """The same of plain values, in which nothing refers to another key. OmegaConf is given those alone that are not the schema's defaults."""
    require_known(values, schema, numbers)
    config = copy.deepcopy(structured(schema))
    try:
        put(values, config, schema, defaults_of(schema))
        made = OmegaConf.to_object(config)
    except OmegaConfBaseException as error:
        raise ConfigError(wrong_type(error, OmegaConf.create(literal(values)))) from None
    assert isinstance(made, schema)
    return made


def require_known(given: dict[str, Any], schema: type, numbers: Mapping[str, bounds.Bounds]) -> None:
    """Raise a `ConfigError` for a key that the schema does not have, a number out of its bounds, or a value that is not given."""
    reject_unknown(given, schema)
    bounds.check_given(given, schema, numbers)
    missing = min(missing_keys(given), default=None)
    if missing is not None:
        raise ConfigError(f"{missing}: no value is given, and it has no default. Give it as {missing}=VALUE.")


def typed(composed: DictConfig, schema: type[S]) -> S:
    """The config as the schema's own classes. Raises `ConfigError` for a value of another type."""
    try:
        known = OmegaConf.get_type(composed) is schema  # composed over the schema, which has checked every value
        config = OmegaConf.to_object(composed if known else OmegaConf.merge(structured(schema), composed))
    except OmegaConfBaseException as error:
        raise ConfigError(wrong_type(error, composed)) from None
    assert isinstance(config, schema)
    return config


def put(values: dict[str, Any], config: DictConfig, schema: type, defaults: dict[str, Any]) -> None:
    """Set what differs from the defaults, section by section."""
    for key, value in values.items():
        hint = hints_of(schema)[key]
        if dataclasses.is_dataclass(hint) and isinstance(value, dict):
            put(value, config[key], typing.cast(type, hint), defaults[key])
        elif repr(value) != repr(defaults[key]):  # 1, 1.0 and true are equal
            config[key] = literal(value)


@functools.cache
def structured(schema: type) -> DictConfig:
    """The schema for OmegaConf, which copies it."""
    return OmegaConf.structured(schema)


@functools.cache
def defaults_of(schema: type) -> dict[str, Any]:
    """The schema's defaults as plain values."""
    return typing.cast(dict[str, Any], OmegaConf.to_container(structured(schema), enum_to_str=True))


def literal(value: Any) -> Any:
    """A stored value with its texts escaped, so that OmegaConf reads `${` in them as these two characters, not as a reference."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value)
    if isinstance(value, dict):
        return {key: literal(one) for key, one in value.items()}
    return [literal(one) for one in value] if isinstance(value, list) else value


def wrong_type(error: OmegaConfBaseException, composed: Container) -> str:
    """What OmegaConf says of a value of another type, headed by its key and the value."""
    key = error.full_key or ""
    return f"{key}={bounds.spelled(OmegaConf.select(composed, key))}: {(error.msg or str(error)).strip()}."


def missing_keys(given: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """The keys that have no value."""
    for key, value in given.items():
        if isinstance(value, dict):
            yield from missing_keys(value, f"{prefix}{key}.")
        elif value == MISSING or (isinstance(value, list) and MISSING in value):
            yield prefix + key


def reject_unknown(given: dict[str, Any], schema: type, prefix: str = "") -> None:
    """Raise a `ConfigError` for the first key of `given` that `schema` does not have."""
    hints = hints_of(schema)
    for key, value in given.items():
        if key not in hints:
            legal = ", ".join(sorted(hints))
            raise ConfigError(f"{prefix}{key}: there is no such key.{did_you_mean(key, hints)} Legal here: {legal}.")
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, dict):
            reject_unknown(value, hints[key], f"{prefix}{key}.")


@functools.cache
def hints_of(schema: type) -> dict[str, Any]:
    """The type of each of its keys, which takes Python a while to find."""
    return typing.get_type_hints(schema)


def legal_keys(schema: type, prefix: str = "") -> list[str]:
    """Every key of the schema, sections included: `lora`, `lora.r`, ..."""
    keys: list[str] = []
    for key, hint in hints_of(schema).items():
        keys.append(prefix + key)
        if dataclasses.is_dataclass(hint):
            keys += legal_keys(typing.cast(type, hint), f"{prefix}{key}.")
    return keys
