"""Run folders: where a run's results live, whatever happens to the tracker.

    runs/<identity>/
      run.json               status, config, metrics, counts, versions, command (see `Run`)
      curves.jsonl           one JSON object a line: {"step": int, "seconds": float, "<split>/<metric>": float, ...}
      system.jsonl           the same of the machine, sampled beside training
      predictions/<data>.<split>.parquet   (in earlier versions <split>.parquet)
      predictions/rung_<step>.parquet      minival at a rung of a race
      clips.jsonl            of data with clips, what the model was shown of each (`lab.store.clip_files`)
      adapter/               PEFT's own files (safetensors)
      contract.json          what an evaluation of the adapter must agree with
      checkpoints/           while the run is unfinished: what it is resumed from (`lab.training.checkpoints`)
      .lock                  held by the process at work in the folder
    runs/zero_shot/          what bases answer untrained (`lab.run.zero_shot`)
    runs/sweeps/<sweep>.json the arms of a sweep, in order, and the command that asked for them
    runs/sweeps/<sweep>/race.json   what its race has decided (`lab.store.races`)

JSON files are replaced atomically; `curves.jsonl` is only appended to, and a torn last line is ignored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from lab.errors import BusyError, DataError, did_you_mean
from lab.host.files import write_atomically
from lab.host.redaction import without_secrets
from lab.store.parsing import parsed

log = logging.getLogger(__name__)

RUNNING, FINISHED, FAILED, KILLED = "RUNNING", "FINISHED", "FAILED", "KILLED"
PAUSED, STOPPED = "PAUSED", "STOPPED"
"""Statuses of an arm of a race: it waits at a rung for the others; it was stopped there (`lab.sweeping.race`)."""
STATUSES = (RUNNING, FINISHED, FAILED, KILLED, PAUSED, STOPPED)
UNREADABLE = "UNREADABLE"
"""Status of the stand-in for a run whose `run.json` cannot be read; never written."""
LOCK = ".lock"
CONTENTS = ("contract.json", "curves.jsonl", "predictions", "adapter")
"""What tells a run's folder from any other where `run.json` is missing."""


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


Record = TypeVar("Record", Run, Sweep)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def folder(runs_dir: Path, identity: str) -> Path:
    """The folder of a run."""
    return runs_dir / identity


def predictions_file(run_dir: Path, data: str, split: str) -> Path:
    """Where the predictions of a split of a data option lie, or lay in earlier versions."""
    path, earlier = (run_dir / "predictions" / name for name in (f"{data}.{split}.parquet", f"{split}.parquet"))
    return earlier if earlier.exists() and not path.exists() else path


def own_predictions(run: Run, run_dir: Path, split: str) -> Path:
    """The predictions of a split of the data option that a run was made with."""
    return predictions_file(run_dir, run.config.get("data", {}).get("name", ""), split)


def other_predictions(run_dir: Path, data: str) -> dict[str, Path]:
    """The predictions of dev of every data set that a run was asked beside its own, by its name."""
    found = {path.name.removesuffix(".dev.parquet"): path for path in sorted((run_dir / "predictions").glob("*.dev.parquet"))}
    return {name: path for name, path in found.items() if name != data}


def part_file(predictions: Path, asked: str) -> Path:
    """Where the first predictions of a file lie until there are all. asked: a digest of what is asked."""
    return predictions.with_name(f".{predictions.stem}.{asked}.part")


def drop_parts(run_dir: Path) -> None:
    """Forget answers of weights that are trained anew."""
    for path in (run_dir / "predictions").glob(".*.part"):
        path.unlink()


def rung_file(run_dir: Path, step: int) -> Path:
    """Where the predictions of minival lie that an arm of a race gave after so many optimizer steps."""
    return run_dir / "predictions" / f"rung_{step:08d}.parquet"


def rung_files(run_dir: Path) -> list[Path]:
    """All of them, in order."""
    return sorted((run_dir / "predictions").glob("rung_*.parquet"))


def save(runs_dir: Path, run: Run) -> None:
    """Write `run.json`, without secrets that were typed in the command or that a library put in its error."""
    _write(folder(runs_dir, run.identity) / "run.json", run, ("command", "error"))


def save_sweep(runs_dir: Path, sweep: Sweep) -> None:
    """Write `sweeps/<sweep>.json`, without secrets that were typed in the command."""
    _write(runs_dir / "sweeps" / f"{sweep.identity}.json", sweep, ("command", "name"))


def load(runs_dir: Path, identity: str) -> Run | None:
    """Read a run, or None if there is none. Raises `DataError` for a file that is no run, or that of another folder."""
    return _named(folder(runs_dir, identity) / "run.json", Run, identity)


def look(runs_dir: Path, identity: str) -> Run | None:
    """Read a run among others: for a file that is no run a stand-in of status UNREADABLE, whose error says why."""
    try:
        return load(runs_dir, identity)
    except DataError as error:
        return Run(identity, identity, {}, "", status=UNREADABLE, error=str(error))


def load_sweep(runs_dir: Path, identity: str) -> Sweep | None:
    """Read a sweep, or None if there is none. Raises `DataError` for a file that is no sweep, or that of another name."""
    return _named(runs_dir / "sweeps" / f"{identity}.json", Sweep, identity)


@contextlib.contextmanager
def held(run_dir: Path, wait_s: float = 30.0) -> Iterator[None]:
    """Hold a run folder, so that one process at a time is at work in it; the kernel lets go of it for a process that dies.

    Raises `BusyError` if another holds it for longer than `wait_s` seconds (a killed sweep's arms take a moment to end).
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    deadline = time.monotonic() + wait_s
    try:
        while not _lock(descriptor):
            if time.monotonic() > deadline:
                raise BusyError(f"{run_dir}: another process is at work on this run. Wait for it, or stop it.")
            time.sleep(0.2)
        yield
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def is_held(run_dir: Path) -> bool:
    """Whether a process is at work in a run folder."""
    try:
        descriptor = os.open(run_dir / LOCK, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def truthful(runs_dir: Path, run: Run) -> Run:
    """The run as it is: one that says RUNNING but has no process at work was killed."""
    if run.status != RUNNING or is_held(folder(runs_dir, run.identity)):
        return run
    gone = f"its process (pid {run.process.get('pid')} on {run.process.get('host')}) is gone without a word"
    return dataclasses.replace(run, status=KILLED, error=gone)


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def why_no_record(run_dir: Path) -> str | None:
    """What is strange about a folder that holds results of a run and no record of it; None: nothing is."""
    present = [name for name in CONTENTS if (run_dir / name).exists()]
    if not present or (run_dir / "run.json").exists():
        return None
    return f"{run_dir}: it holds {present[0]} and no run.json. Restore it, or move the folder."


def all_runs(runs_dir: Path) -> list[Run]:
    """Every run in the folder, by the time it started; one that cannot be read is told in a line and left out."""
    for path in sorted(runs_dir.glob("*/")):
        if reason := why_no_record(path):
            log.warning("%s It is left out.", reason)
    return _readable(load, runs_dir, (path.parent.name for path in runs_dir.glob("*/run.json")))


def finished_runs(runs_dir: Path, names: Iterable[str]) -> list[Run]:
    """The finished ones of some runs, or of all where none is named. Raises `DataError` for a name that no run has."""
    found = {name: look(runs_dir, name) for name in names}
    if absent := [name for name, run in found.items() if run is None]:
        raise DataError(f"--run {absent[0]}: there is no such run in {runs_dir}.")
    return [run for run in (found.values() if found else all_runs(runs_dir)) if run is not None and run.status == FINISHED]


def identity_of(runs_dir: Path, given: str) -> str:
    """The identity of the run of this name, or of the only one that begins with it. Raises `LookupError` with a sentence if there is none."""
    known = sorted(path.parent.name for path in runs_dir.glob("*/run.json"))
    fitting = [name for name in known if name == given] or [name for name in known if given and name.startswith(given)]
    if len(fitting) == 1:
        return fitting[0]
    what = f"{len(fitting)} runs begin with it." if fitting else f"there is no such run.{did_you_mean(given, known)}"
    raise LookupError(f"{what} {runs_dir} holds {', '.join(known) or 'none'}.")


def all_sweeps(runs_dir: Path) -> list[Sweep]:
    """Every sweep in the folder, by the time it last started; one that cannot be read is told in a line and left out."""
    return _readable(load_sweep, runs_dir, (path.stem for path in runs_dir.glob("sweeps/*.json")))


def _readable(read: Callable[[Path, str], Record | None], runs_dir: Path, names: Iterable[str]) -> list[Record]:
    found = []
    for name in sorted(names):
        try:
            found.append(read(runs_dir, name))
        except DataError as error:
            log.warning("%s It is left out.", error)
    return sorted((one for one in found if one is not None), key=lambda one: one.started)


def _write(path: Path, record: Record, typed: tuple[str, ...]) -> None:
    values = asdict(record)
    values |= {key: without_secrets(values[key]) for key in typed if values[key] is not None}
    write_atomically(path, json.dumps(values, indent=1) + "\n")


def _named(path: Path, kind: type[Record], identity: str) -> Record | None:
    try:
        record = parsed(path, kind)
        if record.identity != identity:
            what = f"the {kind.__name__.lower()} {record.identity}, not {identity}"
            raise DataError(f"{path}: it is {what}; its folder was renamed or copied.")
        if isinstance(record, Run) and record.status not in STATUSES:
            raise DataError(f"{path}: its status is {record.status!r:.60}, which this laboratory does not know.")
        for time in (record.started, record.ended):
            datetime.fromisoformat(time or now())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise error if isinstance(error, DataError) else DataError(f"{path}: {error}.") from None
    return record
