"""Hugging Face's `VisionEncoderDecoderModel`: images enter a text decoder by its own cross-attention (`add_cross_attention`).

Such a decoder has no image token and no chat template. A prompt is the framed statement and a line break; the answer word
and the end-of-text token follow it. The separator between images has no place in it, and a system prompt stands on a line before.
Each image is encoded by itself; the states of all images of a sample are joined, and every position of the text attends to all
of them. Nothing in them says which image they are of, so such a model cannot tell left from right: exchanging the images changes
no answer. That is Hugging Face's path as it is; `conditioning=cross_attention` on Qwen-VL marks each image. A sample without
images attends to one state of zeros, so that it answers alike in every batch.

Identity: the model is the checkpoint's, and nothing is added to it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.errors import ModelError
from lab.model.architecture import predict_inline, tower_output, words
from lab.records import Batch, Chat, ExampleSize

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

    from lab.model import Vlm
    from lab.model.architecture import Grid, Positions


@dataclass
class Pair:
    """A tokenizer and an image processor, in the terms of Transformers' processors."""

    tokenizer: Any
    image_processor: Any
    chat_template: None = None

    def save_pretrained(self, folder: str | Path) -> None:
        """Write both."""
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)


class EncoderDecoder:
    """`lab.model.architecture.Architecture` of a ViT before a GPT-2."""

    in_prompt = False
    beside_grid = 1
    padding_side = "left"

    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> Pair:
        """The checkpoint's tokenizer, padded with its end-of-text token where it has no other, and its image processor."""
        from transformers import AutoImageProcessor, AutoTokenizer

        pair = Pair(AutoTokenizer.from_pretrained(where, **options), AutoImageProcessor.from_pretrained(where, **options))
        if pair.tokenizer.pad_token_id is None:
            pair.tokenizer.pad_token = pair.tokenizer.eos_token
        made, wanted = side_of(pair.image_processor), config.encoder.image_size
        if made != (wanted, wanted):
            raise ModelError(
                f"model.path={where}: its image processor makes images of {made} pixels, its encoder takes {wanted} x {wanted}."
                " Correct `size` in preprocessor_config.json."
            )
        return pair

    def image_id(self, processor: Pair) -> int:
        """None: images stand beside the prompt."""
        return -1

    def frame(self, processor: Pair, chat: Chat, numbered: bool) -> tuple[str, str]:
        """The framed statement on its own, and the answer word with the end-of-text token."""
        lines = [message["content"][-1]["text"] for message in chat.messages]
        return "\n".join(lines) + "\n", chat.answer + processor.tokenizer.eos_token

    def pixels(
        self, processor: Pair, config: PretrainedConfig, images: Sequence[Image]
    ) -> tuple[list[torch.Tensor], list[Grid]]:
        """Every image is brought to the encoder's one size."""
        made = processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        return list(made), [square(config)] * len(made)

    def pixel_shape(self, config: PretrainedConfig, grid: Grid) -> tuple[int, ...]:
        """Channels, height, width."""
        return config.encoder.num_channels, *(side * config.encoder.patch_size for side in grid[1:])

    def stack(self, pixels: Sequence[torch.Tensor], grids: Sequence[Grid]) -> dict[str, torch.Tensor]:
        """[N, channels, height, width]."""
        import torch

        return {"pixel_values": torch.stack(tuple(pixels))}

    def grid(self, processor: Pair, config: PretrainedConfig, size: tuple[int, int]) -> Grid:
        """The encoder's own."""
        return square(config)

    def settings(self, processor: Pair) -> dict[str, Any]:
        """Of the image processor; its size is the encoder's."""
        images = processor.image_processor
        keys = ("image_mean", "image_std", "do_rescale", "rescale_factor", "do_normalize", "do_convert_rgb", "do_resize")
        values = {key: getattr(images, key) for key in keys}
        return {"class": type(images).__name__, **values, "size": list(side_of(images)), "resample": int(images.resample)}

    def merged(self, config: PretrainedConfig, grid: Grid) -> tuple[int, int]:
        """One state for each patch."""
        return grid[1], grid[2]

    def positions(self, vlm: Vlm) -> Positions:
        """Counted from the first real token."""
        return counted

    def see(self, vlm: Vlm, pixels: dict[str, torch.Tensor]) -> ModelOutput:
        """Encoder states of each image, class token first, projected where the checkpoint has a projection."""
        states = vlm.bare.encoder(**pixels).last_hidden_state
        projected = vlm.bare.enc_to_dec_proj(states) if hasattr(vlm.bare, "enc_to_dec_proj") else states
        return tower_output(tuple(projected))

    def reader(self, vlm: Vlm) -> torch.nn.Module:
        """The decoder: Transformers' own call of the whole model masks no state, so samples could not differ in their images."""
        return vlm.bare.decoder

    def inputs(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """Text, and the states of all images of each sample."""
        return words(batch.prompt) | self.again(vlm, batch)

    def again(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """The states: without them the decoder would not look at their keys in its cache."""
        states, seen = joined(vlm, batch)
        return {"encoder_hidden_states": states, "encoder_attention_mask": seen}

    def predict(self, vlm: Vlm, batch: Batch) -> torch.Tensor:
        """The answer stands in the decoder's row, behind the prompt."""
        return predict_inline(vlm, batch)

    def planned_size(self, config: PretrainedConfig, text: int, images: int, tokens: int) -> ExampleSize:
        """Images cost what the encoder makes of them, whatever is asked for."""
        grid = square(config)
        return ExampleSize(text, (grid,) * images, (math.prod(grid) + self.beside_grid,) * images)


def square(config: PretrainedConfig) -> Grid:
    """The grid of every image that the encoder takes."""
    side = config.encoder.image_size // config.encoder.patch_size
    return 1, side, side


def side_of(images: Any) -> tuple[int, int]:
    """Height and width [pixels] of what an image processor makes."""
    return images.size["height"], images.size["width"]


def counted(
    ids: torch.Tensor, types: torch.Tensor, grids: torch.Tensor | None, attention: torch.Tensor | None
) -> torch.Tensor:
    """Positions int64 [B, T] of real tokens from 0; padding stands at 0 too."""
    assert attention is not None
    return (attention.cumsum(1) - 1).clamp(min=0)


def joined(vlm: Vlm, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """States that each sample attends to, [B, M, D], and which of them are there, int64 [B, M]."""
    import torch
    from torch.nn.functional import pad

    media, device = batch.media, batch.prompt.ids.device
    features = media.features if media.pixels is None else vlm.encode_images(media.pixels)
    nothing = torch.zeros((1, vlm.hidden), dtype=vlm.bare.dtype, device=device)
    rows, image = [], 0
    for number in media.counts:
        rows.append(torch.cat(list((features or ())[image : image + number])) if number else nothing)
        image += number
    lengths = torch.tensor([len(row) for row in rows], device=device)
    states = torch.stack([pad(row, (0, 0, 0, int(lengths.max()) - len(row))) for row in rows])
    return states, (torch.arange(states.shape[1], device=lengths.device) < lengths[:, None]).long()
