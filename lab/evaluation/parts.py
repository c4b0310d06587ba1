"""The first answers of a split, kept so that a command that was stopped goes on after them: of a benchmark for good, a line each
(`lab.evaluation.answers_file`), else in a file that goes when there are all."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from lab.answers import predictions
from lab.evaluation.answers_file import AnswersFile
from lab.host.stopping import Stopped
from lab.records import Prediction
from lab.training.examples import Examples

log = logging.getLogger(__name__)

KEPT_EVERY_S = 30.0
"""Seconds of answers that a killed process loses at most."""


Part = Path | AnswersFile | None
"""Where the first answers are kept."""


def first_answers(part: Part, examples: Examples, batch_size: int) -> list[Prediction]:
    """The answers that a command before this one kept, whole batches of the same questions; else none."""
    if isinstance(part, AnswersFile):
        return part.first(batch_size)
    if part is None or not part.exists():
        return []
    found = predictions.rows(part)
    if len(found) % batch_size or [row.sample_id for row in found] != list(examples.split.sample_ids[: len(found)]):
        return []
    log.info("%s: %d of %d answers are kept; the rest is asked", part, len(found), len(examples))
    return found


def in_order(
    batches: Iterable[Sequence[int]], found: list[Prediction], answer: Callable[[Sequence[int]], Sequence[Prediction]]
) -> Iterator[int]:
    """Put answers behind the first of a split, which were found, each as soon as all before it are there; yields how many are answered.

    batches: of the indices of all questions, in any order, and the same whatever was found: an answer is that of its batch, to the bit.
    """
    held: dict[int, Prediction] = {}
    for indices in batches:
        if max(indices) < len(found):
            continue
        held |= {i: row for i, row in zip(indices, answer(indices), strict=True) if i >= len(found)}
        while len(found) in held:
            found.append(held.pop(len(found)))
        yield len(found) + len(held)


@contextlib.contextmanager
def kept(part: Part, found: Sequence[Prediction]) -> Iterator[Callable[[], None]]:
    """Within, what is given writes the answers found so far: to a file of answers, or once in `KEPT_EVERY_S` and where a request to stop goes out."""
    if isinstance(part, AnswersFile):
        yield lambda: part.add(found)
        return
    last = time.monotonic()

    def keep() -> None:
        nonlocal last
        if part is not None and time.monotonic() - last > KEPT_EVERY_S:
            predictions.write(part, found)
            last = time.monotonic()

    try:
        yield keep
    except (Stopped, KeyboardInterrupt):
        if part is not None and found:
            predictions.write(part, found)
        raise
    if part is not None:
        part.unlink(missing_ok=True)
