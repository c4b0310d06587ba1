"""JSON files as the dataclasses that were written to them: every field of its declared type, none that this version does not know."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any, TypeVar

from lab.errors import DataError

T = TypeVar("T")


def parsed(path: Path, kind: type[T]) -> T:
    """A JSON file as one of the dataclasses that were written to it. Raises `DataError`, `FileNotFoundError`."""
    what = f"this is no {kind.__name__.lower()} of this laboratory"
    hints = typing.get_type_hints(kind)
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: {what} ({error or type(error).__name__}). Restore it, or move its folder away.") from None
    if not isinstance(values, dict):
        raise DataError(f"{path}: {what} (it holds no JSON object). Restore it, or move its folder away.")
    values.pop("mlflow_run_id", None)  # always null, in files of 662f32b and before
    unknown = sorted(values.keys() - hints.keys())
    if unknown:
        raise DataError(f"{path}: a later version of this laboratory wrote it (unknown field {unknown[0]!r:.60}). Update to read it.")
    try:
        made = kind(**values)
    except TypeError as error:
        raise DataError(f"{path}: {what} ({error}). Restore it, or move its folder away.") from None
    wrong = [name for name, hint in hints.items() if not fits(getattr(made, name), hint)]
    if wrong:
        raise DataError(f"{path}: {what} ({wrong[0]} is {getattr(made, wrong[0])!r:.60}). Restore it, or move its folder away.")
    return made


def fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of the type that a field is declared with."""
    if hint is Any:
        return True
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is dict:
        return isinstance(value, dict) and all(fits(one, inner[1]) for one in value.values())
    if origin is list:
        return isinstance(value, list) and all(fits(one, inner[0]) for one in value)
    if inner:
        return any(fits(value, one) for one in inner)
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint
