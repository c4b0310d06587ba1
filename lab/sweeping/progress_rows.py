"""How far the arms of a sweep are, from their curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

from lab.config import Experiment, trains
from lab.host.progress import Row
from lab.store import curve_files, runs
from lab.store.runs import Run


def rows(
    todo: Sequence[tuple[Experiment, Run]], living: Mapping[str, tuple[BaseProcess, Experiment, Run]], begun: dict[str, tuple[int, float]],
    pause_at: int | None = None,
) -> list[Row]:
    """How far all arms are, in optimizer steps, and each living one. begun: the last step and loss of each that has begun, kept here."""
    begun |= {name: step_and_loss(x, record) for name, (_, x, record) in living.items()}
    total = sum(pause_at or x.trainer.max_steps or 0 for x, _ in todo if trains(x))
    ended = f"{len(begun) - len(living)} ended"
    drawn = [Row(f"{len(todo)} arms", sum(step for step, _ in begun.values()), total or None, ended)]
    for name, (_, x, record) in living.items():
        step, loss = begun[name]
        steps = pause_at or (x.trainer.max_steps if trains(x) else 0)
        note = "answering" if steps is not None and step >= steps else f"loss {loss:.3f}" if step else "starting"
        drawn.append(Row(record.name, step, steps, note))
    return drawn


def step_and_loss(x: Experiment, record: Run) -> tuple[int, float]:
    """The last optimizer step of an arm's curve and its loss; 0 before the first."""
    kept = [row for row in curve_files.read(runs.folder(Path(x.tracking.runs_dir), record.identity)) if "train/loss" in row]
    return (int(kept[-1]["step"]) + 1, kept[-1]["train/loss"]) if kept else (0, 0.0)
