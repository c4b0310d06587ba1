"""Draw single pictures of a few figures, of many sizes, for short answers and boxes.

Wider than `lab.data.scenes`: any place and size, turned figures, more colours, other picture sizes, tinted and noisy
grounds. No two figures' boxes overlap. Everything is a function of the generator passed in.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from lab.data.scenes import COLOURS as OLD_COLOURS
from lab.data.scenes import SHAPES as OLD_SHAPES

COLOURS = (*OLD_COLOURS, "black", "gray", "brown", "teal", "pink")
SHAPES = (*OLD_SHAPES, "rectangle")
# Several meanings of every word; a figure's colour lies between two of them, with jitter.
RGB = {
    "red": ((214, 40, 40), (250, 6, 6), (190, 16, 30)),
    "blue": ((36, 84, 220), (6, 6, 250), (24, 50, 170)),
    "green": ((38, 158, 66), (8, 245, 8), (10, 120, 20)),
    "yellow": ((240, 208, 36), (250, 248, 8), (225, 200, 10)),
    "purple": ((142, 52, 176), (128, 6, 128), (100, 30, 160)),
    "orange": ((245, 130, 24), (250, 160, 6), (235, 110, 10)),
    "black": ((6, 6, 6), (40, 40, 42), (16, 14, 20)),
    "gray": ((128, 128, 128), (100, 102, 104), (158, 156, 156)),
    "brown": ((160, 48, 40), (139, 69, 19), (110, 66, 40)),
    "teal": ((6, 126, 126), (20, 150, 146), (10, 104, 112)),
    "pink": ((250, 110, 180), (250, 150, 190), (240, 90, 150)),
}
NUMBERS = (1, 1, 1, 1, 2, 2, 3, 4)  # of figures in a picture
SIZES = ((48, 64), (64, 48), (80, 64), (64, 80), (96, 64), (64, 96), (80, 80), (70, 58), (96, 96), (112, 80))
COVERED, CLEAR = 0.3, 0.02  # shares of a cell: it shows a figure, it shows none; between them it is not asked

_OVERSAMPLING = 4
_OUTLINES = {
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "rectangle": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "triangle": ((0.0, -1.0), (1.0, 0.8), (-1.0, 0.8)),
    "diamond": ((0.0, -1.0), (0.72, 0.0), (0.0, 1.0), (-0.72, 0.0)),
    "star": tuple(
        (float(np.sin(turn * np.pi / 5) * length), float(-np.cos(turn * np.pi / 5) * length))
        for turn, length in zip(range(10), [1.0, 0.42] * 5, strict=True)
    ),
    "circle": tuple((float(np.cos(turn)), float(np.sin(turn))) for turn in np.linspace(0, 2 * np.pi, 40, endpoint=False)),
}
_TURN = {"square": 0.2, "rectangle": 0.2, "triangle": 0.5, "diamond": 0.15, "star": 0.6, "circle": 0.0}  # at most, radians


@dataclass(frozen=True, slots=True)
class Figure:
    """outline: [N, 2] in pixels; box: x0, y0, x1, y1 in pixels of the picture."""

    colour: str
    shape: str
    rgb: tuple[int, int, int]
    outline: tuple[tuple[float, float], ...]

    @property
    def box(self) -> tuple[float, float, float, float]:
        xs, ys = zip(*self.outline, strict=True)
        return min(xs), min(ys), max(xs), max(ys)

    @property
    def name(self) -> str:
        return f"{self.colour} {self.shape}"

    def thousandths(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """The box in thousandths of the picture's width and height, 0 to 999, as Qwen2-VL counts."""
        x0, y0, x1, y1 = (
            min(999, max(0, round(1000 * value / side))) for value, side in zip(self.box, (*size, *size), strict=True)
        )
        return x0, y0, x1, y1


@dataclass(frozen=True, slots=True)
class Picture:
    """size: width, height. noise: standard deviation of every pixel, seeded by `grain`."""

    size: tuple[int, int]
    ground: tuple[int, int, int]
    figures: tuple[Figure, ...]
    noise: float
    grain: int


def compose_picture(rng: np.random.Generator, size: tuple[int, int], numbers: Sequence[int] = NUMBERS, alike: float = 0.0) -> Picture:
    """Draw as many figures as one of `numbers`, drawn at random, says; fewer where there is no room.

    alike: the share of pictures whose figures all have one colour and one shape.
    """
    number = int(rng.choice(numbers))
    figures: list[Figure] = []
    kind = (_pick(rng, COLOURS), _pick(rng, SHAPES)) if alike and rng.random() < alike else None
    for _ in range(40):
        if len(figures) == number:
            break
        figure = _figure(rng, size, number, *(kind or (_pick(rng, COLOURS), _pick(rng, SHAPES))))
        if not any(_meet(figure.box, other.box) for other in figures):
            figures.append(figure)
    shade = int(rng.integers(205, 250)) + rng.integers(-14, 15, 3)
    red, green, blue = np.clip(shade, 0, 255).tolist()
    noise = float(rng.uniform(0, 10)) if rng.random() < 0.4 else 0.0
    return Picture(size, (red, green, blue), tuple(figures), noise, int(rng.integers(2**31)))


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _figure(rng: np.random.Generator, size: tuple[int, int], number: int, colour: str, shape: str) -> Figure:
    largest = 17.0 if number == 1 else 13.0 if number < 4 else 9.0
    half = np.full(2, rng.uniform(3.8, largest) * max(1.0, min(size) / 64))
    if shape == "rectangle":
        half = half * rng.permutation([1.0, float(rng.uniform(0.4, 0.75))])
        half = np.maximum(half, 3.0)
    elif shape in ("triangle", "diamond"):
        half = half * rng.uniform(0.85, 1.15, 2)
    angle = float(rng.uniform(-1, 1)) * _TURN[shape] * (rng.random() < 0.25)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    outline = (np.array(_OUTLINES[shape]) * half) @ turn.T
    low, high = outline.min(0), outline.max(0)
    outline = outline + rng.uniform(-low, np.maximum(np.array(size) - high, -low + 1e-3))
    first, second = (np.array(RGB[colour][int(k)]) for k in rng.integers(3, size=2))
    share = float(rng.random())
    rgb = np.clip(share * first + (1 - share) * second + rng.integers(-10, 11, 3), 0, 255).round().astype(int).tolist()
    return Figure(colour, shape, (rgb[0], rgb[1], rgb[2]), tuple((float(x), float(y)) for x, y in outline))


def _meet(a: tuple[float, ...], b: tuple[float, ...], gap: float = 1.0) -> bool:
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def draw_picture(picture: Picture) -> Image.Image:
    """Draw as RGB."""
    width, height = picture.size
    large = Image.new("RGB", (width * _OVERSAMPLING, height * _OVERSAMPLING), picture.ground)
    pen = ImageDraw.Draw(large)
    for figure in picture.figures:
        pen.polygon(_scaled(figure), fill=figure.rgb)
    small = large.reduce(_OVERSAMPLING)
    if not picture.noise:
        return small
    grain = np.random.default_rng(picture.grain).normal(0, picture.noise, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(small) + grain, 0, 255).astype(np.uint8))


def coverage(picture: Picture, grid: tuple[int, int]) -> np.ndarray:
    """The share of every cell (reading order) that every figure covers: float32 [figures, rows * columns]."""
    rows, columns = grid
    size = (picture.size[0] * _OVERSAMPLING, picture.size[1] * _OVERSAMPLING)
    shares = []
    for figure in picture.figures:
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).polygon(_scaled(figure), fill=255)
        shares.append(np.asarray(mask.resize((columns, rows), Image.Resampling.BOX), dtype=np.float32).ravel() / 255)
    return np.stack(shares)


@functools.lru_cache(maxsize=64)
def cells_of(picture: Picture, grid: tuple[int, int]) -> np.ndarray:
    """`shown` of a picture's `coverage`: every question about it asks for this."""
    return shown(coverage(picture, grid))


def shown(shares: np.ndarray) -> np.ndarray:
    """Which figure every cell shows: int64 [cells]; -1 none, -2 too little of one to ask.

    Every figure has a cell, but one whose best cell is another's best too may have none.
    """
    most = shares.max(0)
    cells = np.where(most >= COVERED, shares.argmax(0), np.where(most <= CLEAR, -1, -2))
    cells[shares.argmax(1)] = np.arange(len(shares))
    return cells


def _scaled(figure: Figure) -> Sequence[tuple[float, float]]:
    return [(x * _OVERSAMPLING, y * _OVERSAMPLING) for x, y in figure.outline]
