"""Texts as the ids of their tokens, several in one call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lab.errors import ModelError


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
