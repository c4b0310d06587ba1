"""NLVR2 as tables with the images inside. One adapter per mirror: how its columns and splits become statements.

    lmms-lab    `lmms-lab/NLVR2`: identifier, question, answer, left_image, right_image; balanced and unbalanced dev and
                test, no train, and no singleton pairs: its dev is 5,862 of the 6,982 official statements
    pingzhili   `pingzhili/nlvr2`: identifier, sentence, label, image0, image1; train and validation
    arrow       a folder written by `save_to_disk`, with the columns of either

`data.root` is a local folder of parquet files, or a hub id with `@revision`; null takes the mirror's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.config import DataDial
from lab.data.faults import BadRecord, shown
from lab.data.manifest import Row
from lab.data.sets.nlvr2 import OFFICIAL, Statement, build, partition, record
from lab.data.splits import finish
from lab.data.tables import Table, Tables, open_arrow, open_tables
from lab.errors import ConfigError, DataError
from lab.records import Splits


def _lmms_lab(row: Row) -> Statement:
    return record(row, text="question", answer="answer")


def _pingzhili(row: Row) -> Statement:
    return record(row, text="sentence", answer="label")


@dataclass(frozen=True)
class Mirror:
    """A published form. splits: its split names -> (train or dev here, subset where the split is one)."""

    hub: str
    images: tuple[str, str]
    adapt: Callable[[Row], Statement]
    splits: Mapping[str, tuple[str, str | None]]


MIRRORS = {
    "lmms-lab": Mirror(
        hub="lmms-lab/NLVR2",
        images=("left_image", "right_image"),
        adapt=_lmms_lab,
        splits={"balanced_dev": ("dev", "balanced"), "unbalanced_dev": ("dev", "unbalanced")},
    ),
    "pingzhili": Mirror(
        hub="pingzhili/nlvr2@6ad9994db49bf1162feaecacc5554e5ca4a36487",
        images=("image0", "image1"),
        adapt=_pingzhili,
        splits={"train": ("train", None), "validation": ("dev", None)},
    ),
}
ARROW_SPLITS = {
    "train": ("train", None),
    "dev": ("dev", None),
    "validation": ("dev", None),
    **MIRRORS["lmms-lab"].splits,
}


def load(dial: DataDial, source: str, cache_dir: Path) -> Splits:
    """Read one mirror into splits; its rows are checked like those of a manifest."""
    mirror, tables = _arrow(dial) if source == "arrow" else _published(dial, MIRRORS[source], cache_dir)
    found: dict[str, list[Statement]] = {"train": [], "dev": []}
    faults: list[BadRecord] = []
    seen: dict[str, str] = {}
    notes = []
    for split, table in tables.items():
        part, subset = mirror.splits[split]
        good, bad = _statements(table, mirror, subset, seen)
        found[part] += good
        faults += bad
        notes.append(f"nlvr2: {table.name} has {len(good)} good statements and gives {part}.")
    for part, statements in found.items():
        if statements and len(statements) != OFFICIAL[part]:
            notes.append(f"nlvr2: {part} has {len(statements)} good statements here; officially {OFFICIAL[part]}.")
    parts, more = partition(found["train"], found["dev"])
    absent = f"data.source={source} has no train split at {dial.root or mirror.hub}; it is enough for zero-shot only."
    return finish(build(parts, dial), faults, dial, cache_dir, notes + more, absent, Tables(list(tables.values())))


def _published(dial: DataDial, mirror: Mirror, cache_dir: Path) -> tuple[Mirror, dict[str, Table]]:
    return mirror, open_tables(dial.root or mirror.hub, tuple(mirror.splits), mirror.images, cache_dir)


def _arrow(dial: DataDial) -> tuple[Mirror, dict[str, Table]]:
    """Open a `save_to_disk` folder and tell by its columns whose adapter reads it."""
    if dial.root is None:
        raise ConfigError("data.root=null: data.source=arrow needs a folder written by save_to_disk.")
    opened = {split: dataset for split, dataset in open_arrow(dial.root).items() if split in ARROW_SPLITS}
    if not opened:
        raise DataError(f"data.root={dial.root}: none of the splits {', '.join(ARROW_SPLITS)} is in it.")
    columns = set(next(iter(opened.values())).column_names)
    for mirror in MIRRORS.values():
        if columns.issuperset(mirror.images):
            tables = {split: Table(f"{dial.root}[{split}]", each, mirror.images) for split, each in opened.items()}
            return dataclasses.replace(mirror, splits=ARROW_SPLITS), tables
    legal = " or ".join(f"{left}, {right}" for left, right in (mirror.images for mirror in MIRRORS.values()))
    there = ", ".join(sorted(columns))
    raise DataError(f"data.root={dial.root}: its columns are {there}; images in {legal} are legal.")


def _statements(
    table: Table, mirror: Mirror, subset: str | None, seen: dict[str, str]
) -> tuple[Sequence[Statement], list[BadRecord]]:
    """Adapt every row of one split. seen: identifiers of all rows so far and where they stand."""
    good, faults = [], []
    left, right = mirror.images
    for index, row in enumerate(table.rows()):
        try:
            statement = mirror.adapt(row)
            if statement.name in seen:
                first = seen[statement.name]
                raise BadRecord(row.source, f"id {shown(statement.name)} is given a second time; first in {first}")
        except BadRecord as fault:
            faults.append(fault)
            continue
        seen[statement.name] = row.source
        sides = {"left": table.source(index, left), "right": table.source(index, right)}
        good.append(dataclasses.replace(statement, subset=subset, **sides))
    return good, faults
