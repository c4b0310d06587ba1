"""Data that are drawn before they can be read: drawn by a process of its own, while this one imports what trains on them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterable
from multiprocessing.process import BaseProcess
from pathlib import Path

from lab import data
from lab.config import DataDial, Experiment
from lab.host.forks import FORK

DRAWING: list[BaseProcess] = []
"""Begun and not waited for."""


def begin(experiments: Iterable[Experiment]) -> None:
    """Begin to draw what these experiments' caches lack."""
    wanted = {repr((x.data, x.tracking.cache_dir)): x for x in experiments if data.named(x.data.name).make is not None}
    for x in wanted.values():
        process = FORK.Process(target=draw, args=(x.data, Path(x.tracking.cache_dir)), daemon=True)
        process.start()
        DRAWING.append(process)


def draw(dial: DataDial, cache_dir: Path) -> None:
    """In a fork: draw. What goes wrong goes wrong again where the data are read, and is told there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    make = data.named(dial.name).make
    assert make is not None
    with contextlib.suppress(Exception):
        make(dial, cache_dir)


def finish() -> None:
    """Wait for what was begun."""
    while DRAWING:
        DRAWING.pop().join()
