"""PaliGemma's architecture (Beyer et al. 2024, 2407.07726): images of one size stand before the text, and all of a prompt sees all of it.

The answer alone is read from left to right. A prompt is images, `<bos>`, text and a line break, as big_vision trained it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lab.errors import ModelError
from lab.model.fixed_size import FixedSize, counted
from lab.model.labels import IGNORED
from lab.model.text_decoder import Placeholders, tower_output
from lab.records import Batch, Chat, Media

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

    from lab.model import Vlm
    from lab.model.architecture import Positions

IMAGE = "<image>"


class PaliGemma(Placeholders, FixedSize):
    """`lab.model.architecture.Architecture` of such models."""

    in_prompt = True
    beside_grid = 0
    padding_side = "left"
    template = False
    causal = False

    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> Any:
        """The checkpoint's own. Raises `ModelError` if it makes images of another size or number of tokens than the tower."""
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(where, **options)
        self.require_size(where, processor.image_processor, config)
        _, height, width = self.square(config)
        if processor.image_seq_length != height * width:
            raise ModelError(
                f"model.path={where}: its processor writes {processor.image_seq_length} tokens an image, and its tower makes {height * width}. "
                "Correct image_seq_length in preprocessor_config.json."
            )
        return processor

    def frame(self, processor: Any, chat: Chat, numbered: bool) -> tuple[str, str]:
        """As the processor writes them; the answer ends with the tokenizer's end."""
        words = processor.tokenizer
        return f"{IMAGE * len(chat.image_order)}{words.bos_token}{self.question(chat)}\n", chat.answer + words.eos_token

    def messages(self, chat: Chat) -> None:
        """None: it has no chat template."""

    def plain(self, processor: Any, prompts: Sequence[str], chats: Sequence[Chat], images: Sequence[Image]) -> dict[str, Any]:
        """By one call of the processor, which puts `<bos>`, the line break and the end in by itself."""
        import torch

        framed = [self.frame(processor, chat, False)[0] for chat in chats]
        answers = [whole[len(prompt) :].removesuffix(processor.tokenizer.eos_token) for whole, prompt in zip(prompts, framed, strict=True)]
        left = iter(images)
        shown = [[next(left) for _ in chat.image_order] for chat in chats]
        texts = [IMAGE * len(chat.image_order) + self.question(chat) for chat in chats]
        made = processor(text=texts, images=shown, suffix=answers if any(answers) else None, padding=True, return_tensors="np")
        return {name: torch.as_tensor(value) for name, value in made.items() if name != "labels"}

    def positions(self, vlm: Vlm) -> Positions:
        """Counted from one, as the model counts by itself."""
        return from_one

    def seen(self, output: ModelOutput, media: Media) -> dict[str, ModelOutput]:
        """Of all images in one tensor."""
        import torch

        return {"image": tower_output(torch.cat(tuple(output["pooler_output"])))}

    def inputs(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """With the type of each token: 1 of an answer's, which see what stands before them alone."""
        import torch

        types = torch.zeros_like(batch.prompt.ids)
        if batch.target.labels is not None:
            assert batch.prompt.mask is not None
            number = (batch.target.labels != IGNORED).sum(dim=1, keepdim=True)
            places = batch.prompt.mask.cumsum(dim=1)
            types = (places > places[:, -1:] - number).long()
        return super().inputs(vlm, batch) | {"token_type_ids": types}


def from_one(*given: Any, **named: Any) -> torch.Tensor:
    """Positions int64 [B, T] of real tokens from 1; padding stands at 1 too. given, named: as of `counted`."""
    return counted(*given, **named) + 1
