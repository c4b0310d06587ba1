"""Defaults of an `Architecture`: what is alike wherever one tokenizer and one call of the processor make the inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lab.errors import ModelError
from lab.model.architecture import Grid
from lab.model.turns import Span
from lab.records import Chat, Media

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

    from lab.model.clips import Clips


class OneTokenizer:
    """What of an `Architecture` is alike wherever one tokenizer and one call of the processor make the inputs, and nothing must be mended."""

    fewest_images: int = 0
    most_images: int | None = None
    again: tuple[str, ...] = ()
    reads_question = False
    position_axes = 1
    template = False
    causal = True
    tiled = False
    adds_special_tokens = False

    @property
    def clips(self) -> Clips | None:
        """It takes pictures alone."""
        return None

    def repair(self, model: Any) -> None:
        """Nothing."""

    def learned(self, processor: Any, chat: Chat, numbered: bool, prompt: str, answer: str) -> tuple[Span, ...]:
        """None: it has no chat template."""
        return ()

    def lead(self, processor: Any) -> str:
        """Nothing."""
        return ""

    def question(self, chat: Chat) -> str:
        """Its texts, a line each."""
        return "\n".join(message["content"][-1]["text"] for message in chat.messages)

    def messages(self, chat: Chat) -> list[dict[str, Any]] | None:
        """None: it has no chat template."""
        return None

    def plain(self, processor: Any, prompts: Sequence[str], chats: Sequence[Chat], images: Sequence[Image]) -> Any:
        """By one call of the processor."""
        return processor(text=list(prompts), images=list(images) or None, padding=True, return_tensors="pt")

    def ids(self, processor: Any, texts: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
        """Each by itself: the texts write their special tokens."""
        flat = tokenized(processor.tokenizer, [text for pair in texts for text in pair])
        return list(zip(flat[::2], flat[1::2], strict=True))

    def resized(self, processor: Any, config: PretrainedConfig, size: tuple[int, int]) -> tuple[int, int] | None:
        """None: the tower has a size of its own."""
        return None

    def seen(self, output: ModelOutput, media: Media) -> dict[str, ModelOutput]:
        """All are pictures."""
        return {"image": output}

    def written(self, processor: Any, size: tuple[int, int]) -> str | None:
        """None: the placeholder that the chat template writes."""
        return None

    def tiles(self, grid: Grid) -> int:
        """One."""
        return 1

    def second_ids(self, processor: Any, chat: Chat) -> list[int]:
        """None: there is one tokenizer."""
        return []

    def stack_second(self, rows: Sequence[Sequence[int]], counts: Sequence[int]) -> dict[str, torch.Tensor]:
        """Nothing."""
        return {}


def tokenized(tokenizer: Any, texts: Sequence[str], special: bool = False) -> list[list[int]]:
    """The ids of several texts in one call, equal ones tokenised once. special: with what the tokenizer itself puts around a text."""
    different = list(dict.fromkeys(texts))
    ids = dict(zip(different, tokenizer(different, add_special_tokens=special)["input_ids"], strict=True)) if different else {}
    return [ids[text] for text in texts]


def joint_ids(tokenizer: Any, texts: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """The ids of each prompt, as the tokenizer itself begins it, and of what it makes of the answer behind it.

    SentencePiece writes a word otherwise alone than behind another. Raises `ModelError` if the two texts share a token.
    """
    flat = tokenized(tokenizer, [text for prompt, answer in texts for text in (prompt, prompt + answer)], special=True)
    found = []
    for before, whole in zip(flat[::2], flat[1::2], strict=True):
        if whole[: len(before)] != before:
            raise ModelError("model: the checkpoint's tokenizer joins the end of a prompt and its answer in one token, so neither stands alone.")
        found.append((before, whole[len(before) :]))
    return found
