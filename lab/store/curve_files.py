"""The curves of a run: one JSON object a line, in `curves.jsonl`, and the same of the machine in `system.jsonl`."""

from __future__ import annotations

import functools
import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path

from lab.errors import DataError
from lab.host.files import write_atomically

log = logging.getLogger(__name__)


def append(run_dir: Path, row: dict[str, float]) -> None:
    """Add one line to `curves.jsonl`."""
    _append(run_dir / "curves.jsonl", row)


def _append(path: Path, row: dict[str, float]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def read(run_dir: Path) -> Iterator[dict[str, float]]:
    """Read `curves.jsonl`; a last line without its newline is still being written.

    A line that is no point is told once and left out. Raises `DataError` where the file cannot be read.
    """
    return _rows(run_dir / "curves.jsonl")


def _rows(path: Path) -> Iterator[dict[str, float]]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file):
                if line.endswith(b"\n"):
                    row = _point(line)
                    if row is None:
                        _tell_bad_line(path, number + 1)
                    else:
                        yield row
    except FileNotFoundError:
        return
    except OSError as error:
        raise DataError(f"{path}: it cannot be read ({error}).") from None


def _point(line: bytes) -> dict[str, float] | None:
    """One line of a curve, or None if it is not what `append` writes."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(row, dict) and {"step", "seconds"} <= row.keys() and type(row["step"]) is int
    return row if whole and all(type(value) in (int, float) for value in row.values()) else None


@functools.cache
def _tell_bad_line(path: Path, number: int) -> None:
    log.warning("%s:%d: this line is no point of a curve; it is left out.", path, number)


def count(run_dir: Path) -> int:
    """How many whole lines `curves.jsonl` has."""
    return sum(1 for _ in read(run_dir))


def append_sample(run_dir: Path, row: dict[str, float]) -> None:
    """Add one line to `system.jsonl`."""
    _append(run_dir / "system.jsonl", row)


def samples(run_dir: Path) -> Iterator[dict[str, float]]:
    """Read `system.jsonl` as `read` reads its file."""
    return _rows(run_dir / "system.jsonl")


def drop_samples(run_dir: Path) -> None:
    """Forget the samples of an earlier start."""
    (run_dir / "system.jsonl").unlink(missing_ok=True)


def cut(run_dir: Path, rows: int) -> None:
    """Keep the first `rows` lines of `curves.jsonl`: a run is resumed from a checkpoint that was taken when it had so many."""
    kept = list(itertools.islice(read(run_dir), rows))
    write_atomically(run_dir / "curves.jsonl", "".join(json.dumps(row) + "\n" for row in kept))
