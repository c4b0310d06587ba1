"""Architectures whose images pass a Q-Former (Li et al. 2023, 2301.12597): a few trained queries for each, which stand before the prompt.

BLIP-2 asks of an image without a question; InstructBLIP (Dai et al. 2023, 2305.06500) lets its queries read the question, by a tokenizer
of its own, so that an image's features are not the same for two questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lab.errors import ModelError
from lab.model.architecture import Architecture
from lab.model.blip import Beside
from lab.model.fixed_size import FixedSize, counted
from lab.model.text_decoder import TextDecoder
from lab.model.token_ids import joint_ids
from lab.records import Batch, Chat, ExampleSize, Tokens

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

    from lab.model import Vlm
    from lab.model.architecture import Grid, Positions


class QFormer(FixedSize):
    """The half of an `Architecture` that looks at images, of such a model."""

    in_prompt = True
    beside_grid = 0

    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> Any:
        """The checkpoint's own.

        Raises `ModelError` for images of another size, and for a checkpoint from before the image token, which would ignore images.
        """
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(where, **options)
        self.require_size(where, processor.image_processor, config)
        if processor.num_query_tokens != config.num_query_tokens or self.image_id(processor) != config.image_token_id:
            raise ModelError(
                f"model.path={where}: its processor writes {processor.num_query_tokens} image tokens (id {self.image_id(processor)}), and "
                f"its model looks for {config.num_query_tokens} of id {config.image_token_id}: images would be ignored. Take the "
                "checkpoint's newer files, or set num_query_tokens in processor_config.json and image_token_index in config.json."
            )
        return processor

    def repair(self, model: Any) -> None:
        """Its dropout is off: features that are kept are computed once, and the same without a cache."""
        from torch import nn

        for module in model.qformer.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0

    def image_id(self, processor: Any) -> int:
        """Of the token that its queries stand for."""
        return processor.tokenizer.convert_tokens_to_ids("<image>")

    def merged(self, config: PretrainedConfig, grid: Grid) -> tuple[int, int]:
        """One row of queries, whatever the image."""
        return 1, config.num_query_tokens

    def planned_size(self, config: PretrainedConfig, text: int, images: int, tokens: int) -> ExampleSize:
        """Images cost their queries."""
        number = config.num_query_tokens
        return ExampleSize(text + images * number, (self.square(config),) * images, (number,) * images)

    def see(self, vlm: Vlm, pixels: dict[str, torch.Tensor]) -> ModelOutput:
        """Through Transformers' own call, which projects the queries."""
        return vlm.base_model.get_image_features(**pixels, return_dict=True)

    def embedded(self, vlm: Vlm, batch: Batch) -> torch.Tensor:
        """Prompts with their images' queries in place, [B, T, hidden]."""
        import torch

        media, words = batch.media, vlm.base_model.language_model.get_input_embeddings()(batch.prompt.ids)
        features = media.features if media.pixels is None else vlm.encode_images(media.pixels)
        if features is None:
            return words
        return words.masked_scatter(batch.prompt.types.bool()[..., None], torch.cat(tuple(features)).to(words.dtype))


class QFormerT5(QFormer, Beside):
    """`lab.model.architecture.Architecture` of a Q-Former before a T5, whose encoder reads the prompt and whose decoder answers."""

    padding_side = "right"
    again: tuple[str, ...] = ("encoder_outputs", "attention_mask")

    def frame(self, processor: Any, chat: Chat, numbered: bool) -> tuple[str, str]:
        """Images, the question and the tokenizer's end, as the processor has them; the answer and that end."""
        end = processor.tokenizer.eos_token
        return "<image>" * len(chat.image_order) + self.question(chat) + end, chat.answer + end

    def writer(self, model: Any) -> Any:
        """T5."""
        return model.language_model

    def words(self, tokens: Tokens) -> dict[str, Any]:
        """By T5's names; its positions are relative."""
        return {"decoder_input_ids": tokens.ids, "decoder_attention_mask": tokens.mask}

    def inputs(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """What is written, and the prompt as the encoder has read it."""
        from transformers.modeling_outputs import BaseModelOutput

        assert batch.answer is not None
        encoder = vlm.base_model.language_model.encoder
        states = encoder(inputs_embeds=self.embedded(vlm, batch), attention_mask=batch.prompt.mask).last_hidden_state
        return self.words(batch.answer) | {"encoder_outputs": BaseModelOutput(states), "attention_mask": batch.prompt.mask}

    def predict(self, vlm: Vlm, batch: Batch) -> torch.Tensor:
        """As of all such; T5 takes no `logits_to_keep`."""
        return vlm.reader(**vlm.inputs(batch), use_cache=False).logits

    def start_id(self, config: PretrainedConfig) -> int:
        """T5's padding token."""
        return config.text_config.decoder_start_token_id

    def end_ids(self, vlm: Vlm) -> list[int]:
        """T5's."""
        return [vlm.base_model.config.text_config.eos_token_id]


class ReadsQuestion(Architecture):
    """What of an `Architecture` is its own where the queries read the question."""

    reads_question = True

    def second_ids(self, processor: Any, chat: Chat) -> list[int]:
        """The question by the Q-Former's tokenizer."""
        return processor.qformer_tokenizer(self.question(chat))["input_ids"]

    def stack_second(self, rows: Sequence[Sequence[int]], counts: Sequence[int]) -> dict[str, torch.Tensor]:
        """The question of each image, padded on the right, as the Q-Former's positions want it."""
        import numpy as np
        import torch

        rows = [row for row, number in zip(rows, counts, strict=True) for _ in range(number)] or [()]
        ids = np.zeros((len(rows), max(map(len, rows))), dtype=np.int64)
        mask = np.zeros_like(ids)
        for to, seen, row in zip(ids, mask, rows, strict=True):
            to[: len(row)], seen[: len(row)] = row, 1
        return {"qformer_input_ids": torch.from_numpy(ids), "qformer_attention_mask": torch.from_numpy(mask)}


class InstructQFormerT5(ReadsQuestion, QFormerT5):
    """A T5 behind queries that read the question."""


class QFormerDecoder(QFormer, TextDecoder):
    """`lab.model.architecture.Architecture` of a Q-Former before a decoder of text, OPT or Llama, which answers behind the prompt.

    Images stand before the tokenizer's first token, as in training; the processor writes those of one image alone.
    """

    padding_side = "left"
    adds_special_tokens = True

    def __init__(self, template: str) -> None:
        self.template = template

    def frame(self, processor: Any, chat: Chat, numbered: bool) -> tuple[str, str]:
        """Images, and the question as the checkpoint was asked; the answer and the tokenizer's end."""
        asked = self.template.format(self.question(chat))
        return "<image>" * len(chat.image_order) + asked, self.lead(processor) + chat.answer + processor.tokenizer.eos_token

    def lead(self, processor: Any) -> str:
        """A space."""
        return " "

    def ids(self, processor: Any, texts: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Of the text as the tokenizer begins it, behind the images."""
        found = joint_ids(processor.tokenizer, [(prompt.replace("<image>", ""), answer) for prompt, answer in texts])
        images = [[self.image_id(processor)] * prompt.count("<image>") for prompt, _ in texts]
        return [(shown + before, behind) for shown, (before, behind) in zip(images, found, strict=True)]

    def positions(self, vlm: Vlm) -> Positions:
        """Counted from the first real token."""
        return counted

    def reader(self, vlm: Vlm) -> torch.nn.Module:
        """The decoder: further tokens are read without a look at images, which the whole model insists on."""
        return vlm.base_model.language_model

    def inputs(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """Words with the images' queries among them."""
        words = self.words(batch.prompt)
        del words["input_ids"]
        return words | {"inputs_embeds": self.embedded(vlm, batch)}

    def plain(self, processor: Any, prompts: Sequence[str], chats: Sequence[Chat], images: Sequence[Image]) -> dict[str, Any]:
        """As the processor has it of one image a prompt, of several as many placeholders more; padding stands before the images."""
        number = len(images) // len(prompts)
        standing = [self.image_id(processor)] * (number * processor.num_query_tokens)
        rows = [standing + processor.tokenizer(prompt.replace("<image>", ""))["input_ids"] for prompt in prompts]
        return {
            **processor.tokenizer.pad({"input_ids": rows}, return_tensors="pt"),
            **processor.image_processor(images=list(images), return_tensors="pt"),
            **self.stack_second([self.second_ids(processor, chat) for chat in chats], [number] * len(chats)),
        }


class InstructQFormerDecoder(ReadsQuestion, QFormerDecoder):
    """A decoder behind queries that read the question."""
