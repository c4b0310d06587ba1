"""Questions about pictures that are drawn when they are asked for: what `data=drawn_signs`, `drawn_charts` and `drawn_diagrams` share.

A picture has `PER_PICTURE` questions, which are one `image_set`, and is drawn from (stream, seed, split, number) alone: no picture is in two
splits, and a smaller split is a prefix of a larger one.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFont

from lab.config import DataDial
from lab.data.scenes import encode_png
from lab.data.splits import reject_unused_fields
from lab.errors import ConfigError
from lab.records import AnswerSpace, Choice, Picture, Sample, Splits, Text

DEFAULT_SIZES = {"train": 1200, "minival": 150, "dev": 600}
PER_PICTURE = 3
LARGER = 4
"""Pictures are drawn so many times as large, then averaged."""


class Question(NamedTuple):
    """subset: what it takes to answer it."""

    text: str
    answer: Text | Choice
    subset: str


class Drawn(NamedTuple):
    """What is in a picture, as `draw` takes it, and what is asked about it."""

    contents: object
    questions: tuple[Question, ...]


Compose = Callable[[np.random.Generator], Drawn]
Draw = Callable[[object], Image.Image]


def load(dial: DataDial, stream: int, compose: Compose, draw: Draw, size: tuple[int, int]) -> Splits:
    """Make the three splits. stream: first word of every seed. size: width and height. Raises `ConfigError` for a value that is not legal here."""
    reject_unused_fields(dial)
    if dial.seed < 0:
        raise ConfigError(f"data.seed={dial.seed}: legal values are 0 and above.")
    splits = {}
    for place, (name, usual) in enumerate(DEFAULT_SIZES.items()):
        number = usual if (given := getattr(dial, f"num_{name}")) is None else given
        if number <= 0:
            raise ConfigError(f"data.num_{name}={number}: legal values are 1 and above, or null for {usual}.")
        splits[name] = DrawnQuestions(dial.name, (stream, dial.seed, place), name, number, compose, draw, size)
    answers = AnswerSpace.of([splits["dev"].index(0).answer])
    return Splits(splits["train"], splits["minival"], splits["dev"], answers=answers)


class DrawnQuestions:
    """The questions of one split."""

    def __init__(
        self, name: str, seed: tuple[int, int, int], part: str, number: int, compose: Compose, draw: Draw, size: tuple[int, int]
    ) -> None:  # fmt: skip
        self.name, self.part, self.size = name, part, size
        self._seed, self._draw = seed, draw
        self._composed = functools.lru_cache(maxsize=8192)(compose_with(compose, seed))
        self.sample_ids = tuple(f"{part}-{place // PER_PICTURE}-q{place % PER_PICTURE}" for place in range(number))

    def __len__(self) -> int:
        return len(self.sample_ids)

    def index(self, index: int) -> Sample:
        place = range(len(self))[index]
        number = place // PER_PICTURE
        question = self._composed(number).questions[place % PER_PICTURE]
        picture = Picture(f"{self.name}-{'-'.join(map(str, self._seed[1:]))}#{number}/png", size=self.size)
        name = self.sample_ids[place]
        return Sample(name, question.text, (picture,), question.answer, f"{self.part}-{number}", name, question.subset)

    def __getitem__(self, index: int) -> Sample:
        sample = self.index(index)
        drawn = self._draw(self._composed(range(len(self))[index] // PER_PICTURE).contents)
        return replace(sample, images=(replace(sample.images[0], data=encode_png(drawn)),))


def compose_with(compose: Compose, seed: tuple[int, int, int]) -> Callable[[int], Drawn]:
    """What is in the picture of a number."""
    return lambda number: compose(np.random.default_rng([*seed, number]))


def chosen(rng: np.random.Generator, words: tuple[str, ...], number: int) -> list[str]:
    """So many of some words, each once, in any order."""
    return [words[place] for place in rng.permutation(len(words))[:number].tolist()]


def font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Letters so many pixels high, of a picture that is drawn `LARGER` times as large."""
    return ImageFont.load_default(height * LARGER)
