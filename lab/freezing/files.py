"""Data files that keys name: `data.sources` as they are kept, and the hashes by which a changed file is another run. Light."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lab import bounds, paths
from lab.errors import ConfigError, did_you_mean
from lab.host.files import annotations_hash, file_hash, text_hash


def sources_of(given: Sequence[Any]) -> list[dict[str, Any]]:
    """`data.sources` with each entry as `path` and what is given beside it; a lone path is one too. Raises `ConfigError`."""
    found: list[dict[str, Any]] = []
    for each in given:
        source: Mapping[str, Any] = {"path": each} if isinstance(each, str) else each if isinstance(each, Mapping) else {}
        told = f"data.sources: {bounds.short(repr(each))}"
        legal = "a path, or {path: FILE} with weight, cap or epochs"
        if not isinstance(source.get("path"), str):
            raise ConfigError(f"{told}: {legal} is legal, as in data.sources=[{{path:a.json,weight:2}},b.jsonl].")
        for key, value in source.items():
            if key not in ("path", *bounds.SOURCE):
                raise ConfigError(f"{told}: {key} is no key of a source.{did_you_mean(key, tuple(bounds.SOURCE))} Legal: {legal}.")
            of = bounds.SOURCE.get(key)
            if of is not None and value is not None and not (bounds.is_number(value) and of.hold(value) and (key != "cap" or value == int(value))):
                raise ConfigError(f"{told}: {key} is {bounds.short(value)}; {of.rule}, or left out.")
        kept = {key: value for key, value in source.items() if value is not None}
        found.append({**kept, "path": paths.expanded(source["path"], "data.sources")})
    weighed = [source for source in found if "weight" in source]
    if weighed and len(weighed) < len(found):
        lacking = next(source["path"] for source in found if "weight" not in source)
        raise ConfigError(f"data.sources: {lacking} has no weight, and others have: weights are shares of what is seen. Give one for each, or none.")
    if twice := [path for path, number in Counter(source["path"] for source in found).items() if number > 1]:
        raise ConfigError(f"data.sources: {twice[0]} stands twice. Give it once, with epochs=2 to see it twice.")
    return found


def sources_hash(sources: Sequence[Mapping[str, Any]]) -> str:
    """One SHA-256 over those of the files of `data.sources`. Raises `ConfigError` for one that cannot be read."""
    try:
        return text_hash(*(file_hash(source["path"]) for source in sources))
    except OSError as error:
        raise ConfigError(f"data.sources: {error.filename} cannot be read ({error.strerror}).") from None


def with_hash(part: str) -> str:
    """A part of a mixture with the SHA-256 of its file behind it, so that a changed file is another run. Raises `ConfigError`."""
    try:
        given = dict(word.split("=", 1) for word in shlex.split(part) if "=" in word)
    except ValueError as error:
        raise ConfigError(f"data.parts=[{part}]: it cannot be read ({error}).") from None
    if "path" not in given or "sha256" in given:
        return part
    file = paths.expanded(given["path"], "data.parts: path")
    try:
        digest = annotations_hash(file)
    except OSError as error:
        raise ConfigError(f"data.parts=[{part}]: the file {file} cannot be read ({error.strerror}).") from None
    return part if digest is None else f"{part} sha256={digest}"
