"""`data=drawn_conversations`: conversations about drawn scenes, of one to three turns, some about two pictures and some about none.

Written on first use as anybody's would be, a manifest in LLaVA's form beside its pictures, and read by `data=conversations`: `write` makes one
elsewhere. With `data.source=clips` every fifth conversation is about a clip of a moving shape. Answers are short words; a later question
may leave out what the one before it named, so that its answer is in the turns before. A smaller split is a prefix of a larger one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from lab.config import DataDial
from lab.data import DataSet, moving_shapes, video
from lab.data.scenes import PALETTES, Kind, Scene, compose, draw, encode_png
from lab.data.sets import conversations
from lab.data.splits import one_of, reject_unused_fields
from lab.errors import ConfigError
from lab.host.files import values_hash
from lab.records import Splits, Text

GENERATOR_VERSION = 1  # raise it whenever the same dial would give other conversations: the cache is keyed by it
STREAM = 0xC04F5  # first word of every seed here
DEFAULT_SIZES = {"train": 2000, "minival": 100, "dev": 400}
SOURCES = ("pictures", "clips")
PALETTE = PALETTES["medium"]
MANIFEST = "conversations.json"
CORNERS = {"circle": "none", "square": "four", "triangle": "three", "diamond": "four"}
NUMBERS = ("none", "one", "two", "three", "four", "five", "six")
FRAMES, FPS = 8, 4.0

Turns = list[tuple[str, str]]
"""Questions with their answers."""


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Write the conversations that the dial describes, if the cache lacks them, and read them. Raises `ConfigError`."""
    reject_unused_fields(dial, "source", "loss_on")
    source = one_of("source", dial.source or SOURCES[0], SOURCES)
    sizes = {name: DEFAULT_SIZES[name] if (number := getattr(dial, f"num_{name}")) is None else number for name in DEFAULT_SIZES}
    if dial.seed < 0:
        raise ConfigError(f"data.seed={dial.seed}: legal values are 0 and above.")
    folder = Path(cache_dir).absolute() / f"drawn_conversations-{values_hash([GENERATOR_VERSION, dial.seed, sizes, source, np.__version__])}"
    if not folder.is_dir():
        write(folder, dial.seed, sizes, clips=source == "clips")
    whole = replace(
        dial, source=None, sources=[str(folder / MANIFEST)], root=str(folder), columns={"split": "split"},
        num_train=None, num_minival=None, num_dev=None,
    )  # fmt: skip
    splits = conversations.load(whole, cache_dir)
    return replace(splits, notes=(*splits.notes, f"drawn_conversations: they lie in {folder / MANIFEST}, which data=conversations reads."))


def write(folder: Path, seed: int, sizes: dict[str, int], clips: bool = False) -> None:
    """Make a manifest with its pictures in a folder, all at once. sizes: conversations of each split."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        (work / "media").mkdir()
        records = [record for part, size in sizes.items() for record in records_of(work, seed, part, size, clips)]
        (work / MANIFEST).write_text(json.dumps(records, indent=1), encoding="utf-8")
        work.chmod(0o755)  # mkdtemp makes folders for its owner only
        try:
            os.replace(work, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def records_of(folder: Path, seed: int, part: str, size: int, clips: bool) -> Iterator[dict]:
    """The records of a split, whose media are written to the folder."""
    for number in range(size):
        rng = np.random.default_rng([STREAM, seed, list(DEFAULT_SIZES).index(part), number])
        name = f"{part}-{number}"
        media: dict[str, list[str]] = {}
        if clips and number % 5 == 4:
            turns = about_clip(rng, folder, name, media)
        elif number % 5 == 3:
            turns = about_nothing(rng)
        else:
            turns = about_pictures(rng, folder, name, media, 2 if number % 5 == 2 else 1)
        said = [{"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)]
        yield {"id": name, **media, "conversations": said, "split": part}


def about_pictures(rng: np.random.Generator, folder: Path, name: str, media: dict[str, list[str]], number: int) -> Turns:
    """One picture and questions about it; or two, and which of them shows more."""
    scenes = [compose(rng, PALETTE, []) for _ in range(number)]
    media["images"] = [f"media/{name}-{place}.png" for place in range(number)]
    for path, scene in zip(media["images"], scenes, strict=True):
        (folder / path).write_bytes(encode_png(draw(scene)))
    if number == 1:
        (question, answer), *more = questions(rng, scenes[0])
        return [(f"<image>\n{question}", answer), *more]
    kind = Kind(None, PALETTE.shapes[int(rng.integers(len(PALETTE.shapes)))])
    left, right = (scene.count(kind) for scene in scenes)
    more = "first" if left > right else "second" if right > left else "neither"
    return [(f"Here is one picture: <image> And another: <image> Which has more {kind.plural}?", more), ("How many has the first?", NUMBERS[left])]


def questions(rng: np.random.Generator, scene: Scene) -> Turns:
    """One to three questions about a scene, later ones of the same kind about another shape."""
    shapes = rng.permutation(PALETTE.shapes).tolist()[: int(rng.integers(1, 4))]
    if rng.random() < 0.5:
        asked = [f"How many {Kind(None, shapes[0]).plural} are there?", *(f"And {Kind(None, shape).plural}?" for shape in shapes[1:])]
        return [(question, NUMBERS[scene.count(Kind(None, shape))]) for question, shape in zip(asked, shapes, strict=True)]
    colour = PALETTE.colours[int(rng.integers(len(PALETTE.colours)))]
    asked = [f"Is there a {colour} {shapes[0]}?", *(f"And a {colour} {shape}?" for shape in shapes[1:])]
    return [(question, "yes" if scene.count(Kind(colour, shape)) else "no") for question, shape in zip(asked, shapes, strict=True)]


def about_nothing(rng: np.random.Generator) -> Turns:
    """Questions without a picture."""
    shapes = rng.permutation(list(CORNERS)).tolist()[: int(rng.integers(1, 3))]
    return [(f"How many corners has a {shape}?" if not at else f"And a {shape}?", CORNERS[shape]) for at, shape in enumerate(shapes)]


def about_clip(rng: np.random.Generator, folder: Path, name: str, media: dict[str, list[str]]) -> Turns:
    """A clip of a moving shape, and which way it moves."""
    motion = moving_shapes.compose(rng, PALETTE)
    media["videos"] = [f"media/{name}.mkv"]
    (folder / media["videos"][0]).write_bytes(video.encode(moving_shapes.draw(motion, FRAMES), FPS))
    return [(f"<video>\n{motion.question}", motion.answer), ("What moves?", f"the {motion.thing.colour} {motion.thing.shape}")]


DATA_SET = DataSet(load, kind=Text.kind, asks="conversation", clips=True, zero_shot=True)
