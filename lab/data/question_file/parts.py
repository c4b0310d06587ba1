"""Which part a record of a file is in: as the file splits them, else drawn by picture; never one picture in two parts unsaid."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from lab.config import DataDial
from lab.data.splits import PARTS
from lab.errors import DataError

SHARES = {"dev": 0.1, "minival": 0.1, "train": 0.8}


class Record(Protocol):
    """What is divided. group: what belongs together, or None. part: of a given split, or None."""

    @property
    def source(self) -> str: ...

    @property
    def group(self) -> str | None: ...

    @property
    def part(self) -> str | None: ...


def parts_of(
    records: Sequence[Record], pixels: Sequence[Sequence[str]], dial: DataDial
) -> tuple[list[tuple[str, str]], list[str], str]:
    """Part and cluster of each record, notes, and a sentence about pictures in several given parts. pixels: of each record's pictures."""
    pictures = joined(pixels)
    groups = joined([[own, f"group {record.group or own}"] for record, own in zip(records, pictures, strict=True)])
    clusters = [record.group or own for record, own in zip(records, pictures, strict=True)]
    given = [record.part for record in records]
    if not any(given):
        drawn = draw(groups, dial.seed, SHARES)
        parts, leak = [drawn[group] for group in groups], ""
        note = [f"{dial.name}: no split is given; pictures, told apart by their pixels, are drawn from data.seed={dial.seed}: {counts(parts)}."]
    else:
        if None in given:
            record = records[given.index(None)]
            raise DataError(f"{record.source}: its split is empty, and given in other rows. Give it in every row or in none.")
        parts, note = [str(part) for part in given], []
        if "dev" not in parts and "minival" in parts:
            parts = ["dev" if part == "minival" else part for part in parts]
            note = [f"{dial.name}: no test is given, so that val is dev, what is reported."]
        if "minival" not in parts:
            drawn = draw([group for group, part in zip(groups, parts, strict=True) if part == "train"], dial.seed, {"minival": 0.1, "train": 0.9})
            parts = [drawn[group] if part == "train" else part for group, part in zip(groups, parts, strict=True)]
            note += [f"{dial.name}: no minival is given; a tenth of train's pictures is drawn from data.seed={dial.seed}: {counts(parts)}."]
        leak = leaking(records, pictures, parts)
        note += [f"{dial.name}: {leak} Allowed by data.allow_shared_images."] if leak and dial.allow_shared_images else []
    return list(zip(parts, clusters, strict=True)), note, leak


def counts(parts: Sequence[str]) -> str:
    """How many questions each part has."""
    return ", ".join(f"{part} {parts.count(part)}" for part in PARTS)


def leaking(records: Sequence[Record], pictures: Sequence[str], parts: Sequence[str]) -> str:
    """A sentence about pictures that stand in several parts, or an empty text."""
    places: dict[str, dict[str, Record]] = {}
    for record, picture, part in zip(records, pictures, parts, strict=True):
        places.setdefault(picture, {}).setdefault(part, record)
    shared = [found for found in places.values() if len(found) > 1]
    if not shared:
        return ""
    first = " and ".join(f"{record.source} ({part})" for part, record in shared[0].items())
    return (
        f"pictures that the split has in several parts, by their pixels: {len(shared)}, the first in {first}. What is learned would be "
        "asked: mend the split, or give data.allow_shared_images=true."
    )


def joined(members: Sequence[Sequence[str]]) -> list[str]:
    """The cluster of each list of names, where lists that share a name are in one: the least name of the cluster."""
    root: dict[str, str] = {}

    def find(name: str) -> str:
        root.setdefault(name, name)
        while root[name] != name:
            root[name] = name = root[root[name]]
        return name

    for names in members:
        first, *others = sorted({find(name) for name in names})
        root.update(dict.fromkeys(others, first))
    return [find(names[0]) for names in members]


def draw(clusters: Sequence[str], seed: int, shares: Mapping[str, float]) -> dict[str, str]:
    """The part of each cluster: in the order of SHA-256(seed/cluster) they fill the parts in turn, each to its share of the records.

    Every part gets a cluster while there are as many; minival does without first.
    """
    sizes = Counter(clusters)
    order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    parts = [part for part in shares if part != "minival" or len(order) >= len(shares)]
    part_of: dict[str, str] = {}
    filled: Counter[str] = Counter()
    for at, name in enumerate(order):
        empty = [part for part in parts if not filled[part]]
        open_parts = empty if len(empty) >= len(order) - at else [part for part in parts[:-1] if filled[part] < shares[part] * len(clusters)]
        part_of[name] = (open_parts or parts[-1:])[0]
        filled[part_of[name]] += sizes[name]
    return part_of
