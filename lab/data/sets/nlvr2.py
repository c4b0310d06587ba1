"""`data=nlvr2`: NLVR2 (Suhr et al. 2019, 1811.00491), one sentence about two photographs.

`data.source` says in which form it lies at `data.root`:

    official     the authors' JSON-lines (github.com/lil-lab/nlvr, CC-BY-4.0) and their images (by form, not licensed)
    lmms-lab, pingzhili, arrow      tables with the images inside: see `lab.data.nlvr2_mirrors`

Official layout below `data.root`: `<split>.json` (or in `data/`, `nlvr2/data/`) and the images
`<split>-<set>-<pair>-img0.png` (left) and `-img1.png` (right) in one of `IMAGE_FOLDERS`.

train.json gives train and minival, dev.json gives dev, which is reported, or in its place `data.split=test1`, or another file
that has labels. Minival is whole `directory` buckets of the
train file, the last twentieth of them; a file without buckets is cut by image set. With dev.json alone train and
minival are empty, which is enough for zero-shot; `lab.data.require_split` says why to whoever asks for them.

An identifier is `<split>-<set>-<pair>-<sentence>`. `image_set` is `<split>-<set>`: all its pairs come from one search
and carry the same sentences, so intervals resample it. `question_group` is the identifier with the pair blanked, the
official key of consistency. `subset` is the bias split of nlvr2/data/filter_data.py: an image pair (by its two
addresses) that occurs once is `singleton`; else `balanced` if it has both labels, `unbalanced` if one.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.config import DataDial
from lab.data import DataSet, manifest
from lab.data.faults import BadRecord
from lab.data.splits import PARTS, choose, finish, one_of, recurring, reject_unused_fields
from lab.errors import ConfigError, DataError
from lab.records import Choice, Picture, Sample, Splits

OFFICIAL = {"train": 86373, "dev": 6982, "test1": 6967, "test2": 6970}
REFUSED = {
    "HuggingFaceM4/NLVR2": "is a loading script, which datasets 4 and later do not run",
    "tiger-lab": "asks 'A or B' with shuffled options and does not carry the official identifiers, so neither "
    "consistency nor intervals over image sets can be computed from it",
}
SOURCES = ("official", "lmms-lab", "pingzhili", "arrow")
MINIVAL_SHARE = 0.05
MANIFESTS = ("{split}.json", "data/{split}.json", "nlvr2/data/{split}.json")
IMAGE_FOLDERS = (
    "images/{split}/{directory}",
    "images/{split}",
    "{split}/{directory}",
    "{split}",
    "images/{directory}",
    "images",
    ".",
)
"""Tried in this order; those with `{directory}` only for a record that has one (train)."""

IDENTIFIER = re.compile(r"([A-Za-z0-9]{1,32})-([0-9]{1,9})-([0-9]{1,9})-([0-9]{1,9})")
IDENTIFIER_FORM = "'<split>-<set>-<pair>-<sentence>', such as 'dev-850-0-0'"


@dataclass(frozen=True, slots=True)
class Statement:
    """One record of any source. addresses: of the left and the right photograph, or () where none are given.

    bucket: the `directory` of a train record, else None. left, right: file paths or `table#row/column`.
    """

    name: str
    sentence: str
    label: bool
    image_set: str
    pair: tuple[str, ...]
    addresses: tuple[str, ...]
    bucket: int | None = None
    subset: str | None = None
    left: str = ""
    right: str = ""


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Read NLVR2 in the form that `data.source` names. Raises `ConfigError`, or `DataError` by `data.on_bad`."""
    reject_unused_fields(dial, "root", "source", "split")
    for name, why in REFUSED.items():
        if name.lower() in (str(dial.source).lower(), str(dial.root).lower().partition("@")[0]):
            raise ConfigError(f"data.source={dial.source}: {name} {why}; legal values are {', '.join(SOURCES)}.")
    source = one_of("source", dial.source or "official", SOURCES)
    if source != "official":
        if dial.split is not None:
            raise ConfigError(f"data.split={dial.split}: data.source={source} gives dev only; data.source=official reads <split>.json.")
        from lab.data import nlvr2_mirrors

        return nlvr2_mirrors.load(dial, source, cache_dir)
    if dial.root is None:
        raise ConfigError("data.root=null: data=nlvr2 (official) needs the folder with dev.json and the images.")
    root = manifest.Root(Path(dial.root))
    reported = dial.split or "dev"
    found, faults, notes = _read(root, reported)
    parts, more = partition(found.get("train", ()), found[reported])
    absent = f"{root.folder} holds no train.json; dev.json alone is enough for zero-shot only (trainer.max_steps=0)."
    samples = build(parts, dial)
    return finish(samples, faults, dial, cache_dir, notes + more, absent)


def unlabelled(dial: DataDial, path: Path, split: str, cache_dir: Path) -> Splits:
    """The statements of an official file without labels as dev, each with an answer that stands in for one that nobody knows."""
    statements, faults = manifest.read(path, lambda row: _official(row.with_value("label", True), split), lambda each: each.name)
    placed, unplaced = _placed(statements, split, manifest.Root(Path(dial.root or "")))
    samples = {"train": [], "minival": [], "dev": [_sample(each, "") for each in placed]}
    return finish(samples, [*faults, *unplaced], dial, cache_dir, [])


def record(row: manifest.Row, text: str = "sentence", answer: str = "label") -> Statement:
    """Make a statement of a record; text, answer: what its source calls the sentence and the label."""
    found = row.match("identifier", IDENTIFIER, IDENTIFIER_FORM)
    split, image_set, pair, _ = found.groups()
    has_addresses = row.has("left_url") and row.has("right_url")
    addresses = (row.text("left_url"), row.text("right_url")) if has_addresses else ()
    return Statement(
        name=found.group(),
        sentence=row.text(text),
        label=row.label(answer),
        image_set=f"{split}-{image_set}",
        pair=addresses or (split, image_set, pair),
        addresses=addresses,
        bucket=row.number("directory") if row.has("directory") else None,
    )


def partition(train: Sequence[Statement], dev: Sequence[Statement]) -> tuple[dict[str, list[Statement]], list[str]]:
    """Cut minival off the train file in whole image sets: by `directory` bucket, or by image set where it has none."""
    buckets: dict[str, int | None] = {}
    for statement in train:
        buckets.setdefault(statement.image_set, statement.bucket)  # a set that strays goes with its first bucket
    given = {bucket for bucket in buckets.values() if bucket is not None}
    if train and None not in buckets.values():
        order = sorted(given)
        held = set(order[len(order) - _few(len(order)) :])
        minival_sets = {name for name, bucket in buckets.items() if bucket in held}
        rule = f"minival = the last {len(held)} of {len(order)} directory buckets of the train file"
    else:
        order = sorted(buckets, key=lambda name: hashlib.sha256(name.encode()).digest())
        minival_sets = set(order[: _few(len(order))])
        rule = f"minival = {len(minival_sets)} of {len(order)} image sets of the train file, by the hash of their name"
    parts: dict[str, list[Statement]] = {part: [] for part in PARTS}
    for statement in train:
        parts["minival" if statement.image_set in minival_sets else "train"].append(statement)
    parts["dev"] = list(dev)
    notes = [f"nlvr2: {rule}."] if train else ["nlvr2: no train split here; train and minival are empty."]
    strays = {s.image_set for s in train if s.bucket != buckets[s.image_set]}
    if strays:
        notes.append(f"nlvr2: image sets in several buckets: {len(strays)}; each went with its first.")
    shared = recurring(parts, lambda statement: statement.addresses)
    if shared:
        notes.append(f"nlvr2: photographs (by address) in more than one split: {shared}.")
    return parts, notes


def _few(count: int) -> int:
    """How many of `count` clusters are held out: a twentieth, at least one, never the only one."""
    return 0 if count < 2 else max(1, round(MINIVAL_SHARE * count))


def subsets(statements: Sequence[Statement]) -> dict[str, str]:
    """Return `balanced`, `unbalanced` or `singleton` for each identifier, counted over all the statements given."""
    labels: dict[tuple[str, ...], list[bool]] = defaultdict(list)
    for statement in statements:
        labels[statement.pair].append(statement.label)
    kinds = {
        pair: "singleton" if len(given) == 1 else "balanced" if len(set(given)) == 2 else "unbalanced"
        for pair, given in labels.items()
    }
    return {statement.name: kinds[statement.pair] for statement in statements}


def build(parts: dict[str, list[Statement]], dial: DataDial) -> dict[str, list[Sample]]:
    """Choose how many by `data.num_*` and make samples; subsets are counted before the choice."""
    samples = {}
    learned = subsets(parts["train"] + parts["minival"])
    for part in PARTS:
        kinds = subsets(parts[part]) if part == "dev" else learned
        chosen = choose(
            parts[part], getattr(dial, f"num_{part}"), f"num_{part}", dial.seed, lambda statement: statement.image_set
        )
        samples[part] = [_sample(statement, statement.subset or kinds[statement.name]) for statement in chosen]
    return samples


def _sample(statement: Statement, subset: str) -> Sample:
    split, image_set, _, sentence = statement.name.split("-")
    return Sample(
        sample_id=statement.name,
        text=statement.sentence,
        images=(Picture(statement.left), Picture(statement.right)),
        answer=Choice.truth(statement.label),
        image_set=statement.image_set,
        question_group=f"{split}-{image_set}--{sentence}",
        subset=subset or None,
    )


def _read(root: manifest.Root, reported: str) -> tuple[dict[str, list[Statement]], list[BadRecord], list[str]]:
    found: dict[str, list[Statement]] = {}
    faults: list[BadRecord] = []
    notes: list[str] = []
    for split in ("train", reported):
        names = [name.format(split=split) for name in MANIFESTS]
        path = next((path for path in (root.file(name, name) for name in names) if os.path.lexists(path)), None)
        if path is None and split == reported:
            raise DataError(f"{root.folder}: no {split}.json; looked for {', '.join(names)} below it (data.root).")
        if path is None:
            continue
        statements, bad = manifest.read(path, lambda row, split=split: _official(row, split), lambda each: each.name)
        faults += bad
        found[split], unplaced = _placed(statements, split, root)
        faults += unplaced
        if len(statements) != OFFICIAL.get(split, len(statements)):
            notes.append(f"nlvr2: {path} has {len(statements)} good statements; officially {split} has {OFFICIAL[split]}.")
        counts = Counter(subsets(statements).values())
        notes.append(f"nlvr2: {split}: " + ", ".join(f"{counts[kind]} {kind}" for kind in sorted(counts)) + ".")
    return found, faults, notes


def _official(row: manifest.Row, split: str) -> Statement:
    statement = record(row)
    if not statement.name.startswith(f"{split}-"):
        row.fail("identifier", f"{statement.name!r} is given in the {split} file; legal: '{split}-...'")
    return statement


def _placed(statements: Sequence[Statement], split: str, root: manifest.Root) -> tuple[list[Statement], list[BadRecord]]:
    """Give every statement its two image paths, by the first layout under which any image is there."""

    def holds(layout: str) -> bool:
        fitting = (each for each in statements if "{directory}" not in layout or each.bucket is not None)
        return any(os.path.lexists(root.folder / path) for each in fitting for path in _names(each, split, layout))

    if not statements:
        return [], []
    layout = next(filter(holds, IMAGE_FOLDERS), None)
    if layout is None:
        folders = ", ".join(folder.format(split=split, directory="<directory>") for folder in IMAGE_FOLDERS)
        first = _names(statements[0], split, ".")[0]
        raise DataError(
            f"{root.folder}: none of the {split} images is there; looked for {first} and all others in {folders}. "
            "The authors give the images by a form (lil.nlp.cornell.edu/nlvr)."
        )
    placed, faults = [], []
    for statement in statements:
        try:
            left, right = (str(root.file(name, statement.name)) for name in _names(statement, split, layout))
        except BadRecord as fault:
            faults.append(fault)
        else:
            placed.append(dataclasses.replace(statement, left=left, right=right))
    return placed, faults


def _names(statement: Statement, split: str, layout: str) -> tuple[str, str]:
    """Return the relative paths of the left and the right image."""
    folder = layout.format(split=split, directory=statement.bucket)
    stem = f"{folder}/{statement.name.rpartition('-')[0]}"
    return f"{stem}-img0.png", f"{stem}-img1.png"


DATA_SET = DataSet(load, kind=Choice.kind, asks="statement")
