"""`data=nutrition_tables`: openfoodfacts/nutrition-table-detection, where the nutrition tables are on photographs of packages.

Parquet with `image`, `image_id` (barcode_number), `width`, `height`, `meta.barcode` and `objects`: `bbox` as y0, x0, y1, x1 in 0-1,
`category_name`. dev = its split val; minival = a tenth of train, by barcode, as pictures of one product are alike. `image_set` = barcode.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lab.config import DataDial
from lab.data import DataSet
from lab.data.box_file.records import Boxed, Reading, numbers, text
from lab.data.box_file.samples import samples_of
from lab.data.faults import BadRecord, shown
from lab.data.manifest import Row
from lab.data.sets import questions
from lab.data.splits import recurring, reject_unused_fields
from lab.data.tables import Table, Tables, open_tables
from lab.errors import DataError
from lab.records import Picture, Regions, Splits

HUB = "openfoodfacts/nutrition-table-detection"
OFFICIAL = {"train": 1083, "val": 123}
"""Pictures of each split."""
PART_OF = {"train": "train", "val": "dev"}


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Read both splits of a folder or of the hub. Raises `ConfigError`, or `DataError` by `data.on_bad`."""
    reject_unused_fields(dial, "root", "question", "exif", "aliases", "allow_shared_images")
    tables = open_tables(dial.root or HUB, tuple(OFFICIAL), ("image",), cache_dir, nested=("objects", "meta"))
    if "val" not in tables:
        raise DataError(f"data.root={dial.root or HUB}: it has no split val, which is dev, what is reported; it has {', '.join(tables)}.")
    reading = Reading()
    for split, table in tables.items():
        read(table, PART_OF[split], reading)
    found = samples_of(reading, dial, cache_dir, HUB, Tables(list(tables.values())))
    barcodes = {split: [one.group or "" for one in reading.records if one.part == PART_OF[split]] for split in tables}
    counts = {split: len(names) for split, names in barcodes.items()}
    notes = [f"{split} has {n} good pictures; officially {OFFICIAL[split]}" for split, n in counts.items() if n != OFFICIAL[split]]
    twice = recurring(barcodes, lambda barcode: (barcode,))
    notes += [f"barcodes that train and val share: {twice}"] if twice else []
    found.notes.extend(f"{dial.name}: {note}." for note in notes)
    return questions.splits_of(found, dial, cache_dir)


def read(table: Table, part: str, reading: Reading) -> None:
    """Add every picture of a split."""
    for index, row in enumerate(table.rows()):
        try:
            reading.records.append(boxed(row, Picture(table.source(index, "image")), part))
        except BadRecord as fault:
            reading.faults.append(fault)


def boxed(row: Row, picture: Picture, part: str) -> Boxed:
    """The picture of a row. Raises `BadRecord`."""
    objects, meta = row.fields["objects"], row.fields["meta"]
    if not isinstance(objects, Mapping) or not {"bbox", "category_name"} <= objects.keys():
        row.fail("objects", f"{shown(objects)} is given; lists bbox and category_name are legal")
    boxes, names = objects["bbox"] or [], objects["category_name"] or []
    if len(boxes) != len(names):
        row.fail("objects", f"{len(boxes)} boxes are given and {len(names)} names")
    corners = [numbers(box, row.source, "key 'objects'") for box in boxes]
    return Boxed(
        row.source, row.text("image_id"), picture, tuple((x0, y0, x1, y1) for y0, x0, y1, x1 in corners),
        tuple(text(name, row.source, "key 'objects'") for name in names), size=(row.number("width"), row.number("height")), relative=True,
        part=part, group=text(meta.get("barcode") if isinstance(meta, Mapping) else meta, row.source, "key 'meta'"),
    )  # fmt: skip


DATA_SET = DataSet(load, kind=Regions.kind, asks="question")
