"""Run folders: where a run's results live, whatever happens to the tracker.

    runs/<identity>/
      run.json               status, config, metrics, counts, versions, command (see `Run`)
      curves.jsonl           one JSON object a line: {"step": int, "seconds": float, "<split>/<metric>": float, ...}
      predictions/<split>.parquet
      adapter/               PEFT's own files (safetensors)
      contract.json          what an evaluation of the adapter must agree with
    runs/sweeps/<sweep>.json the arms of a sweep, in order, and the command that asked for them

JSON files are replaced atomically; `curves.jsonl` is only appended to, and a torn last line is ignored.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from lab.errors import DataError

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"


@dataclass
class Run:
    """One arm. `metrics` holds its summary numbers (`dev/accuracy`, ...); `facts` what was counted on the way.

    config: the resolved config, nested. command: what to type to get this run again, alone.
    facts: data counts and hashes, parameter ledger, library versions, notes, skipped records.
    process: pid and host of the process that runs it, so that a stale RUNNING can be told.
    """

    identity: str
    name: str
    config: dict[str, Any]
    command: str
    status: str = RUNNING
    sweep: str | None = None
    started: str = ""
    ended: str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    process: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    mlflow_run_id: str | None = None


@dataclass
class Sweep:
    """A set of arms asked for by one command. `dials` are the keys that differ between arms."""

    identity: str
    name: str
    command: str
    arms: list[str]
    dials: list[str]
    question: str | None = None
    started: str = ""
    ended: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    mlflow_run_id: str | None = None


Record = TypeVar("Record", Run, Sweep)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a kill, never meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def folder(runs_dir: Path, identity: str) -> Path:
    """The folder of a run."""
    return runs_dir / identity


def save(runs_dir: Path, run: Run) -> None:
    """Write `run.json`."""
    write_atomically(folder(runs_dir, run.identity) / "run.json", json.dumps(asdict(run), indent=1) + "\n")


def save_sweep(runs_dir: Path, sweep: Sweep) -> None:
    """Write `sweeps/<sweep>.json`."""
    write_atomically(runs_dir / "sweeps" / f"{sweep.identity}.json", json.dumps(asdict(sweep), indent=1) + "\n")


def load(runs_dir: Path, identity: str) -> Run | None:
    """Read a run, or None if there is none. Raises `DataError` for a file that is no run."""
    return _read(folder(runs_dir, identity) / "run.json", Run)


def load_sweep(runs_dir: Path, identity: str) -> Sweep | None:
    """Read a sweep, or None if there is none. Raises `DataError` for a file that is no sweep."""
    return _read(runs_dir / "sweeps" / f"{identity}.json", Sweep)


def all_runs(runs_dir: Path) -> list[Run]:
    """Every run in the folder, by the time it started."""
    found = (load(runs_dir, path.parent.name) for path in runs_dir.glob("*/run.json"))
    return sorted((run for run in found if run is not None), key=lambda run: run.started)


def all_sweeps(runs_dir: Path) -> list[Sweep]:
    """Every sweep in the folder, by the time it last started."""
    found = (load_sweep(runs_dir, path.stem) for path in runs_dir.glob("sweeps/*.json"))
    return sorted((sweep for sweep in found if sweep is not None), key=lambda sweep: sweep.started)


def append_curve(run_dir: Path, row: dict[str, float]) -> None:
    """Add one line to `curves.jsonl`."""
    with (run_dir / "curves.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def curves(run_dir: Path, skip: int = 0) -> Iterator[dict[str, float]]:
    """Read `curves.jsonl` from line `skip` on; a last line without its newline is still being written."""
    path = run_dir / "curves.jsonl"
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if number >= skip and line.endswith("\n"):
                yield json.loads(line)


def _read(path: Path, kind: type[Record]) -> Record | None:
    try:
        return kind(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: this is no {kind.__name__.lower()} of this laboratory ({error}).") from None
