"""What was asked: ids, clusters, groups and labels of a predictions file, derived once for all arms that were asked the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.host.files import text_hash
from lab.statistics import functional
from lab.statistics.resampling import clusters

ASKED = ("sample_id", "image_set", "question_group", "subset", "right")
SAID = ("right", "log_p", "captured_mass", "prediction")


@dataclass(frozen=True, eq=False)
class Items:
    """The questions of one split in the order scored.

    columns: `ASKED` as read. table: the same with image sets and question groups numbered, which metrics read faster.
    cluster: number of each example's cluster, as `resampling.clusters` has it. subsets: names, and each example's place
    among them (-1: none). group: number of each example's sentence group, and how many examples each has. content: digest
    of ids with labels, in any order; order: digest of the ids in this order.
    """

    columns: pa.Table
    table: PredictionTable
    cluster: np.ndarray
    subsets: tuple[tuple[str, ...], np.ndarray]
    group: tuple[np.ndarray, np.ndarray]
    content: str
    order: str
    consistency_by_chance: float
    majority: tuple[bool, float, float]


class Reader:
    """Reads predictions files one after another; what was asked is decoded and derived anew only where it changes.

    Arms of a sweep are asked the same, and a column of the same values written by the same library is the same bytes: a file
    whose compressed columns equal the last file's is not decoded again.
    """

    def __init__(self) -> None:
        self._known: Items | None = None
        self._asked: list[bytes] = []
        self._spent: list[bytes] = []
        self._tokens = np.zeros(0)

    def read(self, path: Path) -> tuple[Items, PredictionTable, np.ndarray]:
        """Give what was asked, the whole table but image order and tokens, and the tokens of all images, flat."""
        said = predictions.read(path, SAID)
        chunks = stored(path, (*ASKED, "visual_tokens"))
        asked, spent = chunks[:-1], chunks[-1:]
        if self._known is None or asked != self._asked:
            columns = predictions.arrow(path, ASKED)
            if self._known is None or not columns.equals(self._known.columns):
                self._known = derive(columns, predictions.read(path, ASKED))
            self._asked = asked
        if spent != self._spent:
            column = predictions.arrow(path, ["visual_tokens"]).column(0).combine_chunks()
            self._tokens, self._spent = np.asarray(column.flatten()), spent
        table = said.replace(**{name: getattr(self._known.table, name) for name in ASKED})
        return self._known, table, self._tokens


def stored(path: Path, names: Sequence[str]) -> list[bytes]:
    """A digest of each column as it lies in a Parquet file, compressed, with what it takes to decode it. Equal: equal values."""
    found = {name: hashlib.sha256() for name in names}
    with path.open("rb") as file:
        metadata = pq.read_metadata(file)
        if not found.keys() <= set(metadata.schema.to_arrow_schema().names):  # version 1 names them otherwise
            return [hashlib.sha256(path.read_bytes()).digest()] * len(names)
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group)
            for chunk in map(rows.column, range(rows.num_columns)):
                name = chunk.path_in_schema.partition(".")[0]
                if name in found:
                    how = (chunk.path_in_schema, chunk.physical_type, chunk.compression, chunk.encodings, chunk.num_values)
                    found[name].update(repr(how).encode())
                    file.seek(chunk.data_page_offset if chunk.dictionary_page_offset is None else chunk.dictionary_page_offset)
                    found[name].update(file.read(chunk.total_compressed_size))
    return [found[name].digest() for name in names]


def derive(columns: pa.Table, table: PredictionTable) -> Items:
    """Number, cluster and digest the questions of one file."""
    ids = table.sample_id.tolist()
    names = np.array([name or "" for name in table.subset.tolist()], dtype=np.str_)
    found, place = np.unique(names, return_inverse=True)
    if found[0] == "":
        found, place = found[1:], place - 1
    commoner = bool(table.label.mean() >= 0.5)
    _, group, group_size = np.unique(table.question_group, return_inverse=True, return_counts=True)
    numbered = table.replace(image_set=np.unique(table.image_set, return_inverse=True)[1], question_group=group)
    return Items(
        columns=columns,
        table=numbered,
        cluster=clusters(table),
        subsets=(tuple(found.tolist()), place),
        group=(group, group_size),
        content=text_hash(*sorted(f"{name}\0{label}" for name, label in zip(ids, table.label.tolist(), strict=True)), digits=16),
        order=text_hash(*ids, digits=16),
        consistency_by_chance=functional.consistency_by_chance(table.question_group),
        majority=(
            commoner,
            float((table.label == commoner).mean()),
            functional.consistency_by_majority(table.label, table.question_group),
        ),
    )
