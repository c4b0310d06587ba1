"""What `lab data check` makes of manifests: every record read, media of all of them or of a sample looked at, each fault with its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lab.config import DataDial, OnBad
from lab.data import images
from lab.data.conversation_file import parts as dividing
from lab.data.conversation_file.rows import Manifests
from lab.data.sets import conversations
from lab.data.sets.conversations import Reading, without
from lab.data.splits import PARTS
from lab.errors import ConfigError
from lab.host.progress import Report

CHUNK = 500
"""Records whose media are looked at between two reports."""


def check(dial: DataDial, cache_dir: Path, sample: int | None, report: Report) -> int:
    """Print what the manifests hold and every fault of them; 0 if they can train, else 1. sample: records whose media are looked at."""
    reading = conversations.read(dial, cache_dir, report)
    rows = reading.rows if sample is None else sampled(reading.rows, sample, dial.seed)
    found = dict(broken(reading.manifests, rows, cache_dir, report))
    remember(reading.manifests, rows, found)
    reading = without(reading, found)
    for sentence in told(reading, dial, len(rows)):
        print(sentence)
    for fault in reading.faults:
        print(f"problem: {fault}")
    number, skips = len(reading.faults), dial.on_bad is OnBad.skip
    looked = "" if sample is None else f" Media of {len(rows):,} of {len(reading.manifests):,} records were looked at; leave --sample out for all."
    if number and not skips:
        print(f"it cannot train: {number:,} bad records. Mend them, or leave them out with data.on_bad=skip.{looked}")
        return 1
    print(f"it can train{f', without {number:,} bad records' if number else ''}.{looked}")
    return 0


def sampled(rows: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Some rows, drawn from the seed, in order."""
    if number < 1:
        raise ConfigError(f"--sample {number}: at least 1 is legal.")
    return np.sort(np.random.default_rng(seed).permutation(rows)[:number])


def broken(manifests: Manifests, rows: np.ndarray, cache_dir: Path, report: Report) -> Iterator[tuple[int, str]]:
    """The rows with a medium that cannot be used, and why. Pictures that decode are remembered (`lab.data.images`)."""
    for start in range(0, len(rows), CHUNK):
        samples = {row: manifests.sample(row) for row in rows[start : start + CHUNK].tolist()}
        media = [one for sample in samples.values() for one in sample.images]
        known = images.outcomes(media, cache_dir, progress=False, tables=manifests.media)
        for row, sample in samples.items():
            reason = next((f"{one.source}: {known[one.source]}" for one in sample.images if isinstance(known[one.source], str)), None)
            if reason is not None:
                yield row, f"record {sample.sample_id!r}: {reason}"
        report("looking at media (records)", min(start + CHUNK, len(rows)), len(rows), "")


def remember(manifests: Manifests, rows: np.ndarray, found: dict[int, str]) -> None:
    """Write down which rows cannot be used, for trainings that do not look at all media; of rows that were not looked at what was known."""
    for number, index in enumerate(manifests.indices):
        first, end = int(manifests.starts[number]), int(manifests.starts[number + 1])
        own = {row - first for row in rows[(rows >= first) & (rows < end)].tolist()}
        bad = {row - first for row in found if first <= row < end}
        index.remember_lost((set(index.lost) - own) | bad)


def told(reading: Reading, dial: DataDial, looked_at: int) -> Iterator[str]:
    """What the manifests hold, in sentences."""
    manifests = reading.manifests
    for number, name in enumerate(manifests.names):
        index, own = manifests.indices[number], (reading.rows >= manifests.starts[number]) & (reading.rows < manifests.starts[number + 1])
        yield f"{name}: {int(own.sum()):,} good conversations, {len(index.columns['media']):,} pictures and clips shown"
    yield from reading.notes
    if not len(reading.rows):
        return
    given = np.concatenate([index.columns["part"] for index in manifests.indices])[reading.rows]
    parts, notes, leak = dividing.parts_of(reading.rows, given, manifests.groups[reading.rows], dial)
    yield from notes
    for part in PARTS:
        yield f"  {part:<8} {len(parts[part]):>9,} conversations"
    if leak:
        yield leak
