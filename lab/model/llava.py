"""LLaVA's architecture (Liu et al. 2023, 2310.03744): images of one size stand as tokens in the text of a chat, one for each patch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lab.errors import ModelError
from lab.model.fixed_size import FixedSize, counted, side_of
from lab.model.text_decoder import Placeholders
from lab.model.token_ids import joint_ids
from lab.records import Chat

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from lab.model import Vlm
    from lab.model.architecture import Positions
    from lab.model.turns import Span


IMAGE = "<image>"
"""What the chat template writes for an image."""
ASKED = Chat(({"role": "user", "content": [{"type": "text", "text": "?"}]},), "X", ())


class Llava(Placeholders, FixedSize):
    """`lab.model.architecture.Architecture` of such models: their image processor cuts the middle square out of every image."""

    in_prompt = True
    beside_grid = 0
    padding_side = "left"
    adds_special_tokens = True

    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> Any:
        """The checkpoint's own. Raises `ModelError` if it writes other image tokens than the model makes."""
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(where, **options)
        side = config.vision_config.image_size
        grid = self.square(config)
        if processor.patch_size is None or processor.vision_feature_select_strategy != config.vision_feature_select_strategy:
            raise ModelError(
                f"model.path={where}: its processor does not say how many tokens an image is. Set patch_size={config.vision_config.patch_size}, "
                f"vision_feature_select_strategy={config.vision_feature_select_strategy} and num_additional_image_tokens in processor_config.json."
            )
        made = processor._get_num_multimodal_tokens([(side, side)]).num_image_tokens[0]
        if made != grid[1] * grid[2] or side_of(processor.image_processor) != (side, side):
            raise ModelError(
                f"model.path={where}: its processor makes {made} tokens of images of {side_of(processor.image_processor)} pixels, and its tower "
                f"{grid[1] * grid[2]} of {side} x {side}. Correct crop_size in preprocessor_config.json, or num_additional_image_tokens in "
                "processor_config.json."
            )
        return processor

    def messages(self, chat: Chat) -> list[dict[str, Any]]:
        """Images first, without separators, which the template makes; of a conversation those that begin a turn. Others stand in its words."""
        order = in_place if chat.interleaved else images_first
        return [{**message, "content": order(message["content"])} for message in chat.messages]

    def frame(self, processor: Any, chat: Chat, numbered: bool) -> tuple[str, str]:
        """By the checkpoint's chat template; the answer ends as that ends a turn, or with the tokenizer's end where it does not.

        Raises `ModelError` if the template writes more than white space between the generation prompt and the answer.
        """
        prompt = self.render(processor, self.messages(chat), numbered)
        lead, end = self.around(processor, chat, prompt, numbered)
        return prompt, lead + chat.answer + (end or processor.tokenizer.eos_token)

    def around(self, processor: Any, chat: Chat, prompt: str, numbered: bool) -> tuple[str, str]:
        """What the chat template writes before and behind the answer, behind it without white space."""
        spoken = {"role": "assistant", "content": [{"type": "text", "text": chat.answer}]}
        whole = self.render(processor, [*self.messages(chat), spoken], numbered, generation=False)
        start = whole.find(chat.answer, len(prompt))
        lead = whole[len(prompt) : start]
        if not whole.startswith(prompt) or start < 0 or lead.strip():
            raise ModelError(
                "model: the checkpoint's chat template does not put the answer right after the generation prompt, but for white space, so "
                "training and scoring would not see the same text."
            )
        return lead, whole[start + len(chat.answer) :].strip()

    def lead(self, processor: Any) -> str:
        """White space that the chat template writes there."""
        return self.around(processor, ASKED, self.render(processor, self.messages(ASKED), False), False)[0]

    def ends_turns(self, processor: Any) -> bool:
        """LLaVA-1.5's own does not."""
        return bool(self.around(processor, ASKED, self.render(processor, self.messages(ASKED), False), False)[1])

    def ids(self, processor: Any, texts: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Together, as the processor's own call would have them."""
        return joint_ids(processor.tokenizer, texts)

    def offsets(self, processor: Any, prompt: str) -> list[Span]:
        """With the tokens that begin a text."""
        return processor.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]

    def positions(self, vlm: Vlm) -> Positions:
        """Counted from the first real token, reduced images as so many tokens."""
        return counted


def images_first(content: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The images of a message, then its words."""
    return [*(part for part in content if part["type"] == "image"), content[-1]]


def in_place(content: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The images that begin a message, without the line breaks that the template writes behind each, then its words with the others.

    The template would put all images first: behind the first word they are written as the placeholder that it writes for them.
    """
    begins: list[dict[str, Any]] = []
    words = ""
    for part in content:
        if part["type"] == "text":
            text = part["text"]
            words += text.removeprefix("\n") if begins and not words else text
        elif words:
            words += IMAGE
        else:
            begins.append(part)
    return [*begins, {"type": "text", "text": words}]
