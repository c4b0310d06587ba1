"""Examine a base on the `pairs` data set: its accuracy per family before any fine-tuning."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from lab.config import DataDial
from lab.data.pairs import load
from lab.data.statements import FAMILIES
from lab.pretraining.branches import Branch, hidden_states, lay_out, make_prefix
from lab.pretraining.lessons import TURN
from lab.pretraining.vocabulary import DECLARATIVE
from lab.records import Sample, Split

BATCH = 40


@torch.no_grad()
def examine(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, cache_dir: Path, size: int
) -> dict[str, tuple[int, int]]:
    """Answer `size` statements of the default dev split; return (right, asked) per family.

    The answer is the likelier of `True` and `False`, each in four spellings, after the prompt.
    """
    dev = load(DataDial(name="pairs", num_train=4, num_minival=4, num_dev=size), cache_dir).dev
    spellings = [
        [processor.tokenizer.encode(space + case)[0] for space in ("", " ") for case in (word, word.lower())]
        for word in ("False", "True")
    ]
    prefix = make_prefix(model, processor)
    tally = {family: [0, 0] for family in FAMILIES}
    for samples in _batches(dev):
        questions = [DECLARATIVE.format(statement=sample.text) + TURN for sample in samples]
        layout = lay_out(processor, [[Branch(question, "True")] for question in questions])
        hidden = hidden_states(model, prefix, layout, _features(model, processor, samples))[-1][:, len(prefix.ids) :]
        taken = layout.labels != -100
        asked = taken.int().argmax(dim=1)  # the position that predicts the answer word
        logits = model.lm_head(hidden[torch.arange(len(samples)), asked])
        false, true = (logits[:, words].logsumexp(-1) for words in spellings)
        for sample, said in zip(samples, (true > false).tolist(), strict=True):
            tally[sample.subset][0] += said == (sample.answer.right == 0)
            tally[sample.subset][1] += 1
    return {family: (right, number) for family, (right, number) in tally.items()}


def _batches(split: Split) -> Iterator[list[Sample]]:
    for start in range(0, len(split), BATCH):
        yield [split[index] for index in range(start, min(start + BATCH, len(split)))]


def _features(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, samples: list[Sample]
) -> torch.Tensor:
    """Return float32 [samples, 32, hidden]."""
    images = [Image.open(io.BytesIO(picture.data)) for sample in samples for picture in sample.images]
    inputs = processor.image_processor(images=images, return_tensors="pt")
    features = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
    return torch.stack(list(features)).reshape(len(samples), -1, features[0].shape[-1])
