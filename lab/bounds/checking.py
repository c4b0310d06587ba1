"""A config held to its bounds and words. Light."""

from __future__ import annotations

import functools
import typing
from collections.abc import Mapping
from typing import Any

from lab.bounds.numbers import BOUNDS, Bounds, is_number, short
from lab.bounds.words import WORDS, Words
from lab.config import Experiment
from lab.errors import ConfigError, did_you_mean


def check(x: Any, section: str = "", numbers: Mapping[str, Bounds] | None = None, words: Mapping[str, Words] | None = None) -> None:
    """Check every number and every word of a config, or of one section. Raises `ConfigError` with key, value and what is legal.

    numbers, words: of another schema than `Experiment`.
    """
    for key, bounds in (BOUNDS if numbers is None else numbers).items():
        if key.startswith(section):
            check_number(key, value_of(x, key), bounds, type(x))
    for key, legal in (WORDS if words is None else words).items():
        if key.startswith(section):
            check_word(key, value_of(x, key), legal, type(x))


def check_given(values: dict[str, Any], schema: type = Experiment, numbers: Mapping[str, Bounds] | None = None) -> None:
    """Check the numbers of a config that is not typed yet: one that no float holds must not get as far as a conversion."""
    for key, bounds in (BOUNDS if numbers is None else numbers).items():
        value: Any = values
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if all(map(is_number, value)) if isinstance(value, list) else is_number(value):
            check_number(key, value, bounds, schema)


def value_of(x: Any, key: str) -> Any:
    """The value of a dotted key."""
    for name in key.split("."):
        x = getattr(x, name)
    return x


def check_number(key: str, value: Any, bounds: Bounds, schema: type = Experiment) -> None:
    """Check one number, or a list of them; None is legal where its type allows it."""
    if isinstance(value, list) and len(value) != (bounds.length or max(1, len(value))):
        wanted = f"{bounds.length} numbers are needed, as in {default_of(key, schema)}"
        wanted = wanted if bounds.length else "it must hold at least one number, or be null"
        raise ConfigError(f"{key}={spelled(value)}: {wanted}.")
    given = value if isinstance(value, list) else [value]
    wrong = [one for one in given if one is not None and not bounds.hold(one)]
    if wrong:
        each = f" {short(wrong[0])} is out of bounds:" if isinstance(value, list) else ""
        raise ConfigError(f"{key}={spelled(value)}:{each} {bounds.rule}{', or null' if nullable(key, schema) else ''}.")


def check_word(key: str, value: Any, words: Words, schema: type = Experiment) -> None:
    """Check one word, or a list of them, none twice; None is legal where its type allows it."""
    given = value if isinstance(value, list) else [value]
    if twice := [one for place, one in enumerate(given) if one in given[:place]]:
        raise ConfigError(f"{key}={spelled(value)}: {short(twice[0])} is named twice. Take one of them out.")
    wrong = [one for one in given if one is not None and not words.hold(one)]
    if wrong:
        legal = ", ".join([*words.legal, *filter(None, [words.also_told]), *(["null"] if nullable(key, schema) else [])])
        what = f" {short(repr(wrong[0]))} is none of them." if isinstance(value, list) else ""
        why = f" {wrong[0]}: {words.refused[wrong[0]]}." if wrong[0] in words.refused else did_you_mean(wrong[0], words.legal)
        raise ConfigError(f"{key}={spelled(value)}: legal values are {legal}.{what}{why}")


def default_of(key: str, schema: type = Experiment) -> Any:
    """The value of a key that nobody set."""
    return value_of(schema(), key)


@functools.cache
def nullable(key: str, schema: type = Experiment) -> bool:
    """Whether the schema lets a key be null."""
    *sections, name = key.split(".")
    owner: Any = schema
    for section in sections:
        owner = typing.get_type_hints(owner)[section]
    return type(None) in typing.get_args(typing.get_type_hints(owner)[name])


def spelled(value: Any) -> str:
    """A given value for a message."""
    return f"[{', '.join(map(short, value))}]" if isinstance(value, list) else short(value)
