"""Answers by free generation, to be held against answers from logits (`lab.evaluation.scoring`).

Both read an arm through `Vlm.inputs`, so that what dials do with image tokens is part of either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch

from lab.answers.predictions import PredictionTable
from lab.config import EvaluationSection
from lab.evaluation import stages
from lab.evaluation.batches import eval_batches
from lab.host.progress import Report, silent
from lab.model import Vlm
from lab.model.answers import Readout
from lab.model.batching import to_device
from lab.records import Batch, Choice
from lab.training.examples import Examples

MAX_NEW_TOKENS = 3
"""An answer word, the end of the turn, and one to spare."""


@dataclass(frozen=True)
class Generated:
    """What was written for one sample, and which option it reads as; None if it is neither answer word."""

    sample_id: str
    text: str
    prediction: int | None


@dataclass(frozen=True)
class Step:
    """One further token of every row: token int64 [B], log_p float64 [B]; behind the end of a turn padding and 0.

    logits: that it was taken from, [B, vocabulary]. ended: whether the end has come, bool [B].
    """

    token: torch.Tensor
    log_p: torch.Tensor
    logits: torch.Tensor
    ended: torch.Tensor


@dataclass(frozen=True)
class Continuation:
    """What was written for a batch: tokens int64 [B, most], padded behind the end of a turn; lengths int64 [B], with that end.

    logits: of the first of them, [B, vocabulary]. each: log p of each, float64 [B, most], 0 behind the end; log_p: of all, float64 [B].
    ended: whether the end came, bool [B].
    """

    tokens: torch.Tensor
    logits: torch.Tensor
    each: torch.Tensor
    log_p: torch.Tensor
    lengths: torch.Tensor
    ended: torch.Tensor


def steps(vlm: Vlm, batch: Batch, number: int = MAX_NEW_TOKENS, read: stages.Read | None = None) -> Iterator[Step]:
    """Greedy continuation of every prompt of a left-padded batch, token by token: `number` at most, fewer if all rows end.

    read: the batch, where that has been done (`lab.evaluation.shared_prefix`).

    Raises `TrainingError` where a probability is no number.
    """
    seen = stages.encode_images(vlm, batch) if read is None else None
    read = read or stages.prefill(vlm, batch, seen)
    padding, ends = vlm.processor.tokenizer.pad_token_id, torch.tensor(end_ids(vlm), device=read.logits.device)
    logits, token = read.logits, read.logits.argmax(dim=1)
    log_p, ended = likelihood(logits, token), torch.isin(token, ends)
    for written in range(1, number + 1):
        stages.require_finite(log_p[:, None], batch.sample_ids, "probabilities")
        yield Step(token, log_p, logits, ended)
        if written == number or ended.all():
            return
        logits = stages.decode_step(vlm, stages.next_inputs(vlm, batch, seen, token), read.cache)
        token = torch.where(ended, padding, logits.argmax(dim=1))
        log_p = torch.where(ended, 0.0, likelihood(logits, token))
        ended = ended | torch.isin(token, ends)
        batch = stages.grown(batch, token)


def write(vlm: Vlm, batch: Batch, number: int = MAX_NEW_TOKENS, read: stages.Read | None = None) -> Continuation:
    """Greedy continuation of every prompt of a left-padded batch by at most `number` tokens. read: as of `steps`."""
    return continuation(list(steps(vlm, batch, number, read)))


def continuation(written: Sequence[Step]) -> Continuation:
    """All steps of a batch as one."""
    first, last = written[0], written[-1]
    log_p = sum((step.log_p for step in written), torch.zeros_like(first.log_p))
    lengths = sum((~step.ended for step in written[:-1]), torch.ones_like(first.token))
    tokens, each = (torch.stack([getattr(step, name) for step in written], dim=1) for name in ("token", "log_p"))
    return Continuation(tokens, first.logits, each, log_p, lengths, last.ended)


def likelihood(logits: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
    """log p of a token, float64 [B], under logits [B, vocabulary]."""
    return logits.float().log_softmax(dim=1).gather(1, token[:, None])[:, 0].double()


def end_ids(vlm: Vlm) -> list[int]:
    """Tokens that end an answer."""
    return vlm.family.architecture.end_ids(vlm)


def texts(vlm: Vlm, written: Continuation) -> list[str]:
    """What was written, without special tokens."""
    return vlm.family.architecture.texts(vlm, written.tokens)


def generate(
    vlm: Vlm, examples: Examples, readout: Readout, section: EvaluationSection, split: str, report: Report = silent
) -> list[Generated]:
    """Generate an answer for every example of a split, from pixels, in file order."""
    out: list[Generated] = []
    vlm.model.eval()
    with torch.inference_mode():
        for batch in eval_batches(examples, section.batch_size, pixels=True):
            for sample_id, text in zip(batch.sample_ids, texts(vlm, write(vlm, to_device(batch, vlm.device))), strict=True):
                out.append(Generated(sample_id, text, readout.read(text, cast(Choice, examples.split.index(len(out)).answer).options)))
            report(f"generating {split} (examples)", len(out), len(examples), "")
    return out


def compare(generated: list[Generated], scored: PredictionTable) -> dict[str, float]:
    """Accuracy of generation (no option counts as wrong), share that is none, and share that scoring answers otherwise.

    Disagreement is taken over all examples; a generated text that is no option disagrees.
    """
    assert [text.sample_id for text in generated] == scored.sample_id.tolist()
    pairs = list(zip([text.prediction for text in generated], scored.right.tolist(), scored.prediction.tolist(), strict=True))
    return {
        "generate_accuracy": sum(text == right for text, right, _ in pairs) / len(pairs),
        "generate_neither": sum(text is None for text, _, _ in pairs) / len(pairs),
        "generate_disagreement": sum(text != prediction for text, _, prediction in pairs) / len(pairs),
    }
