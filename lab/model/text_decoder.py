"""Defaults of an `Architecture` whose decoder of text writes the answer behind the prompt, in the same row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lab.model import turns
from lab.model.architecture import Architecture
from lab.model.turns import Span
from lab.records import Batch, Chat, Tokens

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

    from lab.model import Vlm


class TextDecoder(Architecture):
    """What of an `Architecture` is alike wherever a decoder of text writes the answer, behind the prompt in its row."""

    def words(self, tokens: Tokens) -> dict[str, Any]:
        """By the names that Transformers' decoders take."""
        return {"input_ids": tokens.ids, "attention_mask": tokens.mask, "position_ids": tokens.positions}

    def predict(self, vlm: Vlm, batch: Batch) -> torch.Tensor:
        """`Vlm.predict`: position t predicts token t + 1. Without labels, the last token of each row is looked for, wherever it is padded."""
        import torch

        if batch.target.places is not None:
            return vlm.logits(batch, batch.target.places)
        logits = vlm.logits(batch, batch.target.rows)
        if batch.target.labels is not None:
            return logits[:, :-1]
        assert batch.prompt.mask is not None
        length = batch.prompt.mask.shape[1]
        last = (batch.prompt.mask * torch.arange(length, device=logits.device)).argmax(dim=1) - (length - logits.shape[1])
        return logits[torch.arange(len(last), device=logits.device), last, None]

    def start_id(self, config: PretrainedConfig) -> int:
        """None: the answer follows the prompt."""
        return -1

    def end_ids(self, vlm: Vlm) -> list[int]:
        """The tokenizer's, and those of the checkpoint's generation config."""
        named = getattr(vlm.base_model.generation_config, "eos_token_id", None)
        listed = named if isinstance(named, list) else [named]
        return sorted({token for token in (vlm.processor.tokenizer.eos_token_id, *listed) if token is not None})

    def texts(self, vlm: Vlm, ids: Any) -> list[str]:
        """By the tokenizer."""
        return vlm.processor.tokenizer.batch_decode(ids, skip_special_tokens=True)

    def writer(self, model: Any) -> Any:
        """All of it."""
        return model

    def head(self, model: Any) -> torch.nn.Module:
        """The output embedding."""
        return self.writer(model).get_output_embeddings()


def added(mask: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What is added to scores so that positions are read as a mask says: every kind of attention adds, and eager would add True as 1."""
    import torch

    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def tower_output(features: Any) -> ModelOutput:
    """Features [tokens, hidden] of each image as Qwen-VL's towers give them, which is more than the field is declared for."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(pooler_output=features)


class Placeholders(TextDecoder):
    """What of an `Architecture` is alike where Transformers' whole model reads a text in which placeholders stand for images."""

    template = True

    def render(self, processor: Any, messages: Sequence[dict[str, Any]], numbered: bool, generation: bool = True) -> str:
        """Messages by the chat template. generation: with its generation prompt."""
        return processor.apply_chat_template(list(messages), add_generation_prompt=generation, tokenize=False)

    def learned(self, processor: Any, chat: Chat, numbered: bool, prompt: str, answer: str) -> tuple[Span, ...]:
        """From where the prompt's own rendering has them (`lab.model.turns`)."""
        if not chat.learned:
            return ()
        lead, ends = self.lead(processor), self.ends_turns(processor)
        end = answer.removeprefix(lead + chat.answer) if ends else ""
        render = partial(self.render, processor, numbered=numbered)
        found = turns.spans(render, self.messages(chat) or (), chat, prompt, lead, end)
        return turns.token_spans(self.offsets(processor, prompt), found, ends)

    def ends_turns(self, processor: Any) -> bool:
        """Whether its chat template writes the end of the assistant's turns."""
        return True

    def offsets(self, processor: Any, prompt: str) -> list[Span]:
        """Where in the text of a prompt each token of `ids` stands."""
        return processor.tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]

    def image_id(self, processor: Any) -> int:
        """Of the placeholder that the chat template writes."""
        return processor.image_token_id

    def see(self, vlm: Vlm, pixels: dict[str, torch.Tensor]) -> ModelOutput:
        """Through Transformers' own call."""
        return vlm.base_model.get_image_features(**pixels, return_dict=True)

    def reader(self, vlm: Vlm) -> torch.nn.Module:
        """The whole model."""
        return vlm.model

    def inputs(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """Images come as features where the batch has them, else as pixels."""
        images: dict[str, Any] = dict(batch.media.pixels or {})
        if batch.media.features is not None:
            images["mm_encoder_outputs"] = self.seen(tower_output(batch.media.features), batch.media)
        if batch.prompt.mask is not None and batch.prompt.mask.ndim == 4:
            images["attention_mask"] = added(batch.prompt.mask, vlm.dtype)
        return self.words(batch.prompt) | images
