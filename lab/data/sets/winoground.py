"""`data=winoground`: Winoground (Thrush et al. 2022, 2204.03162), a diagnostic set: nothing is learned from it.

400 examples of two captions with the same words and two images, of which caption c describes image i exactly if c = i.
Each becomes four True/False questions about one image: `<id>-c<c>-i<i>`, text = caption c, answer = (c == i),
`image_set` = id (the four share images), `question_group` = `<id>-c<c>`, `subset` = collapsed_tag (Object, Relation,
Both). Text, image and group scores are functions of the four: `lab.statistics.winoground`.

`data.root`: a local folder of parquet files with the columns of `facebook/winoground`, or a hub id with `@revision`;
null takes `facebook/winoground`, which is gated. `data.num_dev` counts examples, four questions each.
"""

from __future__ import annotations

from pathlib import Path

from lab.config import DataDial
from lab.data import DataSet
from lab.data.faults import BadRecord
from lab.data.manifest import Row
from lab.data.splits import choose, finish, reject_unused_fields
from lab.data.tables import Table, Tables, open_tables
from lab.errors import ConfigError
from lab.records import Choice, Picture, Sample, Splits

HUB = "facebook/winoground"
OFFICIAL = 400
IMAGES = ("image_0", "image_1")
CAPTIONS = ("caption_0", "caption_1")


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Read Winoground; all of it is `dev`. Raises `ConfigError`, or `DataError` by `data.on_bad`."""
    reject_unused_fields(dial, "root")
    for key in ("num_train", "num_minival"):
        if getattr(dial, key):
            raise ConfigError(f"data.{key}={getattr(dial, key)}: data=winoground is diagnostic only; legal: null or 0.")
    (table,) = open_tables(dial.root or HUB, ("test",), IMAGES, cache_dir).values()
    examples: dict[str, list[Sample]] = {}
    faults: list[BadRecord] = []
    for index, row in enumerate(table.rows()):
        try:
            name = str(row.number("id"))
            if name in examples:
                row.fail("id", f"{name} is given a second time")
            examples[name] = questions(row, name, table, index)
        except BadRecord as fault:
            faults.append(fault)
    notes = []
    if len(examples) != OFFICIAL:
        notes.append(f"winoground: {table.name} has {len(examples)} good examples; officially {OFFICIAL}.")
    chosen = choose(list(examples), dial.num_dev, "num_dev", dial.seed, str)
    parts = {"train": [], "minival": [], "dev": [sample for name in chosen for sample in examples[name]]}
    absent = "data=winoground is diagnostic only: it has no train and no minival split."
    return finish(parts, faults, dial, cache_dir, notes, absent, Tables([table]), together=True)


def questions(row: Row, name: str, table: Table, index: int) -> list[Sample]:
    """Return the four questions of one example, in the order c0-i0, c0-i1, c1-i0, c1-i1."""
    subset = row.text("collapsed_tag") if row.has("collapsed_tag") else None
    return [
        Sample(
            sample_id=f"{name}-c{c}-i{i}",
            text=row.text(caption),
            images=(Picture(table.source(index, image)),),
            answer=Choice.truth(c == i),
            image_set=name,
            question_group=f"{name}-c{c}",
            subset=subset,
        )
        for c, caption in enumerate(CAPTIONS)
        for i, image in enumerate(IMAGES)
    ]


DATA_SET = DataSet(load, kind=Choice.kind, asks="statement", diagnostic=True)
