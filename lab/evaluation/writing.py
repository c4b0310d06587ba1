"""Answers in words: what a model writes after a prompt, greedily, and how probable it holds that and the reference.

One forward over prompt and reference gives the probability of the reference. Where each of its tokens is the likeliest, greedy writing
gives this reference; all other prompts are written on from, token by token (`lab.evaluation.generation`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from lab.config import EvaluationSection
from lab.evaluation import fast_inference, shared_prefix
from lab.evaluation.generation import end_ids, texts
from lab.evaluation.parts import Part, first_answers, in_order, kept
from lab.evaluation.scoring import rows_of
from lab.evaluation.shared_prefix import Prefixes
from lab.evaluation.stages import require_finite
from lab.host.progress import Report, silent
from lab.model import Vlm
from lab.model.answers import TextReadout
from lab.model.batching import IGNORED, pack, to_device
from lab.model.encoded import Example
from lab.model.encoding import Encoder
from lab.records import Batch, Prediction, Said, Sample, Written
from lab.training.examples import Examples
from lab.training.fast.fused_step import instead
from lab.training.losses import of_labels


def answer(
    vlm: Vlm, examples: Examples, readout: TextReadout, section: EvaluationSection, split: str, report: Report = silent,
    part: Part = None,
) -> list[Prediction]:
    """Answer every example of a split; predictions are in file order. part: a file of the first answers, kept while there are more to come."""
    known = first_answers(part, examples, 1 if section.shared_prefix else section.batch_size)
    found = [replace(row, said=replace(cast(Written, row.said), post=readout.post)) for row in known]
    most = section.most_tokens(readout.kind)

    def say(items: Sequence[Example], samples: Sequence[Sample], batch: Batch) -> list[Written]:
        read = shared_prefix.prefixes(vlm, examples.encoder, items) if section.shared_prefix else None
        return answers(vlm, examples.encoder, items, batch, readout.post, most, read)

    return in_batches(vlm, examples, section, split, report, part, found, say, answered=True)


def in_batches(
    vlm: Vlm, examples: Examples, section: EvaluationSection, split: str, report: Report, part: Part, found: list[Prediction],
    say: Callable[[Sequence[Example], Sequence[Sample], Batch], Sequence[Said]], answered: bool,
) -> list[Prediction]:
    """The answers of a split behind those that were found, batch by batch, in file order; with a shared prefix those of equal images together.

    say: what is said of a batch; answered: it has the references.
    """
    number, size, shared = len(examples), section.batch_size, section.shared_prefix
    in_file = (range(start, min(start + size, number)) for start in range(len(found), number, size))
    batches: Iterable[Sequence[int]] = shared_prefix.packed(shared_prefix.grouped(examples), size) if shared else in_file

    def rows(indices: Sequence[int]) -> list[Prediction]:
        items = shared_prefix.looked_at(examples, indices) if shared else [examples[i] for i in indices]
        batch = examples.encoder.collate(shared_prefix.without_images(items) if shared else items, with_answers=answered)
        samples = [examples.split.index(i) for i in indices]
        return rows_of(batch, samples, say(items, samples, batch))

    vlm.model.eval()
    with torch.inference_mode(), instead(fast_inference.forwards(vlm, adapted=shared)), kept(part, found) as keep:
        for done in in_order(batches, found, rows):
            keep()
            report(f"answering {split} (examples)", done, number, "")
    return found


def answers(
    vlm: Vlm, encoder: Encoder, items: Sequence[Example], batch: Batch, post: str, most: int, read: Prefixes | None = None
) -> list[Written]:
    """What is written for some examples, which are the batch with answers, in at most so many tokens. read: what begins their prompts, if it is."""
    batch = to_device(batch, vlm.device)
    labels = batch.target.labels
    assert labels is not None
    each, likeliest = of_labels(vlm.predict(batch) if read is None else read.predict(batch), labels)
    require_finite(each, batch.sample_ids, "probabilities")
    log_p, sizes = each.double().sum(dim=1).tolist(), [int((item.text.answer_ids != IGNORED).sum()) for item in items]
    ends = torch.isin(labels[:, -1], torch.tensor(end_ids(vlm), device=labels.device))
    as_taught = ((likeliest == labels).all(dim=1) & ends).tolist()
    open_ones = [b for b, size in enumerate(sizes) if not as_taught[b] or size > most]
    references = vlm.family.architecture.texts(vlm, [item.text.answer_ids for item in items])
    said = [Written(text, post, size, True, p, p, size) for text, p, size in zip(references, log_p, sizes, strict=True)]
    if open_ones:
        asked = [items[b] for b in open_ones]
        prompts = encoder.collate(asked if read is None else shared_prefix.without_images(asked), with_answers=False)
        written = shared_prefix.written(vlm, prompts, most, None if read is None else read.of(open_ones))
        values = zip(texts(vlm, written), written.lengths.tolist(), written.ended.tolist(), written.log_p.tolist(), strict=True)
        for b, (text, tokens, ended, p) in zip(open_ones, values, strict=True):
            said[b] = Written(text, post, tokens, ended, p, log_p[b], sizes[b])
    return [replace(one, **before_it(vlm, encoder, item)) if item.text.learned else one for one, item in zip(said, items, strict=True)]


def before_it(vlm: Vlm, encoder: Encoder, item: Example) -> dict[str, Any]:
    """log p and tokens of each learned turn of a conversation before its answer, by one forward over it alone."""
    batch = to_device(pack(encoder, [item]), vlm.device)
    assert batch.target.labels is not None
    each, _ = of_labels(vlm.predict(batch), batch.target.labels)
    require_finite(each, batch.sample_ids, "probabilities")
    sizes = [stop - start for start, stop in item.text.learned]
    parts = each[0].double().split([*sizes, len(item.text.answer_ids)])
    return {"turns_log_p": tuple(float(part.sum()) for part in parts[:-1]), "turns_tokens": tuple(sizes)}
