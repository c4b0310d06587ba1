"""Conversations drawn at random, as hostile to masks as those that people have."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence

from test_families import picture

from lab.config import PromptDial
from lab.records import Picture, Sample, Text, Turn

PROMPT = PromptDial(name="conversation", template="{conversation}")
SAID = ("Say yes", "yes", "yes?", "yes", " assistant", "user", "What is left of the red one? Tell me in two lines.", "a\nb", "1 2 345", "No. ")
THOUGHT = "<think>\nIt is red.\n</think>\n\nyes"

shown: Callable[[int], Picture] = functools.cache(lambda seed: picture(seed, 64 + 32 * (seed % 3)))
"""A few pictures, each drawn once."""


def conversation(seed: int, least: int = 1, most: int = 5, media: bool = True, said: Sequence[str] = SAID) -> Sample:
    """One of so many answers: pictures at the beginning, in the middle or at the end of any turn of the user, or nowhere."""
    draw = random.Random(seed)
    images: list[Picture] = []
    turns = [Turn("system", ("Answer yes.",))] if draw.random() < 0.2 else []
    number = draw.randint(least, most)
    for place in range(number):
        parts: list[str | int] = [draw.choice(said)]
        for _ in range(draw.choice((0, 0, 1, 2)) if media else 0):
            parts.insert(draw.randint(0, len(parts)), len(images))
            images.append(shown(draw.randrange(6)))
        images, parts = in_order(images, parts)
        turns.append(Turn("user", tuple(parts)))
        if place < number - 1:
            turns.append(Turn("assistant", (draw.choice(said),), learned=True))
    text = "".join(part for part in turns[-1].parts if isinstance(part, str))
    return Sample(f"s{seed}", text, tuple(images), Text((draw.choice(said),)), f"set{seed}", f"q{seed}", turns=tuple(turns))


def in_order(images: list[Picture], parts: list[str | int]) -> tuple[list[Picture], list[str | int]]:
    """The places of a turn's pictures in the order in which they are named."""
    places = iter(sorted(part for part in parts if isinstance(part, int)))
    return images, [next(places) if isinstance(part, int) else part for part in parts]


def said_by(sample: Sample) -> list[str]:
    """What the assistant says in it and learns, the answer last."""
    return ["".join(map(str, turn.parts)) for turn in sample.turns if turn.learned] + [sample.answer.text]
