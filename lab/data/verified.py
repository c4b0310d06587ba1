"""A small SQLite table of images that are known to decode, and clips, so that a second run only stats its files.

Row: path (absolute, or `table#row/column`), size [bytes], mtime_ns, rules (what the verdict depends on besides the
file), width, height [px], pixels, frames, fps (`Decoded`).
SQLite's transactions make every write all or nothing, also with several runs on one folder.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from lab.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

log = logging.getLogger(__name__)

COLUMNS = "width, height, pixels, frames, fps"
SCHEMA = """CREATE TABLE IF NOT EXISTS media (
    path BLOB PRIMARY KEY, size INTEGER, mtime_ns INTEGER, rules TEXT, width INTEGER, height INTEGER, pixels TEXT, frames INTEGER, fps REAL)
    WITHOUT ROWID"""
WAIT_S = 60.0
COMMIT_EVERY = 1024


class Stamp(NamedTuple):
    """What a file is recognised by: size [bytes] and mtime [ns]; for bytes in memory, 60 bits of their SHA-256."""

    size: int
    mtime_ns: int

    @classmethod
    def of_bytes(cls, data: bytes) -> Stamp:
        """Stamp bytes that lie in memory."""
        return cls(len(data), int(hashlib.sha256(data).hexdigest()[:15], 16))


class Decoded(NamedTuple):
    """What a source decodes to. size: (width, height) [px]; pixels: 128 bits of their BLAKE2, equal for equal pictures in any format.

    Of a clip pixels names its encoded bytes; frames, fps: as of `Footage`.
    """

    size: tuple[int, int]
    pixels: str
    frames: int = 0
    fps: float = 0.0

    @classmethod
    def of(cls, image: Image.Image) -> Decoded:
        """Describe an upright RGB image."""
        return cls(image.size, hashlib.blake2b(image.tobytes(), digest_size=16, salt=f"{image.width}x{image.height}".encode()[:16]).hexdigest())


class Verified:
    """The table, opened; a context manager that commits when it is left, also by an error."""

    def __init__(self, path: Path, rules: str) -> None:
        self._path = path
        self._rules = rules
        self._waiting: list[tuple] = []
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = self._open()
        except (OSError, sqlite3.OperationalError) as error:
            raise DataError(f"tracking.cache_dir: {path} cannot be opened or made ({error}).") from error

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:  # not a database, or a torn one: it is a cache, so begin anew
            aside = self._path.with_name(f"{self._path.name}.unreadable.{os.getpid()}")
            log.warning("%s is not readable (%s): moved to %s, images are verified anew", self._path, error, aside)
            os.replace(self._path, aside)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=WAIT_S)
        try:
            with connection:
                connection.execute(SCHEMA)
                connection.execute(f"SELECT path, size, mtime_ns, rules, {COLUMNS} FROM media LIMIT 1").fetchone()
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def __enter__(self) -> Verified:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._commit()
        finally:
            self._connection.close()

    def outcomes(self, stamps: Mapping[str, Stamp]) -> dict[str, Decoded]:
        """What every source gave that is known to decode and has not changed since."""
        found = {}
        query = f"SELECT {COLUMNS} FROM media WHERE path = ? AND size = ? AND mtime_ns = ? AND rules = ?"
        with self._explained():
            for source, stamp in stamps.items():
                row = self._connection.execute(query, (os.fsencode(source), *stamp, self._rules)).fetchone()
                if row:
                    found[source] = Decoded(row[:2], *row[2:])
        return found

    def add(self, source: str, stamp: Stamp, outcome: Decoded) -> None:
        """Remember what the source decodes to."""
        self._waiting.append((os.fsencode(source), *stamp, self._rules, *outcome.size, *outcome[1:]))
        if len(self._waiting) >= COMMIT_EVERY:
            self._commit()

    def _commit(self) -> None:
        with self._explained(), self._connection:
            self._connection.executemany("INSERT OR REPLACE INTO media VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", self._waiting)
        self._waiting.clear()

    def _explained(self) -> _Explained:
        return _Explained(self._path)


class _Explained:
    """Turn an SQLite error into a `DataError` that names the file and what to do."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, sqlite3.Error):
            raise DataError(f"{self._path}: {error}. It is a cache: delete it and images are verified anew.") from error
