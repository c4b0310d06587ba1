"""Questions about the same images share what the model has made of these: its key-value cache up to the last image token.

The prefix of a prompt (system text, images, whatever the template puts between) is read once for all questions of a batch that
begin with it; then each question's remaining tokens are read over a copy of that cache. In exact arithmetic the answers
are those of whole prompts; their last bits are others (`evaluation.shared_prefix`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from itertools import accumulate

import numpy as np
import torch

from lab.evaluation.stages import kept
from lab.model import Vlm
from lab.model.batching import to_device
from lab.model.encoded import Example, TokenizedPrompt
from lab.records import Batch
from lab.training.examples import Examples


def grouped(examples: Examples) -> list[list[int]]:
    """The indices of examples with one prefix, in the order of the first of each."""
    found: dict[Hashable, list[int]] = {}
    for i in range(len(examples)):
        text = examples.text(i)
        start = text.prompt_ids[: split_at(examples, text)].tobytes()
        found.setdefault((examples.image_keys(i), text.image_order, start), []).append(i)
    return list(found.values())


def split_at(examples: Examples, text: TokenizedPrompt) -> int:
    """Where the prefix of a tokenised prompt ends: behind its last image placeholder, or at the first token without images."""
    places = np.isin(text.prompt_ids, examples.encoder.media_ids).nonzero()[0]
    return int(places[-1]) + 1 if len(places) else 1


def packed(groups: Sequence[list[int]], batch_size: int) -> Iterator[list[list[int]]]:
    """Groups in batches of at most so many examples; a larger group is divided."""
    batch: list[list[int]] = []
    room = batch_size
    for group in groups:
        rest = group
        while rest:
            taken, rest = rest[:room], rest[room:]
            batch.append(taken)
            room -= len(taken)
            if room == 0:
                yield batch
                batch, room = [], batch_size
    if batch:
        yield batch


def answers(vlm: Vlm, examples: Examples, batch_size: int) -> Iterator[tuple[list[int], Batch, torch.Tensor]]:
    """Indices, their batch of whole prompts and the answer's logits [B, vocabulary], every example once."""
    encoder = examples.encoder
    for batch in packed(grouped(examples), batch_size):
        indices = [i for group in batch for i in group]
        asked = [examples[i] for i in indices]
        whole = encoder.collate(asked, with_answers=False, align=1)
        first = accumulate(map(len, batch[:-1]), initial=0)
        prefixes = [prefix_of(examples, asked[place]) for place in first]
        starts = to_device(encoder.collate(prefixes, with_answers=False, align=1), vlm.device)
        cache = kept(vlm.reader(**vlm.inputs(starts), use_cache=True, logits_to_keep=1))
        rows = torch.tensor([g for g, group in enumerate(batch) for _ in group], device=vlm.device)
        for held in cache.values():
            held.batch_select_indices(rows)
        read, words = starts.prompt, to_device(whole.seen(None), vlm.device).prompt
        assert read.mask is not None and words.mask is not None
        seen = read.mask[rows]
        rest = words.mask.sum(dim=1) - seen.sum(dim=1)
        length = int(rest.max())
        mask = (torch.arange(length, device=vlm.device) >= length - rest[:, None]).to(seen)
        logits = vlm.reader(
            input_ids=words.ids[:, -length:],
            attention_mask=torch.cat([seen, mask], dim=1),
            position_ids=words.positions[..., -length:],
            **cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        yield indices, whole, logits[:, -1]


def prefix_of(examples: Examples, example: Example) -> Example:
    """An example cut off behind its last image."""
    text = example.text
    return replace(example, text=replace(text, prompt_ids=text.prompt_ids[: split_at(examples, text)]))
