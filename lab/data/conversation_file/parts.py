"""Which part each row of manifests is in: as they say, or drawn by media, so that nothing that is learned from is asked about.

Everything here is arrays: a million rows take seconds, and a few bytes each.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lab.config import DataDial
from lab.data.splits import PARTS
from lab.errors import ConfigError

SHARE = 0.1
MOST = {"minival": 500, "dev": 1000}
"""Rows of a drawn part that nobody gave a size: a tenth of all, and no more than this."""


def groups_of(media: np.ndarray, ends: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Rows that share a medium, or are joined by others that do, as one number: the least of their media; of a row without any its own.

    media: uint64, of all rows in turn. ends: int64 [rows]. own: uint64 [rows].
    """
    if not len(media):
        return own
    rows = np.repeat(np.arange(len(ends)), np.diff(ends, prepend=0))
    names, places = np.unique(media, return_inverse=True)
    size = len(ends) + len(names)
    links = coo_array((np.ones(len(rows), np.int8), (rows, places + len(ends))), shape=(size, size))
    _, component = connected_components(links, directed=False)
    least = np.full(component.max() + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(least, component[len(ends) :], names)
    of_rows = least[component[: len(ends)]]
    return np.where(of_rows == np.iinfo(np.uint64).max, own, of_rows)


def draws(groups: np.ndarray, seed: int) -> np.ndarray:
    """A number for each row that is drawn for its group, uint64: by SplitMix64 (Steele, Lea and Flood 2014) of group and seed."""
    with np.errstate(over="ignore"):
        value = groups + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def parts_of(rows: np.ndarray, given: np.ndarray, groups: np.ndarray, dial: DataDial) -> tuple[dict[str, np.ndarray], list[str], str]:
    """The rows of each part in their order, notes, and a sentence about groups that given parts share.

    rows: int64, those that are good. given: of each of them its place in `PARTS`, or -1 for all. groups: uint64 of each of them.
    """
    drawn = draws(groups, dial.seed)
    notes: list[str] = []
    parts = given.astype(np.int8)
    train, minival, dev = range(3)
    said = len(given) > 0 and given.min() >= 0
    if said and dev not in parts and minival in parts:
        parts[parts == minival] = dev
        notes.append("conversations: no test is given, so that val is dev, what is reported.")
    leak = leaking(parts, groups) if said else ""
    for part in (dev, minival):
        if part not in parts:
            free = np.flatnonzero(parts == train) if said else np.flatnonzero(parts < minival)
            parts[free] = train
            take(parts, free, part, drawn, dial, notes)
    found = {name: rows[parts == place] for place, name in enumerate(PARTS)}
    if not said:
        sizes = ", ".join(f"{name} {len(found[name])}" for name in PARTS)
        notes.insert(0, f"conversations: no split is given; what shares a picture or clip is drawn together from data.seed={dial.seed}: {sizes}.")
    by_row = dict(zip(("train", "minival", "dev"), (drawn[parts == place] for place in range(3)), strict=True))
    for name in PARTS:
        number = getattr(dial, f"num_{name}")
        if number is not None and number != len(found[name]):
            found[name] = first(found[name], by_row[name], number, f"data.num_{name}")
    return found, notes, leak


def take(parts: np.ndarray, free: np.ndarray, part: int, drawn: np.ndarray, dial: DataDial, notes: list[str]) -> None:
    """Move whole groups of the free rows to a part, in the order drawn, until it has its size; one too large for what is left is passed by.

    Where whole groups do not fill it, rows are missing rather than a picture shared.
    """
    name = PARTS[part]
    wanted = getattr(dial, f"num_{name}")
    size = wanted if wanted is not None else min(MOST[name], max(int(SHARE * len(free)), int(name == "dev" and len(free) > 1)))
    if size > len(free):
        raise ConfigError(f"data.num_{name}={size}: there are {len(free)} conversations; legal: 0 to {len(free)}, or null.")
    order = free[np.argsort(drawn[free], kind="stable")]
    starts = np.flatnonzero(np.diff(drawn[order], prepend=drawn[order[:1]] ^ np.uint64(1)))
    lengths = np.diff(starts, append=len(order))
    left = size
    for start, length in zip(starts, lengths, strict=True):  # never as lists, which would be two million objects
        if not left:
            break
        if length <= left:
            parts[order[start : start + length]] = part
            left -= int(length)
    if left:
        notes.append(f"conversations: {name} has {size - left} of {size}: what is left shares pictures with more than that, and is not parted.")


def first(rows: np.ndarray, drawn: np.ndarray, number: int, key: str) -> np.ndarray:
    """So many rows in whole groups (the last may be cut), in their own order: a smaller choice is part of a larger one."""
    if number > len(rows):
        raise ConfigError(f"{key}={number}: there are {len(rows)} conversations; legal: 0 to {len(rows)}, or null.")
    return rows[np.sort(np.argsort(drawn, kind="stable")[:number])]


def leaking(parts: np.ndarray, groups: np.ndarray) -> str:
    """A sentence about media that given parts share, or an empty text."""
    order = np.argsort(groups, kind="stable")
    same = groups[order][1:] == groups[order][:-1]
    shared = np.unique(groups[order][1:][same & (parts[order][1:] != parts[order][:-1])])
    if not len(shared):
        return ""
    return (
        f"pictures or clips that the given split has in several parts: {len(shared)} groups of conversations. What is learned would be asked: mend "
        "the split, or give data.allow_shared_images=true."
    )


def capped(rows: np.ndarray, groups: np.ndarray, starts: np.ndarray, caps: Sequence[int | None], seed: int) -> np.ndarray:
    """Rows of train without those beyond the cap of their source. starts: first row of each source, and the end."""
    kept: list[np.ndarray] = []
    for number, cap in enumerate(caps):
        own = (rows >= starts[number]) & (rows < starts[number + 1])
        here = rows[own]
        kept.append(here if cap is None or cap >= len(here) else first(here, draws(groups[own], seed + 1), cap, "cap"))
    return np.concatenate(kept) if kept else rows
