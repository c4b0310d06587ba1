"""`Sample -> Example -> Batch`: the checkpoint's own chat template, tokenizer and image processor, then left padding.

A prompt is tokenised once with one placeholder an image that stands in it; the placeholder is then repeated as often as the image
costs tokens. The result equals the processor's own call (tests/test_encoding.py) and serves every token budget.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lab.config import PromptDial
from lab.data.faults import BadRecord, shown
from lab.data.images import decode, size_of
from lab.errors import ConfigError, ModelError
from lab.model import Vlm
from lab.model.answers import Readout, TextReadout, readout
from lab.prompt import to_chat, written
from lab.records import Batch, Chat, Choice, ExampleSize, Media, Picture, Sample, Target, Text, Tokens

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

IGNORED = -100
"""The label that takes no loss, as in torch.nn.functional.cross_entropy."""
ALIGN = 16
"""Tokens; float32 lanes of the widest CPU vector. A sum over the keys is taken in vector lanes, so shifting a prompt by other than
a multiple of it regroups the sum and moves the last bits; prompts so aligned give one score in every batch."""
ROWS = 16
"""Positions of each sequence that go through the head where one is read: a product with few rows takes another kernel than one with
many, and scores must not depend on the batch. At most 3 % of the forward pass of Qwen2-VL-2B at 16 tokens an image."""


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A tokenised prompt, one placeholder an image, and its answer with the end-of-turn token. int64."""

    prompt_ids: np.ndarray
    answer_ids: np.ndarray
    image_order: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One sample ready for a batch: text, and for each image its patch grid with pixels or with features.

    grids: [(t, h, w)] in patches. pixels: float32, as the family's tower takes them. features: [tokens, hidden] each.
    """

    sample_id: str
    text: TokenizedPrompt
    grids: tuple[tuple[int, int, int], ...]
    pixels: tuple[torch.Tensor, ...] = ()
    features: tuple[torch.Tensor, ...] = ()


class Encoder:
    """Turns samples into examples and examples into batches, for one checkpoint and one prompt.

    What it cannot take of a sample is a `BadRecord`: `lab.training.screening` meets all of them before anything trains.
    Raises `ConfigError` if the prompt holds special tokens: the checkpoint's chat template alone may write them.
    """

    def __init__(self, vlm: Vlm, prompt: PromptDial, seed: int = 0, options: tuple[str, ...] = Choice.truth(True).options) -> None:
        self.architecture, self.config = vlm.family.architecture, vlm.bare.config
        self.processor = vlm.processor
        self.tokenizer = vlm.processor.tokenizer
        self.prompt = prompt
        self.seed = seed
        self.options = options
        self.image_id = self.architecture.image_id(self.processor)
        self.budget, self.reducer = vlm.budget, vlm.reducer
        self.prefix = self.architecture.in_prompt and (vlm.conditioner is None or vlm.conditioner.prefix)
        self.rule = self.architecture.positions(vlm)
        self.pad_id = self.tokenizer.pad_token_id
        self.positions_of_text = self.config.get_text_config(decoder=True).max_position_embeddings
        self.special_ids = frozenset(self.tokenizer.added_tokens_decoder)
        self.framing: dict[int, tuple[tuple[int, ...], ...]] = {}
        for key, text in written(prompt).items():
            if special := self.special(self.ids(text)):
                reason = f"{self.named(special)} of this checkpoint's tokenizer; only its chat template writes those"
                raise ConfigError(f"{key}={text!r}: {reason}.")

    @cached_property
    def readout(self) -> Readout | TextReadout:
        """How the answers to its prompts are read. Raises `ConfigError` for options that no token says."""
        return readout(self.tokenizer, self.prompt, self.options)

    def ids(self, text: str) -> list[int]:
        """Tokenise, without anything around it."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def special(self, ids: Sequence[int]) -> tuple[int, ...]:
        """Those that were added to the vocabulary to mean more than their letters (turns, images), in order."""
        return tuple(each for each in ids if each in self.special_ids)

    def named(self, ids: Sequence[int]) -> str:
        """Special tokens in words."""
        names = self.tokenizer.convert_ids_to_tokens(list(dict.fromkeys(ids)))
        return f"{', '.join(map(repr, names))} {'is a special token' if len(names) == 1 else 'are special tokens'}"

    def framed(self, sample: Sample) -> tuple[Chat, list[int], list[int]]:
        """A sample's chat, and the ids of prompt and answer."""
        chat = to_chat(sample, self.prompt, self.seed)
        prompt, answer = self.architecture.frame(self.processor, chat, self.prompt.numbered)
        return chat, self.ids(prompt), self.ids(answer)

    def check_text(self, sample: Sample, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Raise a `BadRecord` if the sample's text or answer writes special tokens, or both are longer than the model has positions for.

        Special tokens are looked for in the whole prompt, where text may also form one with what stands beside it. They are not
        tokenised as plain letters, since whoever uses the exported model with its own processor would get the tokens.
        """
        number = len(sample.images)
        if number not in self.framing:
            _, *framing = self.framed(replace(sample, text="x", answer=Text(("x",))))
            self.framing[number] = tuple(map(self.special, framing))
        pairs = ("text", sample.text, prompt), ("answer", sample.answer.text, answer)
        for (what, said, ids), usual in zip(pairs, self.framing[number], strict=True):
            if (found := self.special(ids)) != usual:
                beyond = tuple((Counter(found) - Counter(usual)).elements()) or found
                reason = f"its {what} {shown(said)} must not hold special tokens: {self.named(beyond)} of this checkpoint's tokenizer"
                raise BadRecord(f"sample {sample.sample_id}", reason)
        length = sum(each != self.image_id for each in prompt) + len(answer)
        if length > self.positions_of_text:
            reason = f"its prompt and answer are {length} tokens of text, and the model has {self.positions_of_text} positions"
            raise BadRecord(f"sample {sample.sample_id}", reason)

    def text(self, sample: Sample) -> TokenizedPrompt:
        """Frame and tokenise. The answer ends with the end-of-turn token, which is trained too.

        Raises `BadRecord` as `check_text` does, and `ModelError` if the chat template does not write one placeholder for each image
        that stands in the prompt.
        """
        import numpy as np

        chat, prompt, answer_ids = self.framed(sample)
        self.check_text(sample, prompt, answer_ids)
        prompt_ids = np.asarray(prompt, dtype=np.int64)
        placeholders = int((prompt_ids == self.image_id).sum())
        if self.architecture.in_prompt and placeholders != len(sample.images):
            raise ModelError(
                f"model: the chat template wrote {placeholders} image placeholders for {len(sample.images)} images "
                f"of sample {sample.sample_id}."
            )
        return TokenizedPrompt(prompt_ids, np.asarray(answer_ids, dtype=np.int64), chat.image_order)

    def pixels(self, images: Sequence[Image]) -> tuple[list[torch.Tensor], list[tuple[int, int, int]]]:
        """Run the image processor: pixels float32 and grid (t, h, w) in patches of each image."""
        return self.architecture.pixels(self.processor, self.config, images)

    def settings(self) -> dict[str, Any]:
        """What the image processor does, as plain values: part of the contract and of the feature cache's key."""
        return self.architecture.settings(self.processor)

    def merged(self, grid: tuple[int, int, int]) -> tuple[int, int]:
        """A patch grid as the projector's grid of tokens (h, w)."""
        return self.architecture.merged(self.config, grid)

    def tokens(self, grid: tuple[int, int, int]) -> int:
        """How many tokens of an image of this patch grid the language model sees."""
        h, w = self.merged(grid)
        return h * w + self.architecture.beside_grid if self.reducer is None else self.reducer.count(h, w)

    def reduces(self, grid: tuple[int, int, int]) -> str | None:
        """How the tokens of an image of this patch grid are made fewer or others; None: they are left alone, bit for bit."""
        import torch

        h, w = self.merged(grid)
        trained = isinstance(self.reducer, torch.nn.Module)
        if self.reducer is None or (not trained and self.reducer.count(h, w) == h * w):
            return None
        rule = getattr(self.reducer, "rule", None)
        return type(self.reducer).__name__ + ("" if rule is None else f" {rule.value}")

    def check(self, picture: Picture) -> None:
        """Raise a `BadRecord` if the processor does not take an image of this size, or only at more tokens than `vision_tokens.budget`."""
        size = size_of(picture)
        try:
            grid = self.architecture.grid(self.processor, self.config, size)
        except ValueError as error:
            reason = f"the checkpoint's image processor does not take its {size[0]} x {size[1]} pixels ({error})"
            raise BadRecord(picture.source, reason) from None
        if self.budget is not None and self.tokens(grid) > self.budget:
            reason = (
                f"vision_tokens.budget={self.budget}: the checkpoint's image processor makes {self.tokens(grid)} tokens of its "
                f"{size[0]} x {size[1]} pixels whatever it is told; ask for at least so many, or choose another vision_tokens option"
            )
            raise BadRecord(picture.source, reason)

    def picture(self, picture: Picture) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Decode and process one image. Raises `BadRecord` for one that `decode` or `check` refuses."""
        image = decode(picture)
        self.check(replace(picture, crop=None, size=image.size))
        pixels, grids = self.pixels([image])
        return pixels[0], grids[0]

    def example(self, sample: Sample) -> Example:
        """Encode a sample with the pixels of its images."""
        text = self.text(sample)
        shown = [self.picture(sample.images[i]) for i in text.image_order]
        return Example(sample.sample_id, text, tuple(grid for _, grid in shown), pixels=tuple(p for p, _ in shown))

    def size(self, example: Example) -> ExampleSize:
        """How large an example is, without padding."""
        tokens = tuple(self.tokens(grid) for grid in example.grids)
        words = int((example.text.prompt_ids != self.image_id).sum())
        return ExampleSize(words + (sum(tokens) if self.prefix else 0), example.grids, tokens)

    def collate(
        self, examples: Sequence[Example], with_answers: bool, padding_side: str = "left", align: int = ALIGN
    ) -> Batch:
        """Pad and stack. With answers, they end every row and are the labels; else rows end with the prompt.

        padding_side: with answers on the left. align: without answers, every prompt ends at a multiple of so many tokens; see `ALIGN`.
        """
        import numpy as np
        import torch

        rows, kinds, answers = [], [], []
        for example in examples:
            standing = example.grids if self.architecture.in_prompt else ()
            counts = [self.tokens(grid) if self.prefix else 0 for grid in standing]
            ids = expand(example.text.prompt_ids, self.image_id, counts)
            kinds.append((ids == self.image_id).astype(np.int64))
            answers.append(example.text.answer_ids if with_answers else ids[:0])
            rows.append(np.concatenate([ids, answers[-1]]))
        ends = [len(row) if with_answers else -(-len(row) // align) * align for row in rows]
        length = max(ends)
        input_ids = np.full((len(rows), length), self.pad_id, dtype=np.int64)
        mask, token_types = np.zeros_like(input_ids), np.zeros_like(input_ids)
        most = max(map(len, answers))
        labels = np.full((len(rows), most), IGNORED, dtype=np.int64)
        for b, (row, kind, answer) in enumerate(zip(rows, kinds, answers, strict=True)):
            start = (length if padding_side == "left" else ends[b]) - len(row)
            input_ids[b, start : start + len(row)] = row
            mask[b, start : start + len(row)] = 1
            token_types[b, start : start + len(kind)] = kind
            labels[b, most - len(answer) :] = answer
        prompts = [example.text.prompt_ids for example in examples]
        grids = [grid for example in examples for grid in example.grids]
        grid_thw = torch.tensor(grids, dtype=torch.int64).reshape(-1, 3) if grids else None
        ids, types, attention = (torch.from_numpy(array) for array in (input_ids, token_types, mask))
        pixels = [each for example in examples for each in example.pixels]
        computed = most + 1 if with_answers else min(ROWS, length) if padding_side == "left" else length
        return Batch(
            sample_ids=tuple(example.sample_id for example in examples),
            prompt=Tokens(ids, attention, self.positions(examples, ids, types, attention, grid_thw), types),
            media=Media(
                counts=tuple(len(example.grids) for example in examples),
                grids=tuple(self.merged(grid) for grid in grids),
                tokens=tuple(self.tokens(grid) for grid in grids),
                pixels=self.architecture.stack(pixels, grids) if pixels else None,
                features=tuple(feature for example in examples for feature in example.features) or None,
            ),
            target=Target(torch.from_numpy(labels) if with_answers else None, computed, sum(map(len, answers))),
            media_order=tuple(example.text.image_order for example in examples),
            shared=max(0, min(opening(prompts, self.image_id), *(len(row) - computed for row in rows))) if with_answers else 0,
        )

    def positions(
        self,
        examples: Sequence[Example],
        ids: torch.Tensor,
        types: torch.Tensor,
        attention: torch.Tensor,
        grid_thw: torch.Tensor | None,
    ) -> torch.Tensor:
        """Positions by the checkpoint's own rule: M-RoPE int64 [3, B, T], or int64 [B, T].

        Where images are reduced, the rule is applied to the unreduced row: text keeps the position it has there, so the text
        after an image stands at start + max(h, w) of the original grid, and every image token gets its image's start,
        to which `Vlm.condition` adds the place it stands for.
        """
        import numpy as np
        import torch

        if not self.prefix:
            return self.rule(ids, types, None, attention)
        if self.reducer is None or grid_thw is None:
            return self.rule(ids, types, grid_thw, attention)
        positions = torch.zeros((3, *ids.shape), dtype=torch.int64)
        for b, example in enumerate(examples):
            prompt = example.text.prompt_ids
            native, kept = np.ones(len(prompt), dtype=np.int64), np.ones(len(prompt), dtype=np.int64)
            native[prompt == self.image_id] = [math.prod(self.merged(grid)) for grid in example.grids]
            kept[prompt == self.image_id] = [self.tokens(grid) for grid in example.grids]
            whole = torch.from_numpy(np.repeat(prompt, native))[None]
            grids = torch.tensor(example.grids, dtype=torch.int64).reshape(-1, 3)
            rope = self.rule(whole, (whole == self.image_id).long(), grids if len(grids) else None, None)
            index = torch.from_numpy(np.repeat(np.cumsum(native) - native, kept))
            start = int(attention[b].argmax())
            end, stop = start + len(index), start + int(attention[b].sum())
            positions[:, b, start:end] = rope[:, 0, index]
            positions[:, b, end:stop] = torch.arange(stop - end) + positions[:, b, end - 1].max() + 1
        return positions


def opening(prompts: Sequence[np.ndarray], image_id: int) -> int:
    """How many tokens begin all prompts alike, before any image."""
    for number, tokens in enumerate(zip(*(prompt.tolist() for prompt in prompts), strict=False)):
        if tokens[0] == image_id or len(set(tokens)) > 1:
            return number
    return min(len(prompt) for prompt in prompts)


def expand(ids: np.ndarray, image_id: int, counts: Sequence[int]) -> np.ndarray:
    """Repeat the k-th occurrence of `image_id` `counts[k]` times."""
    import numpy as np

    repeats = np.ones(len(ids), dtype=np.int64)
    repeats[ids == image_id] = counts
    return np.repeat(ids, repeats)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move every tensor of a batch."""
    return batch.each(lambda tensor: tensor.to(device, non_blocking=True))
