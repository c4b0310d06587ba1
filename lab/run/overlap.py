"""Pictures of the training data that are also in other data that an arm is asked: with the same pixels, or near-duplicates.

    RUN/overlap/<data>.json      each question about such a picture, and where training has it

Near-duplicates are those of `lab.curation.likeness`: a perceptual hash of what is where and the colour of what stands before the ground, both
near. What is known of a split's pictures is kept in `tracking.cache_dir`.
"""

from __future__ import annotations

import json
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lab import data
from lab.config import Experiment
from lab.curation import likeness
from lab.curation.config import Selection
from lab.curation.likeness import Likeness
from lab.data import images
from lab.data.faults import BadRecord
from lab.data.verified import Decoded
from lab.host.files import values_hash, write_atomically
from lab.host.progress import Report
from lab.records import Medium, Picture, Split

log = logging.getLogger(__name__)

FOLDER = "overlap"


class Pictures(NamedTuple):
    """The distinct pictures of a split. sources: what each is called; samples: the first sample that has it; pixels: `Decoded.pixels`, str [n]."""

    sources: list[str]
    samples: list[str]
    pixels: np.ndarray
    likeness: Likeness


def look(x: Experiment, train: Split, asked: Split, name: str, run_dir: Path, report: Report) -> dict[str, Any]:
    """Look for the pictures of some questions in the training data; write the file, and return its numbers for the run's record.

    A training set that is too large to be held is not looked at, which the record says.
    """
    if getattr(train, "digest", ""):
        return {"not_looked": "the training data are read record by record, and their pictures are not all looked at"}
    cache, rule = Path(x.tracking.cache_dir), Selection()
    learned, shown = (pictures_of(split, cache, report) for split in (train, asked))
    same = dict(zip(learned.pixels.tolist(), range(len(learned.pixels)), strict=True))
    exact = {place: same[pixels] for place, pixels in enumerate(shown.pixels.tolist()) if pixels in same}
    near = {place: other for place, other in likeness.pairs(shown.likeness, learned.likeness, rule) if place not in exact}
    places = {shown.sources[place]: (how, other) for how, found in (("pixels", exact), ("near", near)) for place, other in found.items()}
    rows = [
        {"id": sample.sample_id, "picture": picture.source, "how": how, "train": learned.samples[other], "train_picture": learned.sources[other]}
        for sample in map(asked.index, range(len(asked)))
        for picture in sample.images
        if picture.source in places
        for how, other in [places[picture.source]]
    ]
    facts = {
        "pictures": len(shown.sources), "train_pictures": len(learned.sources), "exact": len(exact), "near": len(near),
        "questions": len({row["id"] for row in rows}), "near_structure": rule.near_structure, "near_colour": rule.near_colour,
    }  # fmt: skip
    write_atomically(run_dir / FOLDER / f"{name}.json", json.dumps({**facts, "found": rows}, indent=1, ensure_ascii=False) + "\n")
    if rows:
        log.warning(
            "data=%s: %d of its %d pictures are in the training data too (%d with the same pixels, %d near-duplicates): %s",
            name, len(places), len(shown.sources), len(exact), len(near), run_dir / FOLDER / f"{name}.json",
        )  # fmt: skip
    return facts


def pictures_of(split: Split, cache: Path, report: Report) -> Pictures:
    """What the distinct pictures of a split look like."""
    first: dict[str, tuple[int, int]] = {}
    for index in range(len(split)):
        for place, picture in enumerate(split.index(index).images):
            if isinstance(picture, Picture):
                first.setdefault(picture.source, (index, place))
    samples = [split.sample_ids[index] for index, _ in first.values()]
    kept = cache / "likeness" / f"{values_hash([data.fingerprint(split), [stamp_of(split, *at) for at in first.values()]], 32)}.npz"
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as found:
            return Pictures(list(first), samples, found["pixels"], Likeness(found["structure"], found["colour"]))
    looked: list[tuple[str, int, np.ndarray]] = []
    places = list(first.values())
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(places), images.BATCH):
            fetched = [split[index].images[place] for index, place in places[start : start + images.BATCH]]
            looked += pool.map(look_at, fetched)
            report("comparing pictures", len(looked), len(places), "")
    found = {
        "pixels": np.array([pixels for pixels, _, _ in looked], dtype="U32"),
        "structure": np.array([structure for _, structure, _ in looked], dtype=np.uint64),
        "colour": np.array([colour for _, _, colour in looked], dtype=np.float32).reshape(-1, 3),
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(kept, lambda path: save(path, found))
    return Pictures(list(first), samples, found["pixels"], Likeness(found["structure"], found["colour"]))


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays by name; `np.savez` of a path would name it `.npz`."""
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def look_at(picture: Medium) -> tuple[str, int, np.ndarray]:
    """Its pixels, and what it is like."""
    assert isinstance(picture, Picture)
    image = images.decode(picture)
    return Decoded.of(image).pixels, *likeness.fingerprint(image)


def stamp_of(split: Split, index: int, place: int) -> list[Any]:
    """What a picture is known by without reading it; one that lies in no file of its own by its name and crop."""
    picture = split.index(index).images[place]
    assert isinstance(picture, Picture)
    try:
        return [picture.source, picture.crop, *images.stamp(picture)]
    except BadRecord:
        return [picture.source, picture.crop]
