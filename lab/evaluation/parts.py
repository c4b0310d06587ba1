"""The first answers of a split, kept in a file until there are all, so that a command that was stopped goes on after them."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lab.answers import predictions
from lab.host.stopping import Stopped
from lab.records import Prediction
from lab.training.datamodule import Examples

log = logging.getLogger(__name__)

KEPT_EVERY_S = 30.0
"""Seconds of answers that a killed process loses at most."""


def first_answers(part: Path | None, examples: Examples, batch_size: int) -> list[Prediction]:
    """The answers that a command before this one kept, whole batches of the same questions; else none."""
    if part is None or not part.exists():
        return []
    found = predictions.rows(part)
    if len(found) % batch_size or [row.sample_id for row in found] != list(examples.split.sample_ids[: len(found)]):
        return []
    log.info("%s: %d of %d answers are kept; the rest is asked", part, len(found), len(examples))
    return found


@contextlib.contextmanager
def kept(part: Path | None, found: Sequence[Prediction]) -> Iterator[Callable[[], None]]:
    """Within, what is given writes the answers found so far, once in `KEPT_EVERY_S`; a `Stopped` on the way out writes them too."""
    last = time.monotonic()

    def keep() -> None:
        nonlocal last
        if part is not None and time.monotonic() - last > KEPT_EVERY_S:
            predictions.write(part, found)
            last = time.monotonic()

    try:
        yield keep
    except Stopped:
        if part is not None and found:
            predictions.write(part, found)
        raise
    if part is not None:
        part.unlink(missing_ok=True)
