"""The batches that scoring reads."""

from __future__ import annotations

from collections.abc import Iterator

from lab.records import Batch
from lab.training.examples import Examples


def eval_batches(examples: Examples, batch_size: int, pixels: bool = False, first: int = 0) -> Iterator[Batch]:
    """Batches without answers, in file order from an index: what scoring reads. With `pixels`, images come as pixels, never as features."""
    for start in range(first, len(examples), batch_size):
        indices = range(start, min(start + batch_size, len(examples)))
        items = [examples.encoder.example(examples.split[i]) if pixels else examples[i] for i in indices]
        yield examples.encoder.collate(items, with_answers=False)
