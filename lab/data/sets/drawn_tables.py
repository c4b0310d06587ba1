"""`data=drawn_tables`: where are the tables on a label-like page? Zero to three a page, drawn on the spot (`lab.data.label_pages`).

A layout has `PER_LAYOUT` pages, which are one `image_set`; no layout is in two splits. `subset` = how many tables. A page is drawn when it
is asked for, from (seed, split, number) alone: a smaller split is a prefix of a larger one.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np

from lab.config import DataDial
from lab.data import DataSet
from lab.data.label_pages import Layout, Page, compose_layout, compose_page, draw_page
from lab.data.scenes import encode_png
from lab.data.splits import reject_unused_fields
from lab.errors import ConfigError
from lab.records import AnswerSpace, Picture, Region, Regions, Sample, Splits

STREAM = 0x7AB1E  # first word of every seed here
DEFAULT_SIZES = {"train": 3000, "minival": 150, "dev": 600}
PER_LAYOUT = 3
LABEL, QUESTION = "table", "Box all tables."


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Make the three splits. Raises `ConfigError` for a value of the dial that is not legal here."""
    reject_unused_fields(dial)
    if dial.seed < 0:
        raise ConfigError(f"data.seed={dial.seed}: legal values are 0 and above.")
    sizes = {name: getattr(dial, f"num_{name}") for name in DEFAULT_SIZES}
    for name, size in sizes.items():
        if size is not None and size <= 0:
            raise ConfigError(f"data.num_{name}={size}: legal values are 1 and above, or null for {DEFAULT_SIZES[name]}.")
    splits = {name: DrawnSplit(dial.seed, name, DEFAULT_SIZES[name] if size is None else size) for name, size in sizes.items()}
    return Splits(splits["train"], splits["minival"], splits["dev"], answers=AnswerSpace(Regions.kind, ()))


class DrawnSplit:
    """Pages of one split, each drawn when it is asked for."""

    def __init__(self, seed: int, name: str, size: int) -> None:
        self._seed = (STREAM, seed, list(DEFAULT_SIZES).index(name))
        self.sample_ids = tuple(f"{name}-{number // PER_LAYOUT}-p{number % PER_LAYOUT}" for number in range(size))

    def __len__(self) -> int:
        return len(self.sample_ids)

    def __getitem__(self, index: int) -> Sample:
        sample = self.index(index)
        picture = replace(sample.images[0], data=encode_png(draw_page(self.page(index))))
        return replace(sample, images=(picture,))

    def index(self, index: int) -> Sample:
        page, name = self.page(index), self.sample_ids[index]
        layout, size = name.rpartition("-")[0], page.layout.size
        tables = tuple(Region(LABEL, *box) for box in page.tables)
        picture = Picture(f"drawn_tables-{'-'.join(map(str, self._seed[1:]))}#{name}/png", size=size)
        return Sample(name, QUESTION, (picture,), Regions(tables, size), layout, name, f"{len(tables)} tables")

    def page(self, index: int) -> Page:
        """What stands where, without drawing it."""
        number = range(len(self))[index]
        return compose_page(np.random.default_rng([*self._seed, 1, number]), layout_of(self._seed, number // PER_LAYOUT))


@functools.lru_cache(maxsize=4096)
def layout_of(seed: tuple[int, ...], number: int) -> Layout:
    return compose_layout(np.random.default_rng([*seed, 0, number]))


DATA_SET = DataSet(load, kind=Regions.kind, asks="question", zero_shot=True)
