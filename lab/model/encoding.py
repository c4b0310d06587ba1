"""`Sample -> Example -> Batch`: the checkpoint's own chat template, tokenizer and image processor, then left padding.

A prompt is tokenised once with one placeholder an image; the placeholder is then repeated as often as the image
costs tokens. The result equals the processor's own call (tests/test_encoding.py) and serves every token budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lab.config import PromptDial
from lab.data.images import decode
from lab.errors import ConfigError, ModelError
from lab.model import Vlm
from lab.prompt import to_chat
from lab.records import Batch, Picture, Sample

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image

IGNORED = -100
"""The label that takes no loss, as in torch.nn.functional.cross_entropy."""


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
        self.processor = vlm.processor
        self.tokenizer = vlm.processor.tokenizer
        self.prompt = prompt
        self.seed = seed
        self.image_id = self.processor.image_token_id
        self.merge = self.processor.image_processor.merge_size**2
        self.rope_index = vlm.bare.model.get_rope_index
        self.pad_id = self.tokenizer.pad_token_id

    def text(self, sample: Sample) -> Text:
        """Apply the chat template and tokenise. The answer ends with the end-of-turn token, which is trained too.

        Raises `ModelError` if the template does not write the answer right after the generation prompt.
        """
        import numpy as np

        chat = to_chat(sample, self.prompt, self.seed)
        options = {"tokenize": False, "add_vision_id": self.prompt.numbered}
        messages = list(chat.messages)
        prompt = self.processor.apply_chat_template(messages, add_generation_prompt=True, **options)
        answered = [*messages, {"role": "assistant", "content": [{"type": "text", "text": chat.answer}]}]
        full = self.processor.apply_chat_template(answered, **options)
        if not full.startswith(prompt + chat.answer):
            raise ModelError(
                "model: the checkpoint's chat template does not put the answer right after the generation prompt, so "
                "training and scoring would not see the same text."
            )
        prompt_ids = np.asarray(self.tokenizer(prompt, add_special_tokens=False)["input_ids"], dtype=np.int64)
        answer_ids = self.tokenizer(full[len(prompt) :].rstrip("\n"), add_special_tokens=False)["input_ids"]
        placeholders = int((prompt_ids == self.image_id).sum())
        if placeholders != len(sample.images):
            raise ModelError(
                f"model: the chat template wrote {placeholders} image placeholders for {len(sample.images)} images "
                f"of sample {sample.sample_id}."
            )
        return Text(prompt_ids, np.asarray(answer_ids, dtype=np.int64), chat.image_order)

    def pixels(self, images: Sequence[Image]) -> tuple[list[torch.Tensor], list[tuple[int, int, int]]]:
        """Run the image processor: patches float32 [patches, features] and grid (t, h, w) in patches of each image."""
        import torch

        out = self.processor.image_processor(images=list(images), return_tensors="pt")
        grids = [tuple(grid) for grid in out["image_grid_thw"].tolist()]
        return list(torch.split(out["pixel_values"], [t * h * w for t, h, w in grids])), grids

    def settings(self) -> dict[str, Any]:
        """What the image processor does, as plain values: part of the contract and of the feature cache's key."""
        processor = self.processor.image_processor
        keys = ("size", "patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std", "do_rescale")
        keys += ("rescale_factor", "do_normalize", "do_convert_rgb", "do_resize", "resample")
        values = {key: getattr(processor, key) for key in keys}
        size = values["size"]
        values["size"] = {key: size[key] for key in ("shortest_edge", "longest_edge")}
        values["resample"] = int(values["resample"])
        return {"class": type(processor).__name__, **values}

    def tokens(self, grid: tuple[int, int, int]) -> int:
        """How many tokens an image of this patch grid costs the language model."""
        return grid[0] * grid[1] * grid[2] // self.merge

    def picture(self, picture: Picture) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Decode and process one image."""
        pixels, grids = self.pixels([decode(picture)])
        return pixels[0], grids[0]

    def example(self, sample: Sample) -> Example:
        """Encode a sample with the pixels of its images."""
        text = self.text(sample)
        shown = [self.picture(sample.images[i]) for i in text.image_order]
        return Example(sample.sample_id, text, tuple(grid for _, grid in shown), pixels=tuple(p for p, _ in shown))

    def collate(self, examples: Sequence[Example], with_answers: bool) -> Batch:
        """Pad on the left and stack. With answers, they end every row and `labels` are set; else rows end with the prompt."""
        import numpy as np
        import torch

        rows, kinds = [], []
        for example in examples:
            ids = expand(example.text.prompt_ids, self.image_id, [self.tokens(grid) for grid in example.grids])
            kinds.append((ids == self.image_id).astype(np.int64))
            rows.append(np.concatenate([ids, example.text.answer_ids]) if with_answers else ids)
        length = max(len(row) for row in rows)
        input_ids = np.full((len(rows), length), self.pad_id, dtype=np.int64)
        mask, token_types = np.zeros_like(input_ids), np.zeros_like(input_ids)
        labels = np.full_like(input_ids, IGNORED)
        for b, (row, kind, example) in enumerate(zip(rows, kinds, examples, strict=True)):
            start = length - len(row)
            input_ids[b, start:] = row
            mask[b, start:] = 1
            token_types[b, start : start + len(kind)] = kind
            if with_answers:
                labels[b, start + len(kind) :] = row[len(kind) :]
        grids = [grid for example in examples for grid in example.grids]
        grid_thw = torch.tensor(grids, dtype=torch.int64).reshape(-1, 3) if grids else None
        ids, types, attention = (torch.from_numpy(array) for array in (input_ids, token_types, mask))
        positions, _ = self.rope_index(ids, types, image_grid_thw=grid_thw, attention_mask=attention)
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
            answer_rows=max(len(example.text.answer_ids) for example in examples) + 1 if with_answers else 1,
            num_images=tuple(len(example.grids) for example in examples),
            visual_tokens=tuple(self.tokens(grid) for grid in grids),
            image_order=tuple(example.text.image_order for example in examples),
        )


def expand(ids: np.ndarray, image_id: int, counts: Sequence[int]) -> np.ndarray:
    """Repeat the k-th occurrence of `image_id` `counts[k]` times."""
    import numpy as np

    repeats = np.ones(len(ids), dtype=np.int64)
    repeats[ids == image_id] = counts
    return np.repeat(ids, repeats)


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Move every tensor of a batch."""
    names = ("input_ids", "attention_mask", "mm_token_type_ids", "position_ids", "pixel_values", "image_grid_thw", "labels")
    moved = {name: getattr(batch, name) for name in names}
    moved = {name: None if tensor is None else tensor.to(device, non_blocking=True) for name, tensor in moved.items()}
    features = batch.image_features
    if features is not None:
        moved["image_features"] = tuple(feature.to(device, non_blocking=True) for feature in features)
    return replace(batch, **moved)


def check_budget(encoder: Encoder, picture: Picture, budget: int | None) -> None:
    """Process one image and compare the tokens it costs with the budget asked for. Raises `ConfigError`."""
    if budget is None:
        return
    _, grid = encoder.picture(picture)
    tokens = encoder.tokens(grid)
    if tokens > budget:
        raise ConfigError(
            f"vision_tokens.budget={budget}: the processor of this checkpoint makes {tokens} tokens of {picture.source} "
            f"whatever it is told. Ask for at least {tokens}, or choose another vision_tokens option."
        )
