"""Answers in words: what a model writes after a prompt, greedily, and how probable it holds that and the reference.

One forward over prompt and reference gives the probability of the reference. Where each of its tokens is the likeliest, greedy writing
gives this reference; all other prompts are written on from, token by token (`lab.evaluation.generation`).
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from lab.answers import predictions
from lab.config import EvaluationSection
from lab.evaluation import fast_inference
from lab.evaluation.generation import end_ids, texts, write
from lab.evaluation.scoring import rows_of
from lab.evaluation.stages import require_finite
from lab.host.progress import Report, silent
from lab.host.stopping import Stopped
from lab.model import Vlm
from lab.model.answers import TextReadout
from lab.model.batching import IGNORED, to_device
from lab.model.encoding import Encoder, Example
from lab.records import Batch, Prediction, Written
from lab.training.datamodule import Examples
from lab.training.fast.fused_step import instead
from lab.training.objective import of_labels

log = logging.getLogger(__name__)

KEPT_EVERY_S = 30.0
"""Seconds of answers that a killed process loses at most."""


def answer(
    vlm: Vlm, examples: Examples, readout: TextReadout, section: EvaluationSection, split: str, report: Report = silent,
    part: Path | None = None,
) -> list[Prediction]:
    """Answer every example of a split; predictions are in file order. part: a file of the first answers, kept while there are more to come."""
    found = first_answers(part, examples, section.batch_size, readout.post)
    vlm.model.eval()
    with torch.inference_mode(), instead(fast_inference.forwards(vlm)), kept(part, found) as keep:
        for start in range(len(found), len(examples), section.batch_size):
            indices = range(start, min(start + section.batch_size, len(examples)))
            items = [examples[i] for i in indices]
            batch = examples.encoder.collate(items, with_answers=True)
            said = answers(vlm, examples.encoder, items, batch, readout.post, section.max_new_tokens)
            found += rows_of(batch, [examples.split.index(i) for i in indices], said)
            report(f"answering {split} (examples)", len(found), len(examples), "")
            keep()
    return found


def first_answers(part: Path | None, examples: Examples, batch_size: int, post: str) -> list[Prediction]:
    """The answers that a command before this one kept, whole batches of the same questions; else none."""
    if part is None or not part.exists():
        return []
    found = predictions.rows(part)
    if len(found) % batch_size or [row.sample_id for row in found] != list(examples.split.sample_ids[: len(found)]):
        return []
    log.info("%s: %d of %d answers are kept; the rest is asked", part, len(found), len(examples))
    return [replace(row, said=replace(row.said, post=post)) for row in found]


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


def answers(vlm: Vlm, encoder: Encoder, items: Sequence[Example], batch: Batch, post: str, most: int) -> list[Written]:
    """What is written for some examples, which are the batch with answers, in at most so many tokens."""
    batch = to_device(batch, vlm.device)
    labels = batch.target.labels
    assert labels is not None
    each, likeliest = of_labels(vlm.predict(batch), labels)
    require_finite(each, batch.sample_ids, "probabilities")
    log_p, sizes = each.double().sum(dim=1).tolist(), [int((item.text.answer_ids != IGNORED).sum()) for item in items]
    ends = torch.isin(labels[:, -1], torch.tensor(end_ids(vlm), device=labels.device))
    as_taught = ((likeliest == labels).all(dim=1) & ends).tolist()
    open_ones = [b for b, size in enumerate(sizes) if not as_taught[b] or size > most]
    references = vlm.family.architecture.texts(vlm, [item.text.answer_ids for item in items])
    said = [Written(text, post, size, True, p, p, size) for text, p, size in zip(references, log_p, sizes, strict=True)]
    if open_ones:
        prompts = encoder.collate([items[b] for b in open_ones], with_answers=False)
        written = write(vlm, to_device(prompts, vlm.device), most)
        values = zip(texts(vlm, written), written.lengths.tolist(), written.ended.tolist(), written.log_p.tolist(), strict=True)
        for b, (text, tokens, ended, p) in zip(open_ones, values, strict=True):
            said[b] = Written(text, post, tokens, ended, p, log_p[b], sizes[b])
    return said
