"""`data=drawn_signs`: what stands on two signs, and which is which? Words to be read, drawn on the spot, as TextVQA and OCRBench ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from lab.config import DataDial
from lab.data import DataSet, drawn_questions
from lab.data.drawn_questions import LARGER, Drawn, Question, chosen, font
from lab.data.scenes import RGB
from lab.records import Splits, Text

STREAM = 0x5160
SIZE = (96, 64)
COLOURS = ("red", "blue", "green", "purple")
WORDS = ("stop", "exit", "open", "shop", "taxi", "cafe", "slow", "keep", "ring", "push", "bus", "bank")


class Sign(NamedTuple):
    """tint: of its colour, red, green and blue. shift: of its left edge, in pixels."""

    word: str
    colour: str
    tint: tuple[int, int, int]
    shift: float


def compose(rng: np.random.Generator) -> Drawn:
    """Two signs of different words and colours, one above the other."""
    colours, words = chosen(rng, COLOURS, 2), chosen(rng, WORDS, 3)
    tints = [tuple((np.asarray(RGB[colour]) + rng.integers(-15, 16, 3)).clip(0, 255).tolist()) for colour in colours]
    signs = tuple(Sign(*one, float(rng.uniform(2, 26))) for one in zip(words, colours, tints, strict=False))
    asked, other = (signs[place] for place in rng.permutation(2).tolist())
    said = asked.word if rng.random() < 0.5 else other.word if rng.random() < 0.5 else words[2]
    return Drawn(signs, (
        Question(f"What does the {asked.colour} sign say?", Text((asked.word,)), "word"),
        Question(f"What colour is the sign that says {other.word}?", Text((other.colour,)), "colour"),
        Question(f"Does the {asked.colour} sign say {said}?", Text(("yes" if said == asked.word else "no",)), "yes or no"),
    ))  # fmt: skip


def draw(signs: Any) -> Image.Image:
    """The picture, RGB of `SIZE`."""
    image = Image.new("RGB", (SIZE[0] * LARGER, SIZE[1] * LARGER), (232, 234, 230))
    pen = ImageDraw.Draw(image)
    for row, sign in enumerate(signs):
        x0, y0, x1, y1 = (value * LARGER for value in (sign.shift, 4 + 30 * row, sign.shift + 66, 30 + 30 * row))
        pen.rounded_rectangle((x0, y0, x1, y1), radius=4 * LARGER, fill=sign.tint, outline="white", width=LARGER)
        pen.text(((x0 + x1) / 2, (y0 + y1) / 2), sign.word.upper(), fill="white", font=font(18), anchor="mm")
    return image.reduce(LARGER)


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Make the three splits. Raises `ConfigError`."""
    return drawn_questions.load(dial, STREAM, compose, draw, SIZE)


DATA_SET = DataSet(load, kind=Text.kind, asks="question")
