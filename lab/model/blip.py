"""Architectures whose answers stand in a decoder of their own, beside the question: BLIP's.

A question is read with its images by an encoder; the decoder begins at a start token and reads of the question what cross-attention
finds. Such a model has no chat template and no image token: the prompt is the framed question. States of several images of a sample are
joined, as in `lab.model.encoder_decoder`: each is looked at, and nothing says which is which.
"""

from __future__ import annotations

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


class Beside(TextDecoder):
    """What of an `Architecture` is alike wherever the answer has a decoder of its own."""

    def positions(self, vlm: Vlm) -> Positions:
        """Counted from the first real token."""
        return counted

    def reader(self, vlm: Vlm) -> torch.nn.Module:
        """The decoder."""
        return self.writer(vlm.base_model)

    def predict(self, vlm: Vlm, batch: Batch) -> torch.Tensor:
        """Each position of the decoder's row predicts the label at its place."""
        return vlm.logits(batch, batch.target.rows)


class Blip(FixedSize, Beside):
    """`lab.model.architecture.Architecture` of BLIP for visual question answering (Li et al. 2022, 2201.12086)."""

    padding_side = "right"
    again: tuple[str, ...] = ("encoder_hidden_states", "encoder_attention_mask")

    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> Any:
        """The checkpoint's own. Raises `ModelError` for images of another size than the tower takes."""
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(where, **options)
        self.require_size(where, processor.image_processor, config)
        return processor

    def repair(self, model: Any) -> None:
        """Transformers 5.24 hands a cross-attention the encoder's mask under a name that it does not read: questions' padding is seen."""
        for name, module in model.named_modules():
            if name.endswith("crossattention.self"):
                module.register_forward_pre_hook(with_encoder_mask, with_kwargs=True)

    def frame(self, processor: Any, chat: Chat, numbered: bool) -> tuple[str, str]:
        """The question between the tokenizer's first and last token, and the answer with the latter."""
        tokenizer = processor.tokenizer
        return f"{tokenizer.cls_token}{self.question(chat)}{tokenizer.sep_token}", chat.answer + tokenizer.sep_token

    def see(self, vlm: Vlm, pixels: dict[str, torch.Tensor]) -> ModelOutput:
        """States of the tower of each image, class token first."""
        return tower_output(tuple(vlm.base_model.vision_model(**pixels).last_hidden_state))

    def writer(self, model: Any) -> Any:
        """The text decoder."""
        return model.text_decoder

    def inputs(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """What is written, and the question as the text encoder has read it over the images."""
        assert batch.answer is not None
        states, seen = joined(vlm, batch, vlm.base_model.config.text_config.encoder_hidden_size)
        asked = {"encoder_hidden_states": states, "encoder_attention_mask": seen}
        question = vlm.base_model.text_encoder(**self.words(batch.prompt), **asked).last_hidden_state
        return self.words(batch.answer) | {"encoder_hidden_states": question, "encoder_attention_mask": batch.prompt.mask}

    def start_id(self, config: PretrainedConfig) -> int:
        """[DEC], as `generate` begins; the documented `labels=` of a tokenised answer begin at [CLS]."""
        return config.text_config.bos_token_id

    def end_ids(self, vlm: Vlm) -> list[int]:
        """[SEP], whatever the generation config says: `generate` takes it from the text config."""
        return [vlm.base_model.config.text_config.sep_token_id]


def with_encoder_mask(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The mask of a cross-attention under the name that it reads."""
    return args, kwargs | {"encoder_attention_mask": kwargs.get("attention_mask")}
