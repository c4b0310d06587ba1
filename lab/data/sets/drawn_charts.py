"""`data=drawn_charts`: which bar is highest, is it higher than another, what is its value? Bar charts drawn on the spot, as ChartQA asks."""

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

STREAM = 0xC4A27
SIZE = (80, 64)
COLOURS = ("red", "blue", "green", "yellow", "purple", "orange")
MOST = 9
"""The highest value; a bar of it ends below the upper edge."""


class Bar(NamedTuple):
    colour: str
    value: int


def compose(rng: np.random.Generator) -> Drawn:
    """Three or four bars of different colours and values."""
    number = int(rng.integers(3, 5))
    values = (1 + rng.permutation(MOST)[:number]).tolist()
    bars = tuple(Bar(*one) for one in zip(chosen(rng, COLOURS, number), values, strict=True))
    one, other = (bars[place] for place in rng.permutation(number)[:2].tolist())
    read = bars[int(rng.integers(number))]
    return Drawn(bars, (
        Question("What colour is the highest bar?", Text((max(bars, key=lambda bar: bar.value).colour,)), "colour"),
        Question(f"Is the {one.colour} bar higher than the {other.colour} bar?", Text(("yes" if one.value > other.value else "no",)), "yes or no"),
        Question(f"What is the value of the {read.colour} bar?", Text((str(read.value),)), "value"),
    ))  # fmt: skip


def draw(bars: Any) -> Image.Image:
    """The picture, RGB of `SIZE`: an axis, the bars, and above each its value."""
    image = Image.new("RGB", (SIZE[0] * LARGER, SIZE[1] * LARGER), "white")
    pen = ImageDraw.Draw(image)
    pen.line([(6 * LARGER, 4 * LARGER), (6 * LARGER, 60 * LARGER), (78 * LARGER, 60 * LARGER)], fill="black", width=LARGER)
    step = 70 / len(bars)
    for place, bar in enumerate(bars):
        middle, top = 8 + step * (place + 0.5), 60 - 5 * bar.value
        box = tuple(LARGER * value for value in (middle - 0.32 * step, top, middle + 0.32 * step, 60))
        pen.rectangle(box, fill=RGB[bar.colour])
        pen.text((middle * LARGER, (top - 1) * LARGER), str(bar.value), fill="black", font=font(10), anchor="ms")
    return image.reduce(LARGER)


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Make the three splits. Raises `ConfigError`."""
    return drawn_questions.load(dial, STREAM, compose, draw, SIZE)


DATA_SET = DataSet(load, kind=Text.kind, asks="question")
