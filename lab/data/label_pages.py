"""Draw label-like pages: tables of numbers among text, barcodes, marks and clutter, some of them turned a little.

A layout says where blocks lie on a page and how its tables look; a page of it has other words, numbers, colours, a shift, and a turn.
Everything is a pure function of the generator passed in. Boxes are x0, y0, x1, y1 in pixels of the page.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = (128, 128)
"""Width and height of pages: as large as the shipped tiny base sees them."""

TABLES, TABLE_SHARES = (0, 1, 2, 3), (0.15, 0.45, 0.25, 0.15)
OTHERS = ("text", "text", "text", "title", "number", "barcode", "mark", "mark")
EXTENTS = {
    "text": ((24, 10), (60, 34)),
    "title": ((24, 8), (60, 12)),
    "number": ((24, 8), (60, 12)),
    "barcode": ((22, 10), (44, 24)),
    "mark": ((8, 8), (22, 22)),
}
"""Least and most width and height in pixels."""
WORDS = (
    "energy", "fat", "sugar", "salt", "fibre", "protein", "water", "starch", "iron", "zinc", "whole", "grain", "milk", "soy",
    "oats", "best", "before", "store", "cool", "dry", "keep", "shake", "well", "made", "with", "serve", "pack", "net", "weight",
    "batch", "lot", "per", "100g", "portion", "total", "of", "which", "new", "fresh",
)  # fmt: skip
STYLES = ("grid", "rules", "striped", "framed")
MARGIN, GAP, LARGER = 3, 3, 3  # pixels; drawn LARGER times as large, then averaged

Box = tuple[float, float, float, float]
Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Block:
    """One part of a layout. rows, columns, style: of a table."""

    kind: str
    box: Box
    rows: int = 0
    columns: int = 0
    style: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """size: width and height of its pages. blocks: none meets another."""

    size: tuple[int, int]
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a layout. shift: of all blocks, in pixels; angle: then turned counterclockwise by so many degrees.

    seed: draws words, numbers, colours and noise.
    """

    layout: Layout
    shift: tuple[float, float]
    angle: float
    seed: int

    @property
    def tables(self) -> tuple[Box, ...]:
        """The boxes of the tables as the picture shows them, in reading order."""
        boxes = (self.turned(self.moved(block.box)) for block in self.layout.blocks if block.kind == "table")
        return tuple(sorted(boxes, key=lambda box: (box[1], box[0])))

    def moved(self, box: Box) -> Box:
        (x, y), (x0, y0, x1, y1) = self.shift, box
        return x0 + x, y0 + y, x1 + x, y1 + y

    def turned(self, box: Box) -> Box:
        """The box around a box turned about the page's centre, cut at the page's edges."""
        centre, (x0, y0, x1, y1) = np.array(self.layout.size) / 2, box
        cos, sin = np.cos(np.radians(self.angle)), np.sin(np.radians(self.angle))
        corners = (np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]) - centre) @ np.array([[cos, -sin], [sin, cos]]) + centre
        (left, top), (right, bottom) = np.maximum(corners.min(0), 0).tolist(), np.minimum(corners.max(0), self.layout.size).tolist()
        return left, top, right, bottom


def compose_layout(rng: np.random.Generator) -> Layout:
    """Draw a layout of zero to three tables on pages of `SIZE`."""
    wanted = int(rng.choice(TABLES, p=TABLE_SHARES))
    blocks: list[Block] = []
    for _ in range(60 * wanted):
        if len(blocks) == wanted:
            break
        share = 0.8 if wanted == 1 else 0.55
        extent = (float(rng.uniform(30, share * SIZE[0])), float(rng.uniform(24, share * SIZE[1])))
        rows, columns, style = max(3, round(extent[1] / 8)), int(rng.integers(2, 4)), STYLES[int(rng.integers(len(STYLES)))]
        table = Block("table", _place(rng, extent), rows, columns, style)
        if _free(table.box, blocks):
            blocks.append(table)
    for kind in rng.permutation(OTHERS).tolist():
        for _ in range(8):
            block = Block(kind, _place(rng, tuple(rng.uniform(*EXTENTS[kind]).tolist())))
            if _free(block.box, blocks):
                blocks.append(block)
                break
    return Layout(SIZE, tuple(blocks))


def _place(rng: np.random.Generator, extent: tuple[float, ...]) -> Box:
    x, y = (float(rng.uniform(MARGIN, side - MARGIN - length)) for side, length in zip(SIZE, extent, strict=True))
    return x, y, x + extent[0], y + extent[1]


def _free(box: Box, blocks: list[Block]) -> bool:
    return not any(
        box[0] < other.box[2] + GAP and other.box[0] < box[2] + GAP and box[1] < other.box[3] + GAP and other.box[1] < box[3] + GAP
        for other in blocks
    )


def compose_page(rng: np.random.Generator, layout: Layout) -> Page:
    """Draw a page's shift, turn and seed."""
    x, y = rng.uniform(-MARGIN, MARGIN, 2).tolist()
    angle = float(rng.uniform(-6, 6)) if rng.random() < 0.5 else 0.0
    return Page(layout, (x, y), angle, int(rng.integers(2**31)))


def draw_page(page: Page) -> Image.Image:
    """Draw as RGB."""
    rng, (width, height) = np.random.default_rng(page.seed), page.layout.size
    paper, ink = _paper_and_ink(rng)
    large = Image.new("RGB", (width * LARGER, height * LARGER), paper)
    pen = ImageDraw.Draw(large)
    for block in page.layout.blocks:
        x0, y0, x1, y1 = (LARGER * value for value in page.moved(block.box))
        if block.kind == "table":
            _draw_table(pen, rng, block, (x0, y0, x1, y1), paper, ink)
        else:
            _DRAW[block.kind](pen, rng, (x0, y0, x1, y1), ink)
    turned = large.rotate(page.angle, Image.Resampling.BILINEAR, fillcolor=paper) if page.angle else large
    small = np.asarray(turned.reduce(LARGER)) + rng.normal(0, float(rng.uniform(0, 6)), (height, width, 3))
    return Image.fromarray(np.clip(small, 0, 255).astype(np.uint8))


def _paper_and_ink(rng: np.random.Generator) -> tuple[Colour, Colour]:
    paper, ink = (rng.integers(low, high) + rng.integers(-12, 13, 3) for low, high in ((218, 244), (14, 70)))
    return _colour(paper), _colour(ink)


def _colour(values: np.ndarray) -> Colour:
    red, green, blue = np.clip(values, 0, 255).astype(int).tolist()
    return red, green, blue


@functools.cache
def _font(height: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(height)


def _draw_table(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, block: Block, box: Box, paper: Colour, ink: Colour
) -> None:
    """A header, rows of a name and numbers, and lines by the table's style."""
    x0, y0, x1, y1 = box
    shade = _colour(np.array(paper) - 34)
    heads = np.linspace(y0, y1, block.rows + 1)
    first = x0 + (x1 - x0) * (0.5 if block.columns == 2 else 0.42)
    columns = [x0, *np.linspace(first, x1, block.columns).tolist()]
    step = (y1 - y0) / block.rows
    font = _font(max(8, round(0.62 * step)))
    for row, top in enumerate(heads[:-1].tolist()):
        if row == 0 or (block.style == "striped" and row % 2 == 0):
            pen.rectangle((x0, top, x1, top + step), fill=ink if row == 0 and block.style in ("grid", "framed") else shade)
        colour = paper if row == 0 and block.style in ("grid", "framed") else ink
        pen.text((x0 + 4, top + step / 2), _word(rng), fill=colour, font=font, anchor="lm")
        for right in columns[2:]:
            pen.text((right - 4, top + step / 2), f"{rng.uniform(0, 90):.1f}", fill=colour, font=font, anchor="rm")
    if block.style in ("grid", "rules"):
        for y in heads.tolist():
            pen.line((x0, y, x1, y), fill=ink, width=2)
    if block.style == "grid":
        for x in columns:
            pen.line((x, y0, x, y1), fill=ink, width=2)
    if block.style != "striped":
        pen.rectangle((x0, y0, x1, y1), outline=ink, width=3)


def _word(rng: np.random.Generator) -> str:
    return WORDS[int(rng.integers(len(WORDS)))]


def _draw_text(pen: ImageDraw.ImageDraw, rng: np.random.Generator, box: Box, ink: Colour) -> None:
    """Lines of words, ragged on the right."""
    x0, y0, x1, y1 = box
    font = _font(int(rng.integers(14, 19)))
    for y in np.arange(y0 + 8, y1, 19).tolist():
        line, end = "", x1 - float(rng.uniform(0, 0.3)) * (x1 - x0)
        while True:
            longer = f"{line} {_word(rng)}".strip()
            if x0 + font.getlength(longer) > end:
                break
            line = longer
        pen.text((x0, y), line, fill=ink, font=font, anchor="lm")


def _draw_line(pen: ImageDraw.ImageDraw, rng: np.random.Generator, box: Box, ink: Colour) -> None:
    """One large coloured word."""
    x0, y0, _, y1 = box
    word, colour = _word(rng).upper(), _colour(rng.integers(0, 150, 3))
    pen.text((x0, (y0 + y1) / 2), word, fill=colour, font=_font(round(0.9 * (y1 - y0))), anchor="lm")


def _draw_number(pen: ImageDraw.ImageDraw, rng: np.random.Generator, box: Box, ink: Colour) -> None:
    """One large number."""
    x0, y0, _, y1 = box
    pen.text((x0, (y0 + y1) / 2), f"{rng.uniform(0, 990):.2f}", fill=ink, font=_font(round(0.9 * (y1 - y0))), anchor="lm")


def _draw_barcode(pen: ImageDraw.ImageDraw, rng: np.random.Generator, box: Box, ink: Colour) -> None:
    """Black bars on white."""
    x0, y0, x1, y1 = box
    pen.rectangle((x0, y0, x1, y1), fill=(255, 255, 255))
    x = x0 + 4
    while x < x1 - 6:
        width = int(rng.integers(2, 6))
        pen.rectangle((x, y0 + 3, x + width - 1, y1 - 3), fill=(10, 10, 10))
        x += width + int(rng.integers(2, 6))


def _draw_mark(pen: ImageDraw.ImageDraw, rng: np.random.Generator, box: Box, ink: Colour) -> None:
    """A coloured disc, frame or bar."""
    x0, y0, x1, y1 = box
    fill = _colour(rng.integers(20, 230, 3))
    draw = (pen.ellipse, pen.rectangle, pen.rounded_rectangle)[int(rng.integers(3))]
    draw((x0, y0, x1, y1), fill=fill if rng.random() < 0.6 else None, outline=fill, width=3)


_DRAW = {"text": _draw_text, "title": _draw_line, "number": _draw_number, "barcode": _draw_barcode, "mark": _draw_mark}
