"""Facts of a run for its record: counts, hashes and orders of its data, rows below the arms, and the versions behind it."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import itertools
import platform
from typing import Any

from lab import data
from lab.artifacts import contract
from lab.config import DataDial, Experiment, trains
from lab.run.sharing import SPLITS, Prepared
from lab.store.runs import Run
from lab.training import ordering
from lab.training.examples import Examples
from lab.training.steps import num_steps

OPTIONAL = ("datasets", "mlflow")
"""Libraries that a run does without where its data are no tables and `tracking.enabled` is false."""


def data_facts(x: Experiment, prepared: Prepared, encoded: dict[str, Examples]) -> dict[str, Any]:
    """Counts, hashes of samples and of their order, notes and skipped records: what makes arms comparable."""
    steps = num_steps(x.trainer, encoded["train"].epoch_length) if trains(x) else 0
    seen = steps * x.trainer.samples_per_step
    splits = prepared.splits_of(x)
    return {
        "counts": {name: len(getattr(splits, name)) for name in SPLITS},
        "samples": {name: data.fingerprint(getattr(splits, name)) for name in SPLITS},
        "order": drawn(x, seen),
        "sources": ordering.facts(splits.sources, x.seed, seen),
        "baselines": dict(splits.baselines),
        "notes": list(splits.notes),
        **({"parts": [part.name for part in splits.parts]} if splits.parts else {}),
        "skipped": len(splits.skipped),
        "skipped_records": [[record.source, record.reason] for record in splits.skipped[:200]],
    }


def drawn(x: Experiment, seen: int) -> dict[str, Any]:
    """What so many samples of an order are drawn by."""
    blocks = {} if x.data.order == DataDial.order else {"questions_per_image": x.data.questions_per_image}
    return {"seed": x.seed, "examples_seen": seen, "order": x.data.order, **blocks}


def order_facts(x: Experiment, train: Examples, seen: int) -> dict[str, Any]:
    """Of so many samples in the order of training which came in which step, as a hash of their ids, and how many of each source."""
    blocks = train.blocks(x.data)
    epochs = -(-seen // max(train.epoch_length, 1))
    order = itertools.islice(ordering.SeededOrder(train.epoch_length, x.seed, epochs, sources=train.sources, blocks=blocks), seen)
    digest = ordering.hash_by_step(order, train.split.sample_ids, x.trainer.samples_per_step)
    return {
        "order": {**drawn(x, seen), "hash": digest},
        "sources": ordering.facts(train.sources, x.seed, seen, blocks),
    }


def put_below(run: Run, rows: dict[str, dict[str, float]]) -> None:
    """Record rows of numbers that reports have below the arms: of the base, by the name of the data that were asked, "" of the run's own."""
    for name, row in rows.items():
        (run.facts["also"][name] if name else run.facts["data"])["baselines"] |= row


@functools.cache
def versions() -> dict[str, str]:
    """The libraries, the interpreter and the machine behind a run. `OPTIONAL` ones are left out where they are not installed."""
    names = (*contract.LIBRARIES, "lightning", "datasets", "hydra-core", "mlflow", "numpy")
    found = {}
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError) if name in OPTIONAL else contextlib.nullcontext():
            found[name] = importlib.metadata.version(name)
    return {**found, "python": platform.python_version(), "platform": platform.platform()}
