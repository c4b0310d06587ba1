"""Questions about the same images share what the model has made of these: its key-value cache up to the last image token.

The prefix of a prompt (system text, images, whatever the template puts between) is read once for all questions of a batch that
begin with it; then each question's remaining tokens are read over a copy of that cache, with a reference behind them or to be written on
from. In exact arithmetic the answers are those of whole prompts; their last bits are others (`evaluation.shared_prefix`).
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from lab.evaluation.generation import Continuation, write
from lab.evaluation.stages import Read, kept
from lab.model import Vlm
from lab.model.batching import behind_images, to_device
from lab.model.encoded import Example, TokenizedPrompt
from lab.model.encoding import Encoder
from lab.model.trees import groups
from lab.records import Batch, Tokens
from lab.training.examples import Examples


@dataclass(frozen=True)
class Prefixes:
    """What a model has made of the beginnings of some prompts. cache: of each beginning, by the reader's keyword; mask: int64 [G, P], of which
    tokens; rows: int64 [B], which of them a prompt begins with.
    """

    vlm: Vlm
    cache: Mapping[str, Any]
    mask: torch.Tensor
    rows: torch.Tensor

    def of(self, places: Sequence[int]) -> Prefixes:
        """Those of some of the prompts."""
        return replace(self, rows=self.rows[list(places)])

    def read(self, whole: Batch, keep: int) -> tuple[Batch, torch.Tensor, dict[str, Any]]:
        """Read what is left of prompts [B], left-padded, with answers or without.

        Returns the batch as it goes on from there, logits of the last `keep` positions [B, keep, vocabulary], and the cache of all.
        """
        cache = copy.deepcopy(dict(self.cache))  # which the next reading needs as it is
        for held in cache.values():
            held.batch_select_indices(self.rows)
        batch = to_device(whole.seen(None), self.vlm.device)
        words, seen = batch.prompt, self.mask[self.rows]
        assert words.mask is not None
        rest = words.mask.sum(dim=1) - seen.sum(dim=1)
        length = int(rest.max())
        own = (torch.arange(length, device=rest.device) >= length - rest[:, None]).to(seen)
        left = Tokens(words.ids[:, -length:], torch.cat([seen, own], dim=1), words.positions[..., -length:], words.types[:, -length:])
        inputs = self.vlm.family.architecture.words(left)
        logits = self.vlm.reader(**inputs, **cache, use_cache=True, logits_to_keep=keep).logits
        return replace(batch, prompt=left), logits[:, -keep:], cache

    def predict(self, whole: Batch) -> torch.Tensor:
        """As `Vlm.predict`, of a batch with answers: [B, A, vocabulary]."""
        return self.read(whole, whole.target.rows)[1][:, :-1]

    def begin(self, whole: Batch) -> tuple[Batch, Read]:
        """What an answer to prompts without one is written on from."""
        batch, logits, cache = self.read(whole, 1)
        return batch, Read(logits[:, -1], cache)


def prefixes(vlm: Vlm, encoder: Encoder, items: Sequence[Example]) -> Prefixes:
    """Read what begins the prompts of a batch, once for those that are alike up to their last image."""
    found = groups(encoder, items)
    group = {id(item): g for g, members in enumerate(found) for item in members}
    starts = to_device(encoder.collate([prefix_of(encoder, members[0]) for members in found], with_answers=False, align=1), vlm.device)
    out = vlm.reader(**vlm.inputs(starts), use_cache=True, logits_to_keep=1)
    assert starts.prompt.mask is not None
    return Prefixes(vlm, kept(out), starts.prompt.mask, torch.tensor([group[id(item)] for item in items], device=vlm.device))


def written(vlm: Vlm, prompts: Batch, most: int, read: Prefixes | None) -> Continuation:
    """What is written after prompts in at most so many tokens. read: what begins them, where that has been read."""
    if read is None:
        return write(vlm, to_device(prompts, vlm.device), most)
    batch, begun = read.begin(prompts)
    return write(vlm, batch, most, begun)


def grouped(examples: Examples) -> list[list[int]]:
    """The indices of examples with one prefix, in the order of the first of each."""
    found: dict[Hashable, list[int]] = {}
    for i in range(len(examples)):
        text = examples.text(i)
        start = text.prompt_ids[: split_at(examples.encoder, text)].tobytes()
        found.setdefault((examples.image_keys(i), text.image_order, start), []).append(i)
    return list(found.values())


def split_at(encoder: Encoder, text: TokenizedPrompt) -> int:
    """Where the prefix of a tokenised prompt ends: behind its last image placeholder, or at the first token without images."""
    return behind_images(text.prompt_ids, encoder.media_ids) or 1


def packed(groups: Sequence[list[int]], batch_size: int) -> Iterator[list[int]]:
    """Indices in batches of at most so many, those of a group together; a larger group is divided."""
    order = [i for group in groups for i in group]
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def looked_at(examples: Examples, indices: Sequence[int]) -> list[Example]:
    """Examples of a split, of which those about the same images look at them once."""
    known: dict[Hashable, Example] = {}
    found = []
    for i in indices:
        text = examples.text(i)
        shown = examples.image_keys(i), text.image_order
        if shown not in known:
            known[shown] = examples[i]
        found.append(replace(known[shown], sample_id=examples.split.sample_ids[i], text=text))
    return found


def without_images(items: Sequence[Example]) -> list[Example]:
    """Examples whose images have been read."""
    return [replace(item, pixels=(), features=()) for item in items]


def answer(vlm: Vlm, examples: Examples, indices: Sequence[int]) -> tuple[Batch, torch.Tensor]:
    """The batch of some whole prompts and the answer's logits [B, vocabulary]."""
    encoder, items = examples.encoder, looked_at(examples, indices)
    whole = encoder.collate(without_images(items), with_answers=False, align=1)
    return whole, prefixes(vlm, encoder, items).begin(whole)[1].logits


def prefix_of(encoder: Encoder, example: Example) -> Example:
    """An example cut off behind its last image."""
    text = example.text
    return replace(example, text=replace(text, prompt_ids=text.prompt_ids[: split_at(encoder, text)]))
