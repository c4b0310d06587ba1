"""`data=mixture data.parts=[...]`: any data options in one training, each with its own kind of answer, prompt and splits.

A part is a data option in one text, as in `evaluation.also`, with keys of its own (`lab.data.Option`): `as`, `prompt`, and

    weight      of its share in what is seen, beside the weights of all parts; without weights each sample stands once in an epoch
    epochs      times that each of its samples is seen in an epoch, beside weights at most; cap: samples of it in an epoch, at most

train holds the parts' training samples in turn; in which order, and how often, they are seen says `lab.training.ordering`. minival and dev
are those of the first part, whose kind the run has: its minival stops early, picks weights, and decides races, and what is exported or
served answers as it does. The others are asked too, each by its own metrics (`lab.run.other_data`).
"""

from __future__ import annotations

from pathlib import Path

from lab import data
from lab.config import DataDial
from lab.data import DataSet
from lab.data.mixed import Mixed
from lab.records import Splits


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Read every part. Raises `ConfigError` for what is no part, and what each part's data set raises."""
    parts = tuple(option.load(cache_dir) for option in data.parts_of(dial))
    first = parts[0].splits
    train = Mixed([part.name for part in parts], [part.splits.train for part in parts])
    skipped = tuple(record for part in parts for record in part.splits.skipped)
    notes = (
        f"mixture of {', '.join(part.name for part in parts)}: minival and dev are those of {parts[0].name}, whose minival alone stops training "
        "early or picks its weights; each other part is asked too, by its own metrics.",
        *(f"{part.name}: {note}" for part in parts for note in part.splits.notes),
    )
    clips = any(part.splits.clips for part in parts)
    return Splits(train, first.minival, first.dev, skipped, notes, first.together, first.answers, first.baselines, clips, parts=parts)


DATA_SET = DataSet(load)
