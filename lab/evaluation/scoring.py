"""Answers from logits: one forward pass an example gives the probability of each option and the mass they capture.

Scores do not depend on the batch size (`lab.model.batching.ROWS`), so a CPU may read a large batch in parts: tensors that outgrow its
caches cost more than they save. With `evaluation.shared_prefix` scores do depend on it, in
their last bits (`lab.evaluation.shared_prefix`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch

from lab.config import EvaluationSection
from lab.evaluation import fast_inference, shared_prefix
from lab.evaluation.batches import eval_batches
from lab.evaluation.parts import Part, first_answers, in_order, kept
from lab.evaluation.stages import require_finite
from lab.host.progress import Report, silent
from lab.model import Vlm
from lab.model.answers import Readout
from lab.model.batching import ROWS, to_device
from lab.records import Batch, Choice, Prediction, Said, Sample, Scored
from lab.training.examples import Examples
from lab.training.fast.fused_step import instead

CPU_PART = 8
"""Examples that go through the model together on a CPU."""


def part_of(batch_size: int, device: torch.device) -> int:
    """How many examples of a batch go through the model together."""
    return min(batch_size, CPU_PART) if device.type == "cpu" else batch_size


def answer_logits(vlm: Vlm, batch: Batch) -> torch.Tensor:
    """Logits of the first token of the answer, [B, vocabulary]."""
    return vlm.predict(batch)[:, 0]


def answers(vlm: Vlm, examples: Examples, batch_size: int, first: int = 0) -> Iterator[tuple[list[int], Batch, torch.Tensor]]:
    """Indices, their batch and the answer's logits [B, vocabulary], in file order. first: index of the first that is asked."""
    for batch in eval_batches(examples, part_of(batch_size, vlm.device), first=first):
        indices = list(range(first, first + len(batch.sample_ids)))
        first += len(indices)
        yield indices, batch, answer_logits(vlm, to_device(batch, vlm.device))


def score(
    vlm: Vlm,
    examples: Examples,
    readout: Readout,
    section: EvaluationSection,
    split: str,
    report: Report = silent,
    part: Part = None,
) -> list[Prediction]:
    """Score every example of a split; predictions are in file order. part: as in `lab.evaluation.parts`."""
    shared = section.shared_prefix
    found = first_answers(part, examples, 1 if shared else part_of(section.batch_size, vlm.device))

    def said(indices: Sequence[int], batch: Batch, logits: torch.Tensor) -> list[Prediction]:
        require_finite(logits, batch.sample_ids)
        samples = [examples.split.index(i) for i in indices]
        return rows_of(batch, samples, read(readout, logits, samples))

    def in_file() -> Iterator[int]:
        for indices, batch, logits in answers(vlm, examples, section.batch_size, first=len(found)):
            found.extend(said(indices, batch, logits))
            yield len(found)

    def together() -> Iterator[int]:
        batches = shared_prefix.packed(shared_prefix.grouped(examples), section.batch_size)
        return in_order(batches, found, lambda indices: said(indices, *shared_prefix.answer(vlm, examples, indices)))

    vlm.model.eval()
    with torch.inference_mode(), instead(fast_inference.forwards(vlm, 1 if shared else ROWS, shared)), kept(part, found) as keep:
        for done in together() if shared else in_file():
            keep()
            report(f"scoring {split} (examples)", done, len(examples), "")
    return found


def read(readout: Readout, logits: torch.Tensor, samples: Sequence[Sample]) -> list[Scored]:
    """What logits [B, vocabulary] say of the options of each sample."""
    pairs = zip(readout.log_p(logits).tolist(), samples, strict=True)
    return [Scored.of(readout.of(log_p, cast(Choice, sample.answer).options)) for log_p, sample in pairs]


def rows_of(batch: Batch, samples: Sequence[Sample], said: Sequence[Said]) -> list[Prediction]:
    """Put what a model made of a batch beside what its samples say."""
    rows, image = [], 0
    for b, (sample_id, sample) in enumerate(zip(batch.sample_ids, samples, strict=True)):
        assert sample.sample_id == sample_id
        stop = image + batch.media.counts[b]
        rows.append(
            Prediction(
                sample_id=sample_id,
                image_set=sample.image_set,
                question_group=sample.question_group,
                subset=sample.subset,
                answer=sample.answer,
                said=said[b],
                image_order=batch.media_order[b],
                visual_tokens=batch.media.tokens[image:stop],
            )
        )
        image = stop
    return rows
