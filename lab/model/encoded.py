"""What a sample becomes on its way to a batch: messages and ids, a tokenised prompt, an example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lab.model.turns import Span
from lab.records import Chat

if TYPE_CHECKING:
    import numpy as np
    import torch


class Framed(NamedTuple):
    """A sample as messages, the texts of prompt and answer, and their ids."""

    chat: Chat
    texts: tuple[str, str]
    prompt: list[int]
    answer: list[int]


@dataclass(frozen=True, slots=True)
class TokenizedPrompt:
    """A tokenised prompt, one placeholder a picture and for each run of tokens of a clip, and its answer with the end-of-turn token. int64.

    second_ids: of the prompt by a second tokenizer, of models that have one. learned: (first, behind the last) of its tokens that are
    learned too; the last of each is labelled with the end of turn. steps: of each image as shown the seconds from one temporal patch of
    a clip to the next, 0 of a picture; () where none is a clip. shares: of an answer that annotators voted on, by a model that chooses among
    labels, `lab.model.labels.Labels.shares`; else ().
    """

    prompt_ids: np.ndarray
    answer_ids: np.ndarray
    image_order: tuple[int, ...]
    second_ids: Sequence[int] = ()
    learned: tuple[Span, ...] = ()
    steps: tuple[float, ...] = ()
    shares: tuple[tuple[int, float], ...] = ()

    @property
    def targets(self) -> int:
        """How many tokens are learned, those of the answer among them."""
        return len(self.answer_ids) + sum(stop - start for start, stop in self.learned)


@dataclass(frozen=True, slots=True)
class Example:
    """One sample ready for a batch: text, and for each image its patch grid with pixels or with features.

    grids: [(t, h, w)] in patches. pixels: float32, as the family's tower takes them. features: [tokens, hidden] each.
    """

    sample_id: str
    text: TokenizedPrompt
    grids: tuple[tuple[int, int, int], ...]
    pixels: tuple[torch.Tensor, ...] = ()
    features: tuple[torch.Tensor, ...] = ()
