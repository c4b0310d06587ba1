"""Answers by free generation, to be held against answers from logits (`lab.evaluation.scoring`)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from lab.config import PromptDial
from lab.model import Vlm
from lab.model.encoding import to_device
from lab.progress import Report, silent
from lab.prompt import spellings
from lab.records import Batch, Prediction
from lab.training.datamodule import Examples, eval_batches

MAX_NEW_TOKENS = 3
"""An answer word, the end of the turn, and one to spare."""


@dataclass(frozen=True)
class Generated:
    """What was written for one sample, and how it reads: True, False, or None if it is neither answer word."""

    sample_id: str
    text: str
    prediction: bool | None


def read_answer(text: str, dial: PromptDial) -> bool | None:
    """Exact match of the text, stripped of white space and a final full stop, with a spelling of an answer word."""
    stripped = text.strip().removesuffix(".")
    for value, word in ((True, dial.answer_true), (False, dial.answer_false)):
        if stripped in {spelling.strip() for spelling in spellings(word)}:
            return value
    return None


def generate_texts(vlm: Vlm, batch: Batch) -> list[str]:
    """Greedy continuation of every prompt of a batch, without special tokens."""
    new = vlm.family.architecture.generate(vlm, batch, MAX_NEW_TOKENS)
    return vlm.processor.tokenizer.batch_decode(new, skip_special_tokens=True)


def generate(
    vlm: Vlm, examples: Examples, dial: PromptDial, batch_size: int, split: str, report: Report = silent
) -> list[Generated]:
    """Generate an answer for every example of a split, from pixels, in file order."""
    out: list[Generated] = []
    vlm.model.eval()
    with torch.inference_mode():
        for batch in eval_batches(examples, batch_size, pixels=True):
            texts = generate_texts(vlm, to_device(batch, vlm.device))
            pairs = zip(batch.sample_ids, texts, strict=True)
            out += [Generated(sample_id, text, read_answer(text, dial)) for sample_id, text in pairs]
            report(f"generating {split} (examples)", len(out), len(examples), "")
    return out


def compare(generated: list[Generated], scored: list[Prediction]) -> dict[str, float]:
    """Accuracy of generation (neither word counts as wrong), share that is neither, and share that scoring answers otherwise.

    Disagreement is taken over all examples; a generated text that is neither word disagrees.
    """
    pairs = list(zip(generated, scored, strict=True))
    assert all(text.sample_id == row.sample_id for text, row in pairs)
    count = max(len(pairs), 1)
    return {
        "generate_accuracy": sum(text.prediction == row.label for text, row in pairs) / count,
        "generate_neither": sum(text.prediction is None for text, _ in pairs) / count,
        "generate_disagreement": sum(text.prediction != row.prediction for text, row in pairs) / count,
    }
