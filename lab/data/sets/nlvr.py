"""`data=nlvr`: NLVR (Suhr et al. 2017), synthetic images of three boxes; github.com/lil-lab/nlvr, CC-BY-4.0.

Official layout, below `data.root` (the clone, or its folder `nlvr`):

    <split>/<split>.json                                                     JSON-lines
    <split>/images/<directory>/<split>-<identifier>-<k>.png                  k = 0..5, permutations of the boxes

The train annotations are not in every copy, so the labelled splits found (train, dev, test; never the hidden one) are
pooled and cut anew by image directory, as the authors ask, in the order (train, dev, test) then by number:

    with train.json      dev = official dev and test-P; of train's directories the last tenth is minival
    without train.json   dev = the last 40 % of all directories, minival the tenth before them, train the rest
    data.split=SPLIT     dev = that official split, alone; train and minival are of train, or without train.json of what else is labelled

Dev and test alone (13 directories) give train = dev/0-5 test/0, minival = test/1, dev = test/2-6.

A statement (what `data.num_*` counts) is one line of the JSON: a sentence about one image. It becomes one sample for
each permutation of the boxes, `<split>-<identifier>-<k>`; dev and minival always have all six (the official rule).
`image_set` and `question_group` are both `<split>-<n>`, n the number before "-" in the identifier: consistency is
counted by it and intervals resample it, for the images under one sentence were made together.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.config import DataDial
from lab.data import DataSet, manifest
from lab.data.faults import BadRecord
from lab.data.splits import PARTS, choose, finish, one_of, recurring, reject_unused_fields
from lab.errors import ConfigError, DataError
from lab.records import Choice, Picture, Sample, Splits

OFFICIAL = {"train": 12410, "dev": 989, "test": 990}
"""Statements of each labelled split; each has six images."""

PERMUTATIONS = 6
SIZE = (400, 100)
BOXES = ((0, 0, 100, 100), (150, 0, 250, 100), (300, 0, 400, 100))
"""The three boxes (left, upper, right, lower) [px]; between them two grey gaps 50 px wide that hold nothing."""

OURS = "a cut of our own over the pooled splits, so no score here compares with published NLVR numbers"
DEV_SHARE = 0.4
MINIVAL_SHARE = 0.1
IDENTIFIER = re.compile(r"([0-9]{1,9})-([0-9]{1,9})")
DIRECTORY = re.compile(r"[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class Statement:
    """One line of `<split>.json`. group: `<split>-<n>`; directory: (split, number)."""

    name: str
    group: str
    sentence: str
    label: bool
    directory: tuple[str, int]
    images: tuple[str, ...]


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Read NLVR from `data.root`. Raises `ConfigError`, or `DataError` by `data.on_bad`."""
    reject_unused_fields(dial, "root", "image_layout", "permutations", "split")
    layout = one_of("image_layout", dial.image_layout or "whole", ("whole", "boxes"))
    permutations = PERMUTATIONS if dial.permutations is None else dial.permutations
    if not 1 <= permutations <= PERMUTATIONS:
        raise ConfigError(f"data.permutations={permutations}: an image has six permutations; legal values are 1 to 6.")
    folder = find(dial.root, dial.split)
    found, faults, notes = _read(folder, dial.split)
    parts, more = partition([statement for split in found.values() for statement in split], "train" in found, dial.split)
    notes += more
    samples = {}
    for part in PARTS:
        number = getattr(dial, f"num_{part}")
        chosen = choose(parts[part], number, f"num_{part}", dial.seed, lambda statement: statement.group)
        count = permutations if part == "train" else PERMUTATIONS
        samples[part] = [_sample(statement, k, layout) for statement in chosen for k in range(count)]
    absent = f"data.root={folder} has too few image directories for it; add the official train split, or the other one."
    return finish(samples, faults, dial, cache_dir, notes, absent)


def unlabelled(dial: DataDial, path: Path, split: str, cache_dir: Path) -> Splits:
    """The statements of an official file without labels as dev, each with an answer that stands in for one that nobody knows."""
    layout = one_of("image_layout", dial.image_layout or "whole", ("whole", "boxes"))
    root = manifest.Root(path.parent.parent if path.parent.name == split else path.parent)
    statements, faults = manifest.read(path, lambda row: _statement(row.with_value("label", True), split, root), lambda each: each.name)
    samples = {"train": [], "minival": [], "dev": [_sample(each, k, layout) for each in statements for k in range(PERMUTATIONS)]}
    return finish(samples, faults, dial, cache_dir, [])


def find(root: str | None, reported: str | None = None) -> Path:
    """Return the folder that holds `dev/dev.json` and the like: `data.root` or `nlvr` in it. reported: a split that may be there alone."""
    if root is None:
        raise ConfigError("data.root=null: data=nlvr needs the folder of a clone of github.com/lil-lab/nlvr.")
    looked, splits = [Path(root), Path(root) / "nlvr"], among(reported)
    for folder in looked:
        if any(os.path.isfile(folder / split / f"{split}.json") for split in splits):
            return folder.resolve()
    files = ", ".join(f"{folder}/<split>/<split>.json" for folder in looked)
    raise DataError(f"data.root={root}: no NLVR split found; looked for {files} with split in {', '.join(splits)}.")


def among(reported: str | None) -> list[str]:
    """Splits that may be there, in their order, with the one that is reported."""
    return list(dict.fromkeys([*OFFICIAL, *([reported] if reported else [])]))


def _read(folder: Path, reported: str | None) -> tuple[dict[str, list[Statement]], list[BadRecord], list[str]]:
    """Read every labelled split that is there, and the one that is reported, which must be; note where a size is not the official one."""
    found: dict[str, list[Statement]] = {}
    faults: list[BadRecord] = []
    notes: list[str] = []
    root = manifest.Root(folder)
    for split in among(reported):
        path, official = folder / split / f"{split}.json", OFFICIAL.get(split)
        if not os.path.lexists(path):
            if split == reported:
                raise DataError(f"data.split={split}: there is no {path}.")
            continue
        found[split], bad = manifest.read(
            root.file(f"{split}/{split}.json", str(path)),
            lambda row, split=split: _statement(row, split, root),
            lambda statement: statement.name,
        )
        faults += bad
        if official is not None and len(found[split]) != official:
            notes.append(f"nlvr: {path} has {len(found[split])} good statements; officially {split} has {official}.")
    return found, faults, notes


def _statement(row: manifest.Row, split: str, root: manifest.Root) -> Statement:
    identifier = row.match("identifier", IDENTIFIER, "'<number>-<number>'")
    directory = row.match("directory", DIRECTORY, "a number as a string, such as '3'").group()
    name = f"{split}-{identifier.group()}"
    files = (f"{split}/images/{directory}/{name}-{k}.png" for k in range(PERMUTATIONS))
    return Statement(
        name=name,
        group=f"{split}-{identifier.group(1)}",
        sentence=row.text("sentence"),
        label=row.label("label"),
        directory=(split, int(directory)),
        images=tuple(str(root.file(file, row.source)) for file in files),
    )


def partition(
    statements: Sequence[Statement], has_train: bool, reported: str | None = None
) -> tuple[dict[str, list[Statement]], list[str]]:
    """Cut by image directory (see the module's docstring); a sentence group goes whole, with its first directory."""
    rank = among(reported).index
    home: dict[str, tuple[str, int]] = {}
    for statement in statements:
        home[statement.group] = min(
            home.get(statement.group, statement.directory), statement.directory, key=lambda at: (rank(at[0]), at[1])
        )
    directories = sorted(set(home.values()), key=lambda at: (rank(at[0]), at[1]))
    official = [at for at in directories if at[0] != "train"]
    if reported is not None:
        rest = [at for at in directories if at[0] != reported and (at[0] == "train") == has_train]
        dev = [at for at in directories if at[0] == reported]
    elif has_train and official:
        rest, dev = [at for at in directories if at[0] == "train"], official
    else:
        cut = len(directories) - max(1, round(DEV_SHARE * len(directories)))
        rest, dev = directories[:cut], directories[cut:]
    # one directory left over is for training: early stopping can be done without, learning cannot
    num_minival = min(len(rest) - 1, max(1, round(MINIVAL_SHARE * (len(rest) + len(dev))))) if rest else 0
    cut = len(rest) - num_minival
    part_of = {at: "dev" for at in dev} | {at: "minival" for at in rest[cut:]} | {at: "train" for at in rest[:cut]}
    parts: dict[str, list[Statement]] = {part: [] for part in PARTS}
    for statement in statements:
        if (part := part_of.get(home[statement.group])) is not None:
            parts[part].append(statement)
    rule = OURS
    if reported is not None:
        rule = f"dev is the official {reported}, alone"
    elif has_train and official:
        rule = "dev is the official dev and test-P together"
    return parts, _notes(parts, part_of, rule, _straying(statements, home))


def _straying(statements: Sequence[Statement], home: dict[str, tuple[str, int]]) -> int:
    return len({statement.group for statement in statements if statement.directory != home[statement.group]})


def _notes(
    parts: dict[str, list[Statement]], part_of: dict[tuple[str, int], str], rule: str, straying: int
) -> list[str]:
    where = {part: [f"{split}/{number}" for (split, number), of in part_of.items() if of == part] for part in PARTS}
    cut = "; ".join(
        f"{part} = {len(parts[part])} statements of {len(where[part])} image directories"
        + (f" ({' '.join(where[part])})" if len(where[part]) <= 10 else "")
        for part in PARTS
    )
    notes = [f"nlvr: {cut}; {rule}."]
    strings = recurring(parts, lambda statement: (statement.sentence,))
    if strings:
        notes.append(f"nlvr: sentence strings in more than one split: {strings}, each time about other images.")
    if straying:
        notes.append(f"nlvr: sentence groups in several image directories: {straying}; each went with the first.")
    balance = Counter(statement.label for statement in parts["dev"])
    if balance:
        share = max(balance.values()) / len(parts["dev"])
        notes.append(f"nlvr: the larger answer makes {share:.1%} of dev.")
    return notes


def _sample(statement: Statement, k: int, layout: str) -> Sample:
    file = statement.images[k]
    crops = BOXES if layout == "boxes" else (None,)
    return Sample(
        sample_id=f"{statement.name}-{k}",
        text=statement.sentence,
        images=tuple(Picture(file, crop=crop) for crop in crops),
        answer=Choice.truth(statement.label),
        image_set=statement.group,
        question_group=statement.group,
    )


DATA_SET = DataSet(load, kind=Choice.kind, asks="statement")
