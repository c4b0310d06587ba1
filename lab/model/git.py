"""GIT's architecture (Wang et al. 2022, 2205.14100): one decoder reads an image's states and, behind them, words of its own positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from lab.errors import ModelError
from lab.model.fixed_size import FixedSize, counted
from lab.model.text_decoder import TextDecoder, tower_output
from lab.records import Batch, Chat

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

    from lab.model import Vlm
    from lab.model.architecture import Positions


class Git(FixedSize, TextDecoder):
    """`lab.model.architecture.Architecture` of such models. An image has no token in the prompt; a prompt without one reads zeros."""

    padding_side = "left"
    most_images: int | None = 1

    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> Any:
        """The checkpoint's own. Raises `ModelError` for images of another size than the tower takes, and for a checkpoint made for video."""
        from transformers import AutoProcessor

        if config.num_image_with_embedding is not None:
            raise ModelError(
                f"model.path={where}: it was made for {config.num_image_with_embedding} frames of a video at once. Take one made for a single "
                "image, such as microsoft/git-base-vqav2."
            )
        processor = AutoProcessor.from_pretrained(where, **options)
        self.require_size(where, processor.image_processor, config)
        return processor

    def repair(self, model: Any) -> None:
        """Let it take an image's states in place of pixels, of which its forward would make them each time."""
        model.git.image_encoder.forward = partial(states_or_seen, model.git.image_encoder.forward)

    def frame(self, processor: Any, chat: Chat, numbered: bool) -> tuple[str, str]:
        """The question behind the tokenizer's first token, the answer and its last: the processor would put that behind the question too."""
        return processor.tokenizer.cls_token + self.question(chat), f" {chat.answer}{processor.tokenizer.sep_token}"

    def positions(self, vlm: Vlm) -> Positions:
        """Words are counted from the first that is real; images have their own."""
        return counted

    def see(self, vlm: Vlm, pixels: dict[str, torch.Tensor]) -> ModelOutput:
        """States of the tower of each image, class token first, before the projection."""
        return tower_output(tuple(vlm.base_model.git.image_encoder(**pixels).last_hidden_state))

    def reader(self, vlm: Vlm) -> torch.nn.Module:
        """The whole model."""
        return vlm.model

    def inputs(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """Words, and the states of each sample's image as pictures of one channel."""
        import torch

        media = batch.media
        features = iter((media.features if media.pixels is None else vlm.encode_images(media.pixels)) or ())
        config, device = vlm.base_model.config.vision_config, batch.prompt.ids.device
        height, width = self.square(vlm.base_model.config)[1:]
        nothing = torch.zeros(height * width + 1, config.hidden_size, dtype=vlm.dtype, device=device)
        states = torch.stack([next(features).to(nothing.dtype) if number else nothing for number in media.counts])
        return self.words(batch.prompt) | {"pixel_values": states[:, None]}

    def end_ids(self, vlm: Vlm) -> list[int]:
        """[SEP]."""
        return [vlm.processor.tokenizer.sep_token_id]

    def plain(self, processor: Any, prompts: Sequence[str], chats: Sequence[Chat], images: Sequence[Image]) -> dict[str, Any]:
        """With positions, as padding on the left would move the model's own."""
        made = processor.tokenizer(list(prompts), add_special_tokens=False, padding=True, return_tensors="pt", return_token_type_ids=False)
        places = (made["attention_mask"].cumsum(1) - 1).clamp(min=0)
        return {**made, "position_ids": places, **processor.image_processor(images=list(images), return_tensors="pt")}


def states_or_seen(forward: Callable[..., Any], pixel_values: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
    """What a tower makes of pixels [B, 3, H, W]; of states [B, 1, tokens, width] these."""
    from transformers.modeling_outputs import BaseModelOutput

    if pixel_values.shape[1] == 1:
        return BaseModelOutput(last_hidden_state=pixel_values[:, 0])
    return forward(pixel_values, *args, **kwargs)
