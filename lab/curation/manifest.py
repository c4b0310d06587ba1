"""What a curation leaves: `manifest.parquet` for `data=abo_vqa` and `data=questions`, `refused.parquet`, and `images/` beside them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import parquet

from lab.curation.catalogue import Catalogue, Refusal
from lab.curation.quality import YES_NO, Judged, normal, stems
from lab.curation.selection import Chosen
from lab.data.files import open_regular
from lab.host.files import text_hash, write_atomically

MANIFEST, REFUSED, IMAGES = "manifest.parquet", "refused.parquet", "images"
TOPICS = {
    "color": "color colour colored coloured", "material": "material fabric made", "shape": "shape shaped", "pattern": "pattern patterned",
    "number": "many number",
}  # fmt: skip
"""Words of a question that say what it asks about."""
SAME = {"fabric_type": "material", "item_shape": "shape", "finish_type": "material"}
"""Attributes of ABO that answer the same topic."""
SCHEMA = pa.schema([
    ("id", pa.string()), ("image", pa.string()), ("question", pa.string()), ("answer", pa.string()), ("split", pa.string()),
    ("product", pa.string()), ("listing", pa.string()), ("group", pa.string()), ("subset", pa.string()), ("metadata", pa.string()),
    ("doubts", pa.list_(pa.string())), ("reviewed", pa.bool_()),
])  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A row of the manifest. image: path beside it; group: products that share a picture; listing: `Product.name`; subset: what it asks about."""

    id: str
    image: str
    question: str
    answer: str
    split: str
    product: str
    listing: str
    group: str
    subset: str
    metadata: str
    doubts: tuple[str, ...]
    reviewed: bool = False


def entries(chosen: Sequence[Chosen], judged: Mapping[str, Sequence[Judged]]) -> tuple[list[Entry], list[Refusal]]:
    """Rows in the order of the products, and what the rules refused."""
    rows: list[Entry] = []
    refusals: list[Refusal] = []
    for one in chosen:
        product = one.product
        for each in judged.get(product.name, ()):
            if each.reason:
                refusals.append(Refusal(each.reason, product.name, image_of(one), each.question, each.answer, line=each.line))
                continue
            rows.append(Entry(
                text_hash(one.pixels, each.question, digits=16), image_of(one), each.question, each.answer, one.split, product.product,
                product.name, one.cluster.partition(" ")[2], topic(each, product.attributes), product.metadata, each.doubts,
            ))  # fmt: skip
    return rows, refusals


def image_of(one: Chosen) -> str:
    """Where a picture lies beside the manifest, named by its pixels; the ending is the catalogue's."""
    source = one.product.picture.source
    suffix = Path(source).suffix.lower() if "#" not in source else ""
    return f"{IMAGES}/{one.pixels[:2]}/{one.pixels}{suffix if re.fullmatch(r'[.][a-z0-9]{2,5}', suffix) else ''}"


def topic(each: Judged, attributes: Mapping[str, Sequence[str]]) -> str:
    """What a question asks about: yes/no, a word of `TOPICS`, the attribute that holds its answer, or other."""
    if normal(each.answer) in YES_NO:
        return "yes/no"
    words = set(normal(each.question).split())
    for name, known in TOPICS.items():
        if words & set(known.split()):
            return name
    answer = stems(each.answer)
    found = next((name for name, values in attributes.items() if answer and answer <= stems(" ".join(values))), "other")
    return SAME.get(found, found)


def write(folder: Path, rows: Sequence[Entry], refusals: Sequence[Refusal], chosen: Sequence[Chosen], catalogue: Catalogue) -> None:
    """Write both tables, and the pictures that the manifest names."""
    used = {row.image for row in rows}
    for one in chosen:
        if (name := image_of(one)) in used and not (folder / name).exists():
            bring(one, catalogue, folder / name)
    table = pa.Table.from_pylist([asdict(row) for row in rows], SCHEMA)
    write_atomically(folder / MANIFEST, lambda path: parquet.write_table(table, path, compression="zstd"))
    names = list(Refusal.__dataclass_fields__)
    refused = pa.table({name: pa.array([getattr(one, name) for one in refusals], pa.string()) for name in names})
    write_atomically(folder / REFUSED, lambda path: parquet.write_table(refused, path, compression="zstd"))


def bring(one: Chosen, catalogue: Catalogue, path: Path) -> None:
    """Put a picture's file beside the manifest: as another name of the same file where the file system can, else as a copy."""
    picture = catalogue.tables.fetch(one.product.picture) if catalogue.tables else one.product.picture
    path.parent.mkdir(parents=True, exist_ok=True)
    if picture.data is None:
        with contextlib.suppress(OSError):
            os.link(os.path.realpath(picture.source), path)
            return
        with open_regular(picture.source) as file:
            write_atomically(path, file.read())
    else:
        write_atomically(path, picture.data)
