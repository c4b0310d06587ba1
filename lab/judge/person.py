"""A person's marks of a random subset of replies, in a table that is written once and filled by hand."""

from __future__ import annotations

import csv
import io
import logging
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.data.benchmarks.questions import Question
from lab.errors import DataError
from lab.host.files import write_atomically
from lab.judge import prompt

log = logging.getLogger(__name__)

SUBSET = 50
"""Replies that a person is offered."""
COLUMNS = ("id", "question", "correct", "reply", "mark")


def offer(path: Path, questions: Sequence[Question], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the table, with an empty column mark and no verdict in sight, unless it is there."""
    if path.exists():
        return
    places = sorted(random.Random(0).sample(range(len(rows)), min(SUBSET, len(rows))))
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(COLUMNS)
    table.writerows((rows[at]["id"], questions[at].text, "\n".join(prompt.correct(questions[at])), rows[at]["reply"], "") for at in places)
    write_atomically(path, text.getvalue())


def marks_of(path: Path, rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """The marks that were filled in, by id; those of replies that are others now are told and left out. Raises `DataError`."""
    replies = {row["id"]: row["reply"] for row in rows}
    marks: dict[str, int] = {}
    stale = 0
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        if set(COLUMNS) - set(table.fieldnames or ()):
            raise DataError(f"{path}: its columns must be {', '.join(COLUMNS)}. Move it away, and the same command writes it anew.")
        for number, row in enumerate(table, 2):
            given = (row["mark"] or "").strip()
            if given not in ("", "0", "1"):
                raise DataError(f"{path}, row {number}: mark is {given[:40]!r}; 0, 1 or nothing is legal.")
            if given and unbroken(replies.get(row["id"])) == unbroken(row["reply"]):
                marks[row["id"]] = int(given)
            elif given:
                stale += 1
    if stale:
        log.warning("%s: %d marks are of other replies than today's; they are left out. Move the file away to mark anew.", path, stale)
    return marks


def unbroken(text: str | None) -> str | None:
    """A reply as it comes back from a spreadsheet, whatever the ends of its lines have become."""
    return None if text is None else "\n".join(text.splitlines())
