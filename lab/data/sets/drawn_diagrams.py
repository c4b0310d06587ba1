"""`data=drawn_diagrams`: where does an arrow lead? Diagrams of three things drawn on the spot, with three options each, as ScienceQA asks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from lab.config import DataDial
from lab.data import DataSet, drawn_questions
from lab.data.drawn_questions import LARGER, Drawn, Question, chosen
from lab.data.scenes import PALETTES, SIDE, Scene, Thing, place
from lab.data.scenes import draw as draw_scene
from lab.records import Choice, Splits

STREAM = 0xD1A6
PALETTE = PALETTES["medium"]
CELLS = (0, 3, 12, 15)
"""Of the grid of a scene: its corners."""
LETTERS = ("A", "B", "C")
INSTRUCTION = "Answer with the option's letter from the given choices directly."
AWAY = 12.0
"""Pixels between the middle of a thing and the end of an arrow."""


def compose(rng: np.random.Generator) -> Drawn:
    """Three things in corners; an arrow leads from the first to the second, and one from that to the third."""
    cells = rng.permutation(CELLS)[:3].tolist()
    kinds = zip(chosen(rng, PALETTE.colours, 3), chosen(rng, PALETTE.shapes, 3), strict=True)
    first, second, third = things = tuple(place(rng, cell, *kind) for cell, kind in zip(cells, kinds, strict=True))
    return Drawn(Scene(things, (240, 240, 238)), (
        asked(rng, things, f"The arrow from the {named(first)} leads to which of these?", second, "leads to"),
        asked(rng, things, f"The arrow to the {named(third)} comes from which of these?", second, "comes from"),
        asked(rng, things, "Which of these has no arrow to it?", first, "first"),
    ))  # fmt: skip


def named(thing: Thing) -> str:
    return f"{thing.colour} {thing.shape}"


def asked(rng: np.random.Generator, things: tuple[Thing, ...], question: str, right: Thing, subset: str) -> Question:
    """A question with the things as its options, in any order."""
    options = [things[at] for at in rng.permutation(len(things)).tolist()]
    lines = [question, *(f"{letter}. {named(thing)}" for letter, thing in zip(LETTERS, options, strict=True)), INSTRUCTION]
    return Question("\n".join(lines), Choice(options.index(right), LETTERS), subset)


def draw(scene: Any) -> Image.Image:
    """The picture, RGB, 64 x 64 pixels."""
    image = draw_scene(scene).resize((SIDE * LARGER, SIDE * LARGER), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for start, end in zip(scene.things, scene.things[1:], strict=False):
        turn = math.atan2(end.y - start.y, end.x - start.x)
        tail, head = ((one.x + sign * AWAY * math.cos(turn), one.y + sign * AWAY * math.sin(turn)) for one, sign in ((start, 1), (end, -1)))
        barbs = [(head[0] - 5 * math.cos(turn + side), head[1] - 5 * math.sin(turn + side)) for side in (-0.5, 0.5)]
        line, tip = ([(x * LARGER, y * LARGER) for x, y in points] for points in ([tail, head], [head, *barbs]))
        pen.line(line, fill="black", width=LARGER + 2)
        pen.polygon(tip, fill="black")
    return image.reduce(LARGER)


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Make the three splits. Raises `ConfigError`."""
    return drawn_questions.load(dial, STREAM, compose, draw, (SIDE, SIDE))


DATA_SET = DataSet(load, kind=Choice.kind, asks="question")
