"""The labels that a checkpoint chooses among in place of writing, as a vocabulary in which every answer is one word."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from lab.model.batching import IGNORED

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class Labels:
    """`config.id2label`. An answer is a label that it equals, or equals in lower case."""

    def __init__(self, config: PretrainedConfig) -> None:
        self.names = [config.id2label[i] for i in range(config.num_labels)]

    @cached_property
    def places(self) -> dict[str, int]:
        """The first label of each spelling, an exact one before one in lower case."""
        backwards = list(enumerate(self.names))[::-1]
        return {name.lower(): i for i, name in backwards} | {name: i for i, name in backwards}

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """The label that a text is, as a tokenizer would give it; none of no label."""
        stripped = text.strip()
        found = next((self.places[each] for each in (stripped, stripped.lower()) if each in self.places), None)
        return [] if found is None else [found]

    def taught(self, answer: str) -> list[int]:
        """What is learned of an answer: its label, or that there is none."""
        return self.encode(answer) or [IGNORED]

    def decode(self, row: Sequence[int]) -> str:
        """The label in a row of one; empty where there is none."""
        return "".join(self.names[place] for place in map(int, row) if place != IGNORED)
