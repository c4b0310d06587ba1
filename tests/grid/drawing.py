"""The checkpoints and data sets of the grid, drawn in a folder: real classes and official layouts, all of it small."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import checkpoints
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from grid.dimensions import FAMILIES, family_of, options

SHAPES = ((96, 64), (64, 48), (64, 96))
"""Width and height [px]: more tokens than `BUDGET`, in grids that differ."""


def picture(seed: str, size: tuple[int, int]) -> Image.Image:
    """A few discs on a ground."""
    rng = random.Random(seed)
    made = Image.new("RGB", size, tuple(rng.randrange(256) for _ in range(3)))
    pen = ImageDraw.Draw(made)
    for _ in range(4):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        pen.ellipse([x, y, x + 20, y + 20], fill=tuple(rng.randrange(256) for _ in range(3)))
    return made


def draw(root: Path) -> None:
    """Everything that a row may ask for, below `root`."""
    for number, option in enumerate(options("model")):
        if option != "tiny" and family_of(option) in FAMILIES:
            checkpoints.save(family_of(option), root / "checkpoints" / option, number, tied=not option.endswith("_7b"))
    nlvr2(root / "data" / "nlvr2")
    nlvr(root / "data" / "nlvr")
    winoground(root / "data" / "winoground")
    questions(root / "data")


def nlvr2(root: Path) -> None:
    """The official layout: sets of two pairs of photographs under one sentence."""
    (root / "images").mkdir(parents=True)
    for split, sets in (("train", 8), ("dev", 4)):
        lines = []
        for s in range(sets):
            for p in range(2):
                name = f"{split}-{s}-{p}"
                row = {"identifier": f"{name}-0", "sentence": f"There are {s} circles on the left.", "label": str((s + p) % 2 == 0)}
                lines.append(json.dumps(row | ({"directory": s} if split == "train" else {})))
                for k in (0, 1):
                    picture(f"{name}-{k}", SHAPES[(s + k) % len(SHAPES)]).save(root / "images" / f"{name}-img{k}.png")
        (root / f"{split}.json").write_text("\n".join(lines))


def nlvr(root: Path) -> None:
    """The official layout: two sentences, each over its own images of three boxes in six orders, in every directory."""
    for split, directories in (("train", 10), ("dev", 2)):
        lines = []
        for directory in range(directories):
            folder = root / split / "images" / str(directory)
            folder.mkdir(parents=True)
            for m in range(2):
                identifier = f"{2 * directory + m}-0"
                for k in range(6):
                    picture(f"{split}-{identifier}-{k}", (400, 100)).save(folder / f"{split}-{identifier}-{k}.png")
                row = {"identifier": identifier, "sentence": f"There is a circle in box {m}.", "label": ("true", "false")[m]}
                lines.append(json.dumps(row | {"directory": str(directory)}))
        (root / split / f"{split}.json").write_text("\n".join(lines))


def winoground(root: Path, count: int = 3) -> None:
    """A table with the columns of facebook/winoground."""
    cell = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {"id": pa.array(range(count), pa.int32()), "collapsed_tag": ["Object"] * count}
    for i in (0, 1):
        images = [{"bytes": png(picture(f"{k}-{i}", SHAPES[(k + i) % len(SHAPES)])), "path": None} for k in range(count)]
        columns[f"image_{i}"] = pa.array(images, cell)
        columns[f"caption_{i}"] = [f"a {('circle', 'square')[i]} beside a {('square', 'circle')[i]}" for _ in range(count)]
    (root / "data").mkdir(parents=True)
    pq.write_table(pa.table(columns), root / "data" / "test-00000-of-00001.parquet")


def questions(folder: Path) -> None:
    """A table of one's own: two questions about each of twenty pictures, answered in one to three words."""
    lines = ["image,question,answer"]
    for k in range(20):
        picture(f"own-{k}", SHAPES[k % len(SHAPES)]).save(folder / f"own-{k}.png")
        lines += [f"own-{k}.png,How many circles are there?,{k % 5}", f"own-{k}.png,Where is the largest?,{('left', 'on the right', 'below')[k % 3]}"]
    (folder / "questions.csv").write_text("\n".join(lines), encoding="utf-8")


def png(image: Image.Image) -> bytes:
    """The bytes of its file."""
    out = io.BytesIO()
    image.save(out, "PNG")
    return out.getvalue()
