"""A question with its images and its answer, and the messages that it is put in."""

from __future__ import annotations

from dataclasses import dataclass

from lab.records.answers import Answer
from lab.records.media import Medium


@dataclass(frozen=True, slots=True)
class Turn:
    """One message before the answer.

    role: system, user or assistant. parts: what it holds in order, texts and places in `Sample.images`. learned: of the assistant, its
    tokens and the end of the turn are under loss in training, as the answer's are.
    """

    role: str
    parts: tuple[str | int, ...]
    learned: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about a few images.

    images: pictures and clips, in the order that the question names them.
    sample_id: unique in its split.
    image_set: samples with one value share images, or a group of a user's file; every interval resamples these clusters.
    question_group: samples with one value share a question; consistency is all-correct per group.
    subset: a part of the split worth its own row (a statement family; balanced / unbalanced), or None.
    turns: of a conversation, all messages before the answer, the last of them the user's, whose words are `text`; else ().
    """

    sample_id: str
    text: str
    images: tuple[Medium, ...]
    answer: Answer
    image_set: str
    question_group: str
    subset: str | None = None
    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages for `apply_chat_template`, and the answer that follows them.

    messages: Transformers' own form, images as `{"type": "image"}` in reading order.
    image_order: the index in `Sample.images` of each image as shown.
    learned: places in `messages` of what the assistant has said that is learned too. interleaved: images stand among the words of a
    message, in their place; else before them.
    """

    messages: tuple[dict, ...]
    answer: str
    image_order: tuple[int, ...]
    learned: tuple[int, ...] = ()
    interleaved: bool = False
