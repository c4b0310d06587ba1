"""What a model said of a sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lab.records.answers import Answer, Region


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model made of the options of a `Choice`.

    log_p: natural logarithm of the probability mass of each option over its spellings, under the full vocabulary.
    captured_mass: the sum of their probabilities, in [0, 1]. prediction: place of the option that is answered.
    """

    log_p: tuple[float, ...]
    captured_mass: float
    prediction: int

    @classmethod
    def of(cls, log_p: Sequence[float]) -> Scored:
        """What log p of each option comes to."""
        return cls(tuple(log_p), min(1.0, sum(map(math.exp, log_p))), max(range(len(log_p)), key=log_p.__getitem__))


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote as a `Text`, and what it made of the reference that is trained on.

    text: as written, without special tokens. post: the rule of `lab.answers.normalise` by which it will be read.
    tokens: how many were written, the end of the turn among them. ended: it was written before the limit of length.
    log_p, log_p_reference: natural logarithm of the probability of all tokens written, and of all `reference_tokens` of the
    reference with its end of the turn. turns_log_p, turns_tokens: the same of each learned turn of a conversation before it.
    """

    text: str
    post: str
    tokens: int
    ended: bool
    log_p: float
    log_p_reference: float
    reference_tokens: int
    turns_log_p: tuple[float, ...] = ()
    turns_tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Located:
    """What a model wrote as `Regions`, and the boxes that it reads as (`lab.answers.regions.read`).

    text: as written, with the tokens that stand for boxes. boxes: the format it was read by (`prompt.boxes`). status: ok, partial (some
    boxes lost), empty (an honest none) or failed (no box). scores: of each region the geometric mean probability of its tokens.
    A click has no box: its regions are points. tokens, ended, log_p: as of `Written`.
    """

    text: str
    boxes: str
    status: str
    regions: tuple[Region, ...]
    scores: tuple[float, ...]
    tokens: int
    ended: bool
    log_p: float


@dataclass(frozen=True, slots=True)
class Replied:
    """What a model wrote that tells no probabilities; fields as of `Written`."""

    text: str
    post: str
    ended: bool


Said = Scored | Written | Located | Replied


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of a run's predictions table.

    visual_tokens: tokens that each image cost, in the order shown; image_order as in `Chat`.
    """

    sample_id: str
    image_set: str
    question_group: str
    subset: str | None
    answer: Answer
    said: Said
    image_order: tuple[int, ...]
    visual_tokens: tuple[int, ...]
