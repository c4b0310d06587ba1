"""Draw scenes: coloured shapes on a grid, and a record of what every cell holds.

A scene is 64 x 64 pixels, a 4 x 4 grid of cells of 16 pixels. A cell is empty or holds the centre of one
thing (colour x shape). Position, size, colour and background are jittered, so no two drawings of the same
contents are alike. Everything is a pure function of the generator passed in.

Cells are numbered 0..15 in reading order.
"""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

GRID = 4
CELL = 16
SIDE = GRID * CELL
NUM_CELLS = GRID * GRID

RGB = {
    "red": (214, 40, 40),
    "blue": (36, 84, 220),
    "green": (38, 158, 66),
    "yellow": (240, 208, 36),
    "purple": (142, 52, 176),
    "orange": (245, 130, 24),
}
SHAPES = ("circle", "square", "triangle", "diamond", "star")
COLOURS = tuple(RGB)
PLURALS = {shape: f"{shape}s" for shape in SHAPES}

ALIKE = 0.45
_OVERSAMPLING = 4  # drawn this many times larger, then averaged: the only anti-aliasing


@dataclass(frozen=True)
class Palette:
    """What a scene may hold: the words in use and the number of things, both ends included."""

    colours: tuple[str, ...]
    shapes: tuple[str, ...]
    fewest: int
    most: int


PALETTES = {
    "easy": Palette(COLOURS[:3], SHAPES[:3], 2, 4),
    "medium": Palette(COLOURS[:4], SHAPES[:4], 3, 6),
    "hard": Palette(COLOURS, SHAPES, 4, 9),
}


@dataclass(frozen=True, slots=True)
class Thing:
    """One coloured shape. x, y: its centre in pixels; radius: half its extent in pixels."""

    cell: int
    colour: str
    shape: str
    x: float
    y: float
    radius: float
    rgb: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Kind:
    """A colour, a shape, or both: what a statement speaks of. None stands for any."""

    colour: str | None
    shape: str | None

    def fits(self, thing: Thing) -> bool:
        return self.colour in (None, thing.colour) and self.shape in (None, thing.shape)

    @property
    def singular(self) -> str:
        """`red circle`, `circle` or `red object`."""
        return " ".join(word for word in (self.colour, self.shape or "object") if word)

    @property
    def plural(self) -> str:
        noun = PLURALS[self.shape] if self.shape else "objects"
        return f"{self.colour} {noun}" if self.colour else noun


@dataclass(frozen=True, slots=True)
class Scene:
    """What an image shows. background: its RGB."""

    things: tuple[Thing, ...]
    background: tuple[int, int, int]

    def count(self, kind: Kind) -> int:
        return sum(kind.fits(thing) for thing in self.things)

    def cells(self) -> list[Thing | None]:
        """What each of the 16 cells holds, in reading order."""
        held: list[Thing | None] = [None] * NUM_CELLS
        for thing in self.things:
            held[thing.cell] = thing
        return held


def place(rng: np.random.Generator, cell: int, colour: str, shape: str) -> Thing:
    """Put one thing in a cell, with jitter in place, size and colour."""
    radius = rng.uniform(5.0, 7.5)
    slack = 8.5 - radius  # lets a large thing cross its cell's border by half a pixel
    x, y = (CELL * (index + 0.5) for index in (cell % GRID, cell // GRID))
    dx, dy = rng.uniform(-slack, slack, 2)
    tint = rng.integers(-18, 19, 3)
    red, green, blue = np.clip(np.asarray(RGB[colour]) + tint, 0, 255).tolist()
    return Thing(cell, colour, shape, x + float(dx), y + float(dy), float(radius), (red, green, blue))


def compose(rng: np.random.Generator, palette: Palette, kinds: list[tuple[str, str]]) -> Scene:
    """Build a scene of the given (colour, shape) pairs, filled up to a random size with random ones."""
    number = int(rng.integers(palette.fewest, palette.most + 1))
    kinds = kinds[:number]
    while len(kinds) < number:
        colour = palette.colours[int(rng.integers(len(palette.colours)))]
        shape = palette.shapes[int(rng.integers(len(palette.shapes)))]
        kinds = [*kinds, (colour, shape)]
    cells = rng.permutation(NUM_CELLS)[:number].tolist()
    things = tuple(place(rng, cell, *kind) for cell, kind in zip(cells, kinds, strict=True))
    shade = rng.integers(205, 250, 1) + rng.integers(-5, 6, 3)
    red, green, blue = shade.tolist()
    return Scene(things, (red, green, blue))


def compose_pair(rng: np.random.Generator, palette: Palette) -> tuple[Scene, Scene]:
    """Build two scenes; each thing of the first has a like in the second with probability `ALIKE`."""
    first = compose(rng, palette, [])
    kept = [(thing.colour, thing.shape) for thing in first.things if rng.random() < ALIKE]
    pair = (first, compose(rng, palette, kept))
    return pair if rng.random() < 0.5 else (pair[1], pair[0])


_STAR = [
    (np.sin(turn * np.pi / 5) * length, -np.cos(turn * np.pi / 5) * length)
    for turn, length in zip(range(10), [1.08, 0.45] * 5, strict=True)
]
_OUTLINES = {
    "square": [(-0.86, -0.86), (0.86, -0.86), (0.86, 0.86), (-0.86, 0.86)],
    "triangle": [(0.0, -1.0), (1.0, 0.86), (-1.0, 0.86)],
    "diamond": [(0.0, -1.1), (0.8, 0.0), (0.0, 1.1), (-0.8, 0.0)],
    "star": _STAR,
}


def draw(scene: Scene) -> Image.Image:
    """Draw a scene as an RGB image of 64 x 64 pixels."""
    large = Image.new("RGB", (SIDE * _OVERSAMPLING, SIDE * _OVERSAMPLING), scene.background)
    pen = ImageDraw.Draw(large)
    for thing in scene.things:
        x, y, radius = (value * _OVERSAMPLING for value in (thing.x, thing.y, thing.radius))
        if thing.shape == "circle":
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=thing.rgb)
        else:
            pen.polygon([(x + a * radius, y + b * radius) for a, b in _OUTLINES[thing.shape]], fill=thing.rgb)
    return large.reduce(_OVERSAMPLING)


def encode_png(image: Image.Image) -> bytes:
    """Encode losslessly."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
