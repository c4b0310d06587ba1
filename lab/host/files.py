"""Files that are written whole or not at all, and short names of values by their SHA-256."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Replace a file so that a reader, or a kill, never meets half of it. content: text, bytes, or what writes a given path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def file_hash(path: str | Path) -> str:
    """The SHA-256 of a file's content. Raises `OSError`."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


ANNOTATIONS = (".json", ".txt", ".xml", ".yaml", ".yml")
"""Endings of the files that annotations lie in where they fill a folder."""


def annotations_hash(path: str | Path) -> str | None:
    """The SHA-256 of a file; of a folder, or of the folder of a YAML file: of all `ANNOTATIONS` in it with their names.

    None for what is neither, such as the id of a hub. Raises `OSError`.
    """
    path = Path(path)
    if path.is_file() and path.suffix.lower() not in (".yaml", ".yml"):
        return file_hash(path)
    folder = path.parent if path.is_file() else path
    if not folder.is_dir() or not path.exists():
        return None
    files = sorted(each for each in folder.rglob("*") if each.suffix.lower() in ANNOTATIONS and each.is_file())
    return values_hash([[each.relative_to(folder).as_posix(), file_hash(each)] for each in files], 64)


def script_source(script: str) -> str:
    """What a Content-Security-Policy calls a script of a page by."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def text_hash(*texts: str, digits: int = 64) -> str:
    """The first hexadecimal digits of the SHA-256 of texts with a zero byte between them."""
    return hashlib.sha256("\0".join(texts).encode(errors="replace")).hexdigest()[:digits]


def values_hash(values: Any, digits: int = 16) -> str:
    """The same of plain values, whatever the order of their keys."""
    return text_hash(json.dumps(values, sort_keys=True, default=str), digits=digits)
