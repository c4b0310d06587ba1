"""`data=easy_vqa`: easy-VQA (Zhou 2019, github.com/vzhou842/easy-VQA, MIT), as the PyPI package `easy-vqa` 1.0 holds it.

Each picture (64 x 64) shows one shape in one colour; 38,575 questions about 4,000 pictures are for training, 9,673 about 1,000 for
testing, with 13 answers. Free text. dev = the official test split; minival = the questions about 200 of train's pictures.
`image_set` = picture; `subset` = colour, shape or yes/no, by the question's form. The question's commonest answer in train is right in
.6703 of dev (.6700 with minival's questions counted in).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from lab.config import DataDial
from lab.data import DataSet
from lab.data.faults import BadRecord, shown
from lab.data.files import read_text
from lab.data.splits import choose_parts, finish, reject_unused_fields
from lab.errors import ConfigError, DataError
from lab.records import Picture, Sample, Splits, Text

OFFICIAL = {"train": 38575, "test": 9673}
"""Questions of each split."""

MINIVAL = 200
"""Pictures of train whose questions are minival."""


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Read easy-VQA. Raises `ConfigError` where the package is not installed, or `DataError` by `data.on_bad`."""
    reject_unused_fields(dial)
    faults: list[BadRecord] = []
    found = {split: read(folder() / split, faults) for split in OFFICIAL}
    pictures = sorted({sample.image_set for sample in found["train"]}, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(pictures[:MINIVAL])
    parts = {
        "train": [sample for sample in found["train"] if sample.image_set not in held_out],
        "minival": [sample for sample in found["train"] if sample.image_set in held_out],
        "dev": found["test"],
    }
    notes = [f"easy_vqa: {split} has {len(found[split])} good questions; officially {n}." for split, n in OFFICIAL.items() if len(found[split]) != n]
    return finish(choose_parts(parts, dial), faults, dial, cache_dir, notes)


def folder() -> Path:
    """The package's data, found without importing it. Raises `ConfigError`."""
    spec = importlib.util.find_spec("easy_vqa")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError("data=easy_vqa: the package easy-vqa, which holds its pictures, is not installed. Run `pip install easy-vqa`.")
    return Path(spec.submodule_search_locations[0]) / "data"


def read(split: Path, faults: list[BadRecord]) -> list[Sample]:
    """The samples of one split; a bad record is added to `faults`. Raises `DataError` for an unreadable file."""
    path = split / "questions.json"
    try:
        records = json.loads(read_text(path))
        if not isinstance(records, list):
            raise ValueError("it is no list")
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: its questions cannot be read ({error}). Install the package easy-vqa anew.") from None
    samples = []
    for index, record in enumerate(records):
        try:
            samples.append(sample_of(record, index, split, f"{path}#{index}"))
        except BadRecord as fault:
            faults.append(fault)
    return samples


def sample_of(record: Any, index: int, split: Path, source: str) -> Sample:
    """One question. Raises `BadRecord`."""
    match record:
        case [str(question), str(answer), int(number)] if question.strip() and answer.strip() and number >= 0:
            picture = Picture(str(split / "images" / f"{number}.png"))
            name = f"{split.name}-{index}"
            return Sample(name, question, (picture,), Text((answer,)), f"{split.name}-{number}", name, asks_for(question))
    raise BadRecord(source, f"{shown(record)} is given; [question, answer, number of the picture] is legal")


def asks_for(question: str) -> str:
    """What a question asks for: "colour", "shape", or "yes/no"."""
    if not question.startswith("what"):
        return "yes/no"
    return "colour" if question.startswith(("what color", "what is the color")) else "shape"


DATA_SET = DataSet(load, kind=Text.kind, asks="question", zero_shot=True)
