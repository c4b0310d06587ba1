"""`data=pairs`: True/False statements about two drawn images, in the shape of NLVR2.

Made in blocks of four image pairs and four sentences: every sentence is asked of all four pairs and is true
of exactly two, so labels are balanced overall and within each sentence, and a sentence alone tells nothing.
Every pair carries four sentences. `image_set` names the pair, `question_group` the sentence, `subset` the
family. Blocks never cross splits. Made once and kept as memory-mapped Arrow files under the cache folder.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import PIL
import pyarrow as pa

from lab.config import DataDial
from lab.data import DataSet
from lab.data.scenes import PALETTES, SIDE, Palette, Scene, compose_pair, draw, encode_png
from lab.data.splits import reject_unused_fields
from lab.data.statements import HELD_BACK, Statement, propose
from lab.errors import ConfigError, did_you_mean
from lab.host.files import text_hash
from lab.records import Choice, Picture, Sample, Splits

log = logging.getLogger(__name__)

GENERATOR_VERSION = 1  # raise it whenever the same dial would give other rows: the cache is keyed by it
STREAM = 0x9A125  # first word of every seed here; `tools.pretraining` draws from another stream
DEFAULT_SIZES = {"train": 4000, "minival": 400, "dev": 1200}
DEFAULT_DIFFICULTY = "medium"
PER_BLOCK = 4  # image pairs in a block, and sentences in a block

# One deck of 20 sentences: 13 of families that the shipped base was never taught.
DECK = (
    ("one_image",) * 2
    + ("without", "any_image", "each_side", "count", "more_inside")
    + ("both",) * 3
    + ("only_one_side",) * 3
    + ("exactly_one",) * 2
    + ("neither",) * 3
    + ("more_across", "same_number")
)

SAMPLES = pa.schema(
    [
        ("sample_id", pa.string()),
        ("text", pa.string()),
        ("label", pa.bool_()),
        ("image_set", pa.string()),
        ("sentence_group", pa.string()),
        ("subset", pa.string()),
        ("left", pa.int32()),
        ("right", pa.int32()),
    ]
)
IMAGES = pa.schema([("png", pa.binary())])


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Open the three splits that the dial describes, making them first if the cache lacks them.

    Raises `ConfigError` if a value of the dial is not legal here.
    """
    recipe, folder = resolve(dial), make(dial, cache_dir)
    try:
        splits = {name: PairsSplit(folder, name) for name in DEFAULT_SIZES}
    except (pa.ArrowException, OSError) as error:
        log.warning("%s is damaged (%s); the pairs are drawn again", folder, error)
        shutil.rmtree(folder)
        _write(recipe, folder)
        splits = {name: PairsSplit(folder, name) for name in DEFAULT_SIZES}
    held_back = sum(family in HELD_BACK for family in DECK) / len(DECK)
    note = f"pairs: {held_back:.0%} of the sentences are of families that the shipped tiny base was never taught"
    return Splits(splits["train"], splits["minival"], splits["dev"], notes=(note,))


def make(dial: DataDial, cache_dir: Path) -> Path:
    """Draw the pairs that the dial describes if the cache lacks them; their folder. Raises `ConfigError` as `load` does."""
    recipe = resolve(dial)
    folder = Path(cache_dir) / f"pairs-{text_hash(json.dumps(recipe, sort_keys=True), digits=16)}"
    if not folder.is_dir():
        _write(recipe, folder)
    return folder


def resolve(dial: DataDial) -> dict:
    """Return everything that determines the rows, checked; JSON-able."""
    reject_unused_fields(dial, "difficulty")
    difficulty = DEFAULT_DIFFICULTY if dial.difficulty is None else dial.difficulty
    if difficulty not in PALETTES:
        hint = did_you_mean(difficulty, PALETTES)
        raise ConfigError(f"data.difficulty={difficulty}: legal values are {', '.join(PALETTES)}.{hint}")
    if dial.seed < 0:
        raise ConfigError(f"data.seed={dial.seed}: legal values are 0 and above.")
    sizes = {name: getattr(dial, f"num_{name}") for name in DEFAULT_SIZES}
    for name, size in sizes.items():
        if size is None:
            sizes[name] = DEFAULT_SIZES[name]
        elif size <= 0 or size % PER_BLOCK:
            near = max(PER_BLOCK, size // PER_BLOCK * PER_BLOCK)
            raise ConfigError(
                f"data.num_{name}={size}: one sentence is asked of {PER_BLOCK} image pairs, so legal values are "
                f"positive multiples of {PER_BLOCK}; nearest: {near} or {near + PER_BLOCK}."
            )
    for key in ("root", "source", "image_layout", "permutations"):
        if getattr(dial, key) is not None:
            raise ConfigError(f"data.{key}={getattr(dial, key)}: data=pairs draws its own images; leave it null.")
    return {
        "generator": GENERATOR_VERSION,
        "deck": DECK,
        "seed": dial.seed,
        "difficulty": difficulty,
        "sizes": sizes,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


class PairsSplit:
    """One split, read row by row from two memory-mapped Arrow files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.images_path = folder / f"{name}-images.arrow"
        self._samples = _open(folder / f"{name}-samples.arrow", SAMPLES)
        self._png = _open(self.images_path, IMAGES).column("png")
        self.sample_ids = tuple(self._samples.column("sample_id").to_pylist())

    def __len__(self) -> int:
        return self._samples.num_rows

    def __getitem__(self, index: int) -> Sample:
        return self.sample(index, with_images=True)

    def index(self, index: int) -> Sample:
        return self.sample(index, with_images=False)

    def sample(self, index: int, with_images: bool) -> Sample:
        """One row of the tables, with or without the bytes of its images."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of a split of {len(self)}")
        row = {name: self._samples.column(name)[index].as_py() for name in SAMPLES.names}
        pictures = tuple(
            Picture(f"{self.images_path}#{at}/png", self._png[at].as_py() if with_images else None, size=(SIDE, SIDE))
            for at in (row["left"], row["right"])
        )
        return Sample(
            sample_id=row["sample_id"],
            text=row["text"],
            images=pictures,
            answer=Choice.truth(row["label"]),
            image_set=row["image_set"],
            question_group=row["sentence_group"],
            subset=row["subset"],
        )


def make_block(
    rng: np.random.Generator, palette: Palette, families: Sequence[str]
) -> tuple[list[tuple[Scene, Scene]], list[tuple[Statement, list[bool]]]]:
    """Draw four image pairs and one sentence per family, each true of exactly half of the pairs."""
    while True:
        scenes = [compose_pair(rng, palette) for _ in range(PER_BLOCK)]
        asked: list[tuple[Statement, list[bool]]] = []
        for family in families:
            found = _balanced(rng, palette, family, scenes, {statement.text for statement, _ in asked})
            if found is None:
                break
            asked.append(found)
        else:
            return scenes, asked


def _balanced(
    rng: np.random.Generator,
    palette: Palette,
    family: str,
    scenes: list[tuple[Scene, Scene]],
    used: set[str],
) -> tuple[Statement, list[bool]] | None:
    for _ in range(60):
        statement = propose(rng, family, palette)
        truth = [statement.holds(*pair) for pair in scenes]
        if 2 * sum(truth) == len(scenes) and statement.text not in used:
            return statement, truth
    return None


def _families(seed: int, split: int) -> Iterator[str]:
    """Deal the deck for ever, freshly shuffled each time."""
    deal = 0
    while True:
        yield from np.random.default_rng([STREAM, seed, split, 0, deal]).permutation(DECK).tolist()
        deal += 1


def _make_split(recipe: dict, name: str) -> tuple[pa.Table, pa.Table]:
    """Make one split's tables (samples, images). A smaller split is a prefix of a larger one."""
    palette, seed, size = PALETTES[recipe["difficulty"]], recipe["seed"], recipe["sizes"][name]
    split = list(DEFAULT_SIZES).index(name)
    deal = _families(seed, split)
    rows: list[tuple] = []
    images: list[bytes] = []
    block = 0
    while len(rows) < size:
        rng = np.random.default_rng([STREAM, seed, split, 1, block])
        scenes, asked = make_block(rng, palette, [next(deal) for _ in range(PER_BLOCK)])
        first = len(images)
        images += [encode_png(draw(scene)) for pair in scenes for scene in pair]
        for which, (statement, truth) in enumerate(asked):
            for pair, label in enumerate(truth):
                group, picture = f"{name}-{block}-s{which}", first + 2 * pair
                row = (f"{group}-p{pair}", statement.text, label, f"{name}-{block}-p{pair}", group)
                rows.append((*row, statement.family, picture, picture + 1))
        block += 1
    columns = list(zip(*rows[:size], strict=True))
    samples = pa.table(dict(zip(SAMPLES.names, columns, strict=True)), schema=SAMPLES)
    return samples, pa.table({"png": images}, schema=IMAGES)


def _write(recipe: dict, folder: Path) -> None:
    """Make all splits in a temporary folder, then move it into place in one step.

    Of two processes that race, the second finds the place taken and drops its identical copy.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name in DEFAULT_SIZES:
            for kind, table in zip(("samples", "images"), _make_split(recipe, name), strict=True):
                with pa.ipc.new_file(str(work / f"{name}-{kind}.arrow"), table.schema) as file:
                    file.write_table(table)
        (work / "recipe.json").write_text(json.dumps(recipe, indent=2, sort_keys=True), encoding="utf-8")
        work.chmod(0o755)  # mkdtemp makes folders for its owner only
        try:
            os.replace(work, folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _open(path: Path, schema: pa.Schema) -> pa.Table:
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    if table.schema != schema:
        raise pa.ArrowInvalid(f"{path.name} has other columns")
    return table


DATA_SET = DataSet(load, kind=Choice.kind, asks="statement", make=make)
