"""Which store runs are sent to, and what it has of a run folder: the note of a delivery, and the lock that lets in one at a time."""

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


@dataclass
class Delivered:
    """What MLflow has of a run.

    uri (without credentials), experiment, started: which store, and which start of the run, this is about.
    points: lines of `curves.jsonl` that are there. sending: more may be there, because a delivery began and did not end.
    metrics, status: the last summary that is there.
    """

    uri: str
    experiment: str
    started: str
    run_id: str
    points: int = 0
    sending: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    status: str | None = None

    def keep(self, run_dir: Path) -> None:
        """Write the note."""
        write_atomically(run_dir / NOTE, json.dumps(asdict(self)) + "\n")


def read(run_dir: Path, uri: str, experiment: str, started: str) -> Delivered | None:
    """The note about this start of the run in this store; None if there is none, or one of another version."""
    known = latest(run_dir)
    return known if known is not None and (known.uri, known.experiment, known.started) == (uri, experiment, started) else None


def latest(run_dir: Path) -> Delivered | None:
    """The last note, whichever store it is about; None if there is none, or one of another version."""
    try:
        return parsed(run_dir / NOTE, Delivered)
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
