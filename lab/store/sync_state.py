"""Which store runs are sent to, and what a tracker has of a run folder: the note of a delivery, and the lock that lets in one at a time."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab import paths
from lab.config import Tracking
from lab.errors import DataError
from lab.host.files import write_atomically
from lab.store.parsing import parsed

NOTE = "delivered.json"
LOCK = ".delivery"
SHAPE = 2
"""Of what a tracker shows of a run (`lab.tracking.naming`); 1: arms below a parent, final numbers at the last step."""


@dataclass
class Delivered:
    """What a tracker has of a run.

    uri (without credentials), experiment, started: which store, and which start of the run, this is about.
    points, system: lines of `curves.jsonl` and `system.jsonl` that are there. sending: more may be there, because a delivery began
    and did not end. metrics, status: the last summary that is there.
    not_finite: numbers that a tag names. model_id: the MLflow model of a run that has finished.
    """

    uri: str
    experiment: str
    started: str
    run_id: str
    points: int = 0
    system: int = 0
    sending: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    status: str | None = None
    not_finite: dict[str, str] = field(default_factory=dict)
    model_id: str | None = None
    shape: int = 1

    def keep(self, run_dir: Path, name: str = NOTE) -> None:
        """Write the note; each tracker has one of its own."""
        write_atomically(run_dir / name, json.dumps(asdict(self)) + "\n")


def read(run_dir: Path, uri: str, experiment: str, started: str, name: str = NOTE) -> Delivered | None:
    """The note about this start of the run in this store; None if there is none, or one of another version."""
    known = latest(run_dir, name)
    return known if known is not None and (known.uri, known.experiment, known.started) == (uri, experiment, started) else None


def latest(run_dir: Path, name: str = NOTE) -> Delivered | None:
    """The last note, whichever store it is about; None if there is none, or one of another version."""
    try:
        return parsed(run_dir / name, Delivered)
    except (FileNotFoundError, DataError):
        return None


def store_uri(section: Tracking) -> str:
    """Where runs are shown: `tracking.uri`, else MLFLOW_TRACKING_URI, else a SQLite file in the working folder."""
    return paths.expanded(section.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db", "tracking.uri")


@contextlib.contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Wait until no other process holds a lock file; the kernel lets go of it for a process that dies."""
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
