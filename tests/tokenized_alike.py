"""One property of every family: prompts and pictures of many samples are, to the bit, those of each sample alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch

from lab.data.faults import BadRecord
from lab.model.encoded import TokenizedPrompt
from lab.model.encoding import Encoder
from lab.model.tokenizing import PromptTokenizer
from lab.records import Sample


def require_alike(encoder: Encoder, samples: Sequence[Sample]) -> None:
    """Of samples that differ, of one said again by another sample, and of one that is refused twice."""
    last = samples[-1]
    refused = dataclasses.replace(last, sample_id="refused", text=f"{last.text} {encoder.tokenizer.eos_token}")
    asked = [*samples, dataclasses.replace(last, sample_id="again", image_set="again"), refused, dataclasses.replace(refused, sample_id="too")]
    found = PromptTokenizer(encoder).texts(asked)
    assert [isinstance(one, BadRecord) for one in found] == [isinstance(alone(encoder, one), BadRecord) for one in asked]
    for one, together in zip(asked, found, strict=True):
        by_itself = alone(encoder, one)
        if isinstance(by_itself, BadRecord):
            assert str(together) == str(by_itself), "each is refused by its own name"
            continue
        assert isinstance(together, TokenizedPrompt)
        for field in dataclasses.fields(TokenizedPrompt):
            assert np.array_equal(getattr(together, field.name), getattr(by_itself, field.name)), field.name
    shown = [picture for sample in samples for picture in sample.images]
    for picture, (pixels, grid) in zip(shown, encoder.pictures(shown), strict=True):
        expected, own = encoder.picture(picture)
        assert torch.equal(pixels, expected) and grid == own


def alone(encoder: Encoder, sample: Sample) -> TokenizedPrompt | BadRecord:
    """A prompt by itself."""
    try:
        return encoder.text(sample)
    except BadRecord as fault:
        return fault
