"""How long work shows itself: stages call a `Report`, and who listens decides what a person sees.

On a terminal bars by rich; into a pipe, a file or a CI log a line now and then, without control characters.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Report = Callable[[str, int, int, str], None]
"""Called as report(stage, done, total, note): `done` of `total` units of `stage`; the note stands beside the bar."""
REFRESH_S = 0.25
"""Least time between two drawings. Nothing draws in a thread of its own: arms are forked while bars stand."""
LINE_EVERY_S = 30.0
"""Time between two lines where there is no terminal; a stage that takes less says nothing."""
SHOWN: list[Progress] = []
"""What draws at the bottom of the terminal now; a forked process draws nothing."""
os.register_at_fork(after_in_child=SHOWN.clear)


@dataclass(frozen=True)
class Row:
    """One bar: `done` of `total` units; total None: not known."""

    name: str
    done: int
    total: int | None
    note: str = ""


def silent(stage: str, done: int, total: int, note: str = "") -> None:
    """Show nothing."""


def bars() -> Report:
    """One bar a stage with time left, on standard error; it stays when the stage has ended."""
    draw = Bars(keep=True) if sys.stderr.isatty() else lines()
    open_stages: dict[str, Row] = {}

    def report(stage: str, done: int, total: int, note: str = "") -> None:
        open_stages[stage] = Row(stage, done, total, note or (open_stages[stage].note if stage in open_stages else ""))
        draw(list(open_stages.values()))
        if done >= total:
            del open_stages[stage]
            draw(list(open_stages.values()))

    return report


@contextlib.contextmanager
def board() -> Iterator[Callable[[Sequence[Row]], None]]:
    """Bars that come and go together, the first of all the others: call it with those that are at work."""
    draw = Bars(keep=False) if sys.stderr.isatty() else lines()
    try:
        yield draw
    finally:
        draw([])


def say(text: str) -> None:
    """A line on standard error, above the bars where some are drawn."""
    if SHOWN:
        SHOWN[-1].console.print(text, markup=False, highlight=False, soft_wrap=True)
    else:
        print(text, file=sys.stderr)


class Bars:
    """Draws rows on the terminal; one that is not given any more stays as it was last, or goes where `keep` is false."""

    def __init__(self, keep: bool) -> None:
        self.keep = keep
        self.progress: Progress | None = None
        self.tasks: dict[str, TaskID] = {}
        self.drawn = 0.0

    def __call__(self, given: Sequence[Row]) -> None:
        if not given:
            self.stop()
            return
        progress = self.progress or self.start()
        ended = self.tasks.keys() - {row.name for row in given}
        for name in ended:
            task = self.tasks.pop(name)
            if not self.keep:
                progress.remove_task(task)
        for row in given:
            if row.name in self.tasks:
                progress.update(self.tasks[row.name], completed=row.done, total=row.total, note=row.note)
            else:
                self.tasks[row.name] = progress.add_task(row.name, completed=row.done, total=row.total, note=row.note)
        if ended or time.monotonic() - self.drawn >= REFRESH_S:
            progress.refresh()
            self.drawn = time.monotonic()

    def start(self) -> Progress:
        """Begin to draw at the bottom of the terminal."""
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        name, note = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[note]}", markup=False, style="dim")
        self.progress = Progress(
            name, BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn(compact=True), note,
            console=Console(stderr=True), auto_refresh=False, transient=not self.keep, redirect_stdout=False, redirect_stderr=False,
        )  # fmt: skip
        SHOWN.append(self.progress)
        atexit.register(self.stop)  # an error on the way leaves the cursor as it was
        self.progress.start()
        return self.progress

    def stop(self) -> None:
        """Draw for the last time."""
        if self.progress in SHOWN:
            SHOWN.remove(self.progress)
            self.progress.stop()
            atexit.unregister(self.stop)
        self.progress = None
        self.tasks.clear()


def lines() -> Callable[[Sequence[Row]], None]:
    """A line about all rows every `LINE_EVERY_S`."""
    last = began = time.monotonic()

    def draw(given: Sequence[Row]) -> None:
        nonlocal last
        if (now := time.monotonic()) - last < LINE_EVERY_S or not given:
            return
        last = now
        parts = [" ".join(filter(None, (row.name, f"{row.done:,} of {row.total:,}" if row.total else "", row.note))) for row in given]
        print(f"{'; '.join(parts)} ({now - began:.0f} s)", file=sys.stderr, flush=True)

    return draw
