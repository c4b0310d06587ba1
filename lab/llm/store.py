"""What the model said, kept raw before it is read, and every attempt to get it: one SQLite file, each write whole or not at all.

A killed process loses at most the requests in flight. Those stand as attempts without an end, counted at the most they may have cost.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from lab.errors import BusyError, DataError
from lab.llm.request import Request, Usage

SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, state TEXT NOT NULL, text TEXT NOT NULL, detail TEXT NOT NULL, body TEXT NOT NULL, about TEXT NOT NULL,
    model TEXT NOT NULL, asked_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY, key TEXT NOT NULL, began REAL NOT NULL, ended REAL, outcome TEXT NOT NULL, input INTEGER NOT NULL,
    output INTEGER NOT NULL, cost REAL NOT NULL);
CREATE INDEX IF NOT EXISTS began ON attempts (began);
"""
IN_FLIGHT = "in flight"


class State(Enum):
    """How a request ended. A failure is never an answer, and is asked again by the next command; the others were paid for and stay."""

    answered = "answered"
    cut = "cut by the token limit"
    filtered = "filtered by the provider"
    empty = "empty"
    failed = "failed"


@dataclass(frozen=True)
class Answer:
    """text: what the model wrote. detail: why there is none, or what a provider said of it. body: of the response, as it came."""

    state: State
    text: str
    detail: str = ""
    body: str = ""


@dataclass(frozen=True)
class Totals:
    """Of all attempts ever made."""

    attempts: int
    tokens: int
    cost: float


class Store:
    """The file, opened by one process at a time; used by several threads."""

    def __init__(self, path: Path) -> None:
        """Raises `BusyError` where another command is at work in the folder, `DataError` for a file that is no such database."""
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lock_file = os.open(path.parent / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self.lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self.lock_file)
            raise BusyError(f"{path.parent}: another command is asking a model there. Wait for it, or name another folder.") from None
        self.guard = threading.Lock()
        try:
            self.connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self.connection.execute("PRAGMA journal_mode=WAL")
            self.connection.executescript(SCHEMA)
        except sqlite3.DatabaseError as error:
            os.close(self.lock_file)
            raise DataError(f"{path}: it is no file of answers ({error}). Move it away; what it holds cannot be used.") from None

    def close(self) -> None:
        """Close file and lock."""
        self.connection.close()
        os.close(self.lock_file)

    def answer(self, key: str) -> Answer | None:
        """What is kept under a key."""
        with self.guard:
            row = self.connection.execute("SELECT state, text, detail, body FROM answers WHERE key = ?", (key,)).fetchone()
        return Answer(State[row[0]], *row[1:]) if row else None

    def begin(self, request: Request, most: Usage, cost: float) -> int:
        """Note an attempt before it is sent, at the most it may cost; return its number."""
        with self.guard:
            row = (request.key, time.time(), IN_FLIGHT, most.input, most.output, cost)
            statement = "INSERT INTO attempts (key, began, outcome, input, output, cost) VALUES (?, ?, ?, ?, ?, ?)"
            return self.connection.execute(statement, row).lastrowid or 0

    def end(self, attempt: int, outcome: str, used: Usage, cost: float, request: Request, answer: Answer | None) -> None:
        """Note how an attempt ended and what it did cost, and keep its answer: both, or after a kill neither."""
        with self.guard:
            self.connection.execute("BEGIN")
            row = (time.time(), outcome, used.input, used.output, cost, attempt)
            self.connection.execute("UPDATE attempts SET ended = ?, outcome = ?, input = ?, output = ?, cost = ? WHERE id = ?", row)
            if answer is not None:
                self.insert(request, answer)
            self.connection.execute("COMMIT")

    def keep(self, request: Request, answer: Answer) -> None:
        """Keep what a request came to."""
        with self.guard:
            self.insert(request, answer)

    def insert(self, request: Request, answer: Answer) -> None:
        """One row of answers; `guard` is held."""
        row = (request.key, answer.state.name, answer.text, answer.detail, answer.body, request.about, request.llm.model, time.time())
        self.connection.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def began_since(self, moment: float) -> list[tuple[float, int]]:
        """Unix time and tokens of every attempt since a moment, in order."""
        with self.guard:
            return self.connection.execute("SELECT began, input + output FROM attempts WHERE began > ? ORDER BY began", (moment,)).fetchall()

    def totals(self) -> Totals:
        """Of all attempts."""
        with self.guard:
            sums = "COUNT(*), COALESCE(SUM(input + output), 0), COALESCE(SUM(cost), 0.0)"
            return Totals(*self.connection.execute(f"SELECT {sums} FROM attempts").fetchone())

    def usage(self, key: str) -> Usage | None:
        """Tokens of the attempt that gave the answer under a key."""
        with self.guard:
            found = "SELECT input, output FROM attempts WHERE key = ? AND outcome = '200' ORDER BY id DESC LIMIT 1"
            row = self.connection.execute(found, (key,)).fetchone()
        return Usage(*row) if row else None

    def tries(self, key: str) -> int:
        """How many attempts were made for the answer under a key."""
        with self.guard:
            return self.connection.execute("SELECT COUNT(*) FROM attempts WHERE key = ?", (key,)).fetchone()[0]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Store]:
    """The store, closed afterwards."""
    store = Store(path)
    try:
        yield store
    finally:
        store.close()
