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

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.model.fixed_size import FixedSize, counted, joined
from lab.model.text_decoder import TextDecoder, tower_output
from lab.records import Batch, Chat

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

    from lab.model import Vlm
    from lab.model.architecture import Positions


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


class EncoderDecoder(FixedSize, TextDecoder):
    """`lab.model.architecture.Architecture` of a ViT before a GPT-2."""

    padding_side = "left"
    again: tuple[str, ...] = ("encoder_hidden_states", "encoder_attention_mask")

    def tower(self, config: PretrainedConfig) -> PretrainedConfig:
        """The encoder's."""
        return config.encoder

    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> Pair:
        """The checkpoint's tokenizer, padded with its end-of-text token where it has no other, and its image processor."""
        from transformers import AutoImageProcessor, AutoTokenizer

        pair = Pair(AutoTokenizer.from_pretrained(where, **options), AutoImageProcessor.from_pretrained(where, **options))
        if pair.tokenizer.pad_token_id is None:
            pair.tokenizer.pad_token = pair.tokenizer.eos_token
        self.require_size(where, pair.image_processor, config)
        return pair

    def frame(self, processor: Pair, chat: Chat, numbered: bool) -> tuple[str, str]:
        """The framed statement on its own, and the answer word with the end-of-text token."""
        return self.question(chat) + "\n", chat.answer + processor.tokenizer.eos_token

    def positions(self, vlm: Vlm) -> Positions:
        """Counted from the first real token."""
        return counted

    def see(self, vlm: Vlm, pixels: dict[str, torch.Tensor]) -> ModelOutput:
        """Encoder states of each image, class token first, projected where the checkpoint has a projection."""
        states = vlm.base_model.encoder(**pixels).last_hidden_state
        projected = vlm.base_model.enc_to_dec_proj(states) if hasattr(vlm.base_model, "enc_to_dec_proj") else states
        return tower_output(tuple(projected))

    def reader(self, vlm: Vlm) -> torch.nn.Module:
        """The decoder: Transformers' own call of the whole model masks no state, so samples could not differ in their images."""
        return vlm.base_model.decoder

    def inputs(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """Text, and the states of all images of each sample."""
        states, seen = joined(vlm, batch, vlm.hidden)
        return self.words(batch.prompt) | {"encoder_hidden_states": states, "encoder_attention_mask": seen}
