"""`Sample -> Example -> Batch`: the checkpoint's own chat template, tokenizer and image processor, then left padding.

A prompt is tokenised once with one placeholder an image that stands in it; the placeholder is then repeated as often as the image
costs tokens. The result equals the processor's own call (tests/test_encoding.py) and serves every token budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.config import PromptDial
from lab.data.images import decode
from lab.errors import ConfigError, ModelError
from lab.model import Vlm
from lab.prompt import to_chat
from lab.records import Batch, Picture, Sample, Shape

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

IGNORED = -100
"""The label that takes no loss, as in torch.nn.functional.cross_entropy."""
ALIGN = 16
"""Tokens; float32 lanes of the widest CPU vector. A sum over the keys is taken in vector lanes, so shifting a prompt by other than
a multiple of it regroups the sum and moves the last bits; prompts so aligned give one score in every batch."""


@dataclass(frozen=True, slots=True)
class Text:
    """A tokenised prompt, one placeholder an image, and its answer with the end-of-turn token. int64."""

    prompt_ids: np.ndarray
    answer_ids: np.ndarray
    image_order: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Example:
    """One sample ready for a batch: text, and for each image its patch grid with pixels or with features.

    grids: [(t, h, w)] in patches. pixels: float32 [patches, features of a patch] each. features: [tokens, hidden] each.
    """

    sample_id: str
    text: Text
    grids: tuple[tuple[int, int, int], ...]
    pixels: tuple[torch.Tensor, ...] = ()
    features: tuple[torch.Tensor, ...] = ()


class Encoder:
    """Turns samples into examples and examples into batches, for one checkpoint and one prompt."""

    def __init__(self, vlm: Vlm, prompt: PromptDial, seed: int = 0) -> None:
        self.architecture, self.config = vlm.family.architecture, vlm.bare.config
        self.processor = vlm.processor
        self.tokenizer = vlm.processor.tokenizer
        self.prompt = prompt
        self.seed = seed
        self.image_id = self.architecture.image_id(self.processor)
        self.budget, self.reducer = vlm.budget, vlm.reducer
        self.prefix = self.architecture.in_prompt and (vlm.conditioner is None or vlm.conditioner.prefix)
        self.rule = self.architecture.positions(vlm)
        self.pad_id = self.tokenizer.pad_token_id

    def text(self, sample: Sample) -> Text:
        """Frame and tokenise. The answer ends with the end-of-turn token, which is trained too.

        Raises `ModelError` if the prompt does not hold one placeholder for each image that stands in it.
        """
        import numpy as np

        chat = to_chat(sample, self.prompt, self.seed)
        prompt, answer = self.architecture.frame(self.processor, chat, self.prompt.numbered)
        prompt_ids = np.asarray(self.tokenizer(prompt, add_special_tokens=False)["input_ids"], dtype=np.int64)
        answer_ids = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        placeholders = int((prompt_ids == self.image_id).sum())
        if self.architecture.in_prompt and placeholders != len(sample.images):
            raise ModelError(
                f"model: the chat template wrote {placeholders} image placeholders for {len(sample.images)} images "
                f"of sample {sample.sample_id}."
            )
        return Text(prompt_ids, np.asarray(answer_ids, dtype=np.int64), chat.image_order)

    def pixels(self, images: Sequence[Image]) -> tuple[list[torch.Tensor], list[tuple[int, int, int]]]:
        """Run the image processor: patches float32 [patches, features] and grid (t, h, w) in patches of each image."""
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

    def check(self, grid: tuple[int, int, int], source: str) -> None:
        """Raise a `ConfigError` if an image of this patch grid costs more tokens than `vision_tokens.budget`."""
        if self.budget is not None and self.tokens(grid) > self.budget:
            raise ConfigError(
                f"vision_tokens.budget={self.budget}: the processor of this checkpoint makes {self.tokens(grid)} tokens of "
                f"{source} whatever it is told. Ask for at least {self.tokens(grid)}, or choose another vision_tokens option."
            )

    def picture(self, picture: Picture) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Decode and process one image. Raises `ConfigError` if it breaks `vision_tokens.budget`."""
        pixels, grids = self.pixels([decode(picture)])
        self.check(grids[0], picture.source)
        return pixels[0], grids[0]

    def example(self, sample: Sample) -> Example:
        """Encode a sample with the pixels of its images."""
        text = self.text(sample)
        shown = [self.picture(sample.images[i]) for i in text.image_order]
        return Example(sample.sample_id, text, tuple(grid for _, grid in shown), pixels=tuple(p for p, _ in shown))

    def shape(self, example: Example) -> Shape:
        """How large an example is, without padding."""
        tokens = tuple(self.tokens(grid) for grid in example.grids)
        words = int((example.text.prompt_ids != self.image_id).sum())
        return Shape(words + (sum(tokens) if self.prefix else 0), example.grids, tokens)

    def collate(
        self, examples: Sequence[Example], with_answers: bool, padding_side: str = "left", align: int = ALIGN
    ) -> Batch:
        """Pad and stack. With answers, they end every row and `labels` are set; else rows end with the prompt.

        padding_side: the answer rows of `Vlm.logits` are the last ones, so only the equivalence gate pads on the right.
        align: without answers, every prompt ends at a multiple of so many tokens; see `ALIGN`.
        """
        import numpy as np
        import torch

        rows, kinds = [], []
        for example in examples:
            standing = example.grids if self.architecture.in_prompt else ()
            counts = [self.tokens(grid) if self.prefix else 0 for grid in standing]
            ids = expand(example.text.prompt_ids, self.image_id, counts)
            kinds.append((ids == self.image_id).astype(np.int64))
            rows.append(np.concatenate([ids, example.text.answer_ids]) if with_answers else ids)
        ends = [len(row) if with_answers else -(-len(row) // align) * align for row in rows]
        length = max(ends)
        input_ids = np.full((len(rows), length), self.pad_id, dtype=np.int64)
        mask, token_types = np.zeros_like(input_ids), np.zeros_like(input_ids)
        labels = np.full_like(input_ids, IGNORED)
        for b, (row, kind, example) in enumerate(zip(rows, kinds, examples, strict=True)):
            start = (length if padding_side == "left" else ends[b]) - len(row)
            input_ids[b, start : start + len(row)] = row
            mask[b, start : start + len(row)] = 1
            token_types[b, start : start + len(kind)] = kind
            if with_answers:
                labels[b, start + len(kind) : start + len(row)] = row[len(kind) :]
        answer_rows = max(len(example.text.answer_ids) for example in examples) + 1 if with_answers else 1
        prompts = [example.text.prompt_ids for example in examples]
        grids = [grid for example in examples for grid in example.grids]
        grid_thw = torch.tensor(grids, dtype=torch.int64).reshape(-1, 3) if grids else None
        ids, types, attention = (torch.from_numpy(array) for array in (input_ids, token_types, mask))
        positions = self.positions(examples, ids, types, attention, grid_thw)
        pixels = [patches for example in examples for patches in example.pixels]
        features = tuple(feature for example in examples for feature in example.features)
        return Batch(
            sample_ids=tuple(example.sample_id for example in examples),
            input_ids=ids,
            attention_mask=attention,
            mm_token_type_ids=types,
            position_ids=positions,
            pixel_values=torch.cat(pixels) if pixels else None,
            image_grid_thw=grid_thw,
            image_features=features or None,
            labels=torch.from_numpy(labels) if with_answers else None,
            answer_rows=answer_rows,
            shared=min(opening(prompts, self.image_id), *(len(row) - answer_rows for row in rows)) if with_answers else 0,
            num_images=tuple(len(example.grids) for example in examples),
            image_grids=tuple(self.merged(grid) for grid in grids),
            visual_tokens=tuple(self.tokens(grid) for grid in grids),
            image_order=tuple(example.text.image_order for example in examples),
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
