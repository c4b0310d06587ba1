"""A text that Hydra would take for something else where it is not quoted: `model.revision=12_34` for 1234, `8e4880` for infinity. Light."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence

from lab.errors import ConfigError
from lab.key_index import Door

PIECES = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[^][(),'"]+|.""", re.DOTALL)
"""Of the value of an override: a quoted text, a text up to the next separator, a separator."""
SUSPECT = re.compile(r"(?!0$|-?[1-9]\d*$)([+-]?(\d|\.\d).*|[+-]?inf|nan|true|false)", re.IGNORECASE)
"""What may be a number or a truth value to Hydra, but a whole number as it is written."""


def refuse(arguments: Sequence[str], door: Door) -> None:
    """Raise a `ConfigError` for a key that takes any text and would be given another than was typed."""
    for argument in arguments:
        key, equals, value = argument.partition("=")
        pieces = PIECES.findall(value) if equals else []
        if not any(SUSPECT.fullmatch(piece.strip()) for piece in pieces) or not takes_text(key.lstrip("+"), door):
            continue
        other = {piece: became for piece in pieces if (became := read(piece.strip())) != piece.strip()}
        if other:
            quoted = "".join(f"'{piece.strip()}'" if piece in other else piece for piece in pieces)
            typed, became = next(iter(other.items()))
            raise ConfigError(f'{argument}: {typed.strip()} without quotes is read as {became}. Quote the text: "{key}={quoted}".')


def read(piece: str) -> str:
    """The text that Hydra and OmegaConf make of a piece; as it is where it is no suspect, or cannot be read."""
    if not SUSPECT.fullmatch(piece):
        return piece
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return str(OverridesParser.create().parse_override(f"key={piece}").value())
    except HydraException:
        return piece


def takes_text(key: str, door: Door) -> bool:
    """Whether a key takes any text, a list of texts, or is one of a mapping to texts."""
    known = texts(door)
    return known.get(key) is False or known.get(key.rpartition(".")[0]) is True


@functools.cache
def texts(door: Door) -> dict[str, bool]:
    """Every key with a type of texts, and whether it is a mapping to them; without those that take a few words."""
    from lab.keys import leaves, without_null

    schema, found = door.schema(), {}
    for key, hint in leaves(schema.root):
        kind, _ = without_null(hint)
        if kind in (str, list[str], dict[str, str]) and key not in schema.words:
            found[key] = kind == dict[str, str]
    return found
