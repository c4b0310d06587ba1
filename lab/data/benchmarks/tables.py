"""The files of a benchmark row by row, pictures left where they are: Parquet shards of a hub snapshot, or the TSV of VLMEvalKit.

A picture is named `FILE#row/column`, the k-th of several `.../k`; its bytes are read when it is fetched: of Parquet one row group's column
at a time, of TSV the base64 text that is kept from the one pass over the file.
"""

from __future__ import annotations

import ast
import base64
import binascii
import csv
import dataclasses
import os
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lab.benchmark_specs import Spec
from lab.data.faults import BadRecord, shown
from lab.data.verified import Stamp
from lab.errors import ConfigError, DataError, did_you_mean
from lab.paths import absent
from lab.records import Medium

SHARD = re.compile(r"(?P<split>.+?)(-[0-9]{5}-of-[0-9]{5}(-[0-9a-f]{16})?)?\.parquet")
REFERENCE = 64
"""Most characters of a TSV's image cell that names the row which holds the picture, in place of the picture."""
BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
MOST_FIELD = 2**30


@dataclass
class Cells:
    """A row. values: without pictures. pictures: sources by column, None where one is missing; a column of several has them in order."""

    place: str
    values: Mapping[str, Any]
    pictures: dict[str, list[str | None]] = field(default_factory=dict)

    def get(self, columns: str) -> Any:
        """The value of the first of some columns, `a|b`, that is there; None where none is, or where it is empty."""
        for column in columns.split("|"):
            value: Any = self.values
            for name in column.split("."):
                value = value.get(name) if isinstance(value, Mapping) else None
            if value is not None and value != "" and value == value:  # a missing number that pandas has written is none
                return value
        return None


class Pictures:
    """The pictures of the files of a benchmark, for several threads at once; see `lab.data.images.Tables`."""

    def __init__(self) -> None:
        self.encoded: dict[str, str] = {}
        """Base64 by source, of a TSV."""
        self.damaged: set[str] = set()
        """Sources whose cell is no base64."""
        self.readers: dict[str, pq.ParquetFile] = {}
        self.kept: tuple[tuple[str, int, str], pa.ChunkedArray] | None = None
        self.reading = threading.Lock()
        """Held by the one thread that uses a reader, which Arrow lets no two do, or what is kept of it."""

    def stamp(self, source: str) -> Stamp:
        """Return size [bytes] and mtime [ns] of the file that holds the picture."""
        found = os.stat(source.rpartition("#")[0])
        return Stamp(found.st_size, found.st_mtime_ns)

    def fetch(self, picture: Medium) -> Medium:
        """Return the picture with its encoded bytes; one that is a file by itself as it is."""
        file, _, place = picture.source.rpartition("#")
        if not file:
            return picture
        return dataclasses.replace(picture, data=self.read(picture.source, file, place))

    def read(self, source: str, file: str, place: str) -> bytes:
        if source in self.encoded:
            try:
                return base64.b64decode(self.encoded[source], validate=True)
            except binascii.Error as error:
                raise BadRecord(source, f"the cell holds no base64 ({error})") from None
        row, column, *among = place.split("/")
        with self.reading:
            cell = self.cell(file, int(row), column)
        cell = cell[int(among[0])] if among else cell
        data = cell.get("bytes") if isinstance(cell, Mapping) else None
        if not isinstance(data, bytes):
            raise BadRecord(source, f"the cell holds no encoded image but {shown(cell)}")
        return data

    def cell(self, file: str, row: int, column: str) -> Any:
        """A cell of a Parquet file; the column of its row group is kept for the rows that follow."""
        if file not in self.readers:
            self.readers[file] = pq.ParquetFile(file)
        reader = self.readers[file]
        for group in range(reader.metadata.num_row_groups):
            if row < reader.metadata.row_group(group).num_rows:
                if self.kept is None or self.kept[0] != (file, group, column):
                    self.kept = (file, group, column), reader.read_row_group(group, columns=[column]).column(column)
                return self.kept[1][row].as_py()
            row -= reader.metadata.row_group(group).num_rows
        raise DataError(f"{file}: it has fewer rows than when it was first read.")


def files_of(root: Path, spec: Spec, subset: str | None, split: str) -> list[Path]:
    """The files that hold a split: a TSV, or Parquet shards in order. Raises `ConfigError` for a root that holds both, `DataError` for none."""
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError(absent("data.root", root, "file or folder"))
    tsvs = [path for path in sorted(root.glob("*.tsv")) if path.stem.removesuffix("_local") in spec.tsv] or sorted(root.glob("*.tsv"))
    shards = sorted(path for pattern in ("*.parquet", "*/*.parquet") for path in root.glob(pattern))
    if tsvs and shards:
        raise ConfigError(f"data.root={root}: it holds {tsvs[0].name} and {shards[0].relative_to(root)}; give the one that is meant, or its folder.")
    if len(tsvs) > 1:
        raise ConfigError(f"data.root={root}: it holds {', '.join(path.name for path in tsvs)}; give the file that is meant.")
    return tsvs or shards_of(root, shards, spec, subset, split)


def shards_of(root: Path, shards: Sequence[Path], spec: Spec, subset: str | None, split: str) -> list[Path]:
    """The shards of a split; where the snapshot has a folder for each subset, of that subset."""
    named = {folder: [path for path in shards if path.parent.name == folder] for folder in spec.folders.values()}
    folder = next((folder for folder, files in named.items() if files), None) if subset is None else spec.folders.get(subset, subset)
    others = [path for path in shards if path.parent.name != spec.joined and (folder is None or path.parent.name == folder or path.parent == root)]
    found = [path for path in others if (match := SHARD.fullmatch(path.name)) and match["split"] in (split, *spec.tsv, *map(str.lower, spec.tsv))]
    if not found:
        there = ", ".join(sorted({f"{path.relative_to(root)}" for path in shards})) or "no Parquet file and no TSV"
        wanted = f"split {split}" + (f" of data.subset={subset}" if subset else "")
        raise DataError(f"data.root={root}: {wanted} is not there; it holds {there}.")
    return found


def rows_of(files: Sequence[Path], root: Path, spec: Spec, pictures: Pictures) -> Iterator[Cells]:
    """Every row of a benchmark's files, in order."""
    if files[0].suffix.lower() != ".parquet":
        yield from of_tsv(files[0], pictures)
        return
    elsewhere = joined(root, spec) if spec.joined else {}
    for file in files:
        for cells in of_parquet(file):
            if spec.joined and not cells.pictures:
                cells.pictures = {"image": [elsewhere.get(str(cells.get(spec.cluster)))]}
            yield cells


def joined(root: Path, spec: Spec) -> dict[str, str]:
    """The pictures of the folder `spec.joined` by their id."""
    folder = root if root.is_dir() else root.parent.parent
    shards = sorted((folder / spec.joined).glob("*.parquet"))
    if not shards:
        raise DataError(f"data.root={folder}: it has no {spec.joined}/*.parquet, which holds the pictures.")
    found = ((str(cells.get("id")), source) for file in shards for cells in of_parquet(file) for source in cells.pictures["image"])
    return {name: source for name, source in found if source is not None}


def of_parquet(file: Path) -> Iterator[Cells]:
    """The rows of a shard. Its image columns are told by their type, with and without the metadata of `datasets`. Raises `DataError`."""
    try:
        reader = pq.ParquetFile(file)
        schema = reader.schema_arrow
        images = [name for name in schema.names if is_image(schema.field(name).type)]
        values = reader.read(columns=[name for name in schema.names if name not in images])
        there = {name: presence(reader, name, schema.field(name).type) for name in images}
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: the table cannot be read ({error}).") from None
    for row, each in enumerate(values.to_pylist()):
        yield Cells(f"{file}#{row}", each, {name: sources(f"{file}#{row}/{name}", there[name][row]) for name in images})


def sources(place: str, present: bool | list[bool] | None) -> list[str | None]:
    """The names of the pictures of a cell."""
    if isinstance(present, list):
        return [f"{place}/{k}" if each else None for k, each in enumerate(present)]
    return [place if present else None]


def is_image(kind: pa.DataType) -> bool:
    """Whether a column holds encoded pictures, or lists of them."""
    kind = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
    return pa.types.is_struct(kind) and {field.name for field in kind} >= {"bytes"}


def presence(reader: pq.ParquetFile, column: str, kind: pa.DataType) -> list[Any]:
    """Whether each cell holds the bytes of a picture, or of each of its pictures; bytes are read where the file's statistics leave it open."""
    found: list[Any] = []
    for group in range(reader.metadata.num_row_groups):
        part = reader.metadata.row_group(group)
        leaves = [part.column(k) for k in range(part.num_columns) if part.column(k).path_in_schema.split(".")[0] == column]
        leaf = next(each for each in leaves if each.path_in_schema.endswith("bytes"))
        whole = leaf.statistics is not None and leaf.statistics.has_null_count and leaf.statistics.null_count == 0
        if whole and pa.types.is_struct(kind):
            found += [True] * part.num_rows
            continue
        light = [each.path_in_schema for each in leaves if whole and each is not leaf]
        cells = reader.read_row_group(group, columns=light[:1] or [column]).column(column).to_pylist()
        found += [[whole or has_bytes(one) for one in cell] if isinstance(cell, list) else whole or has_bytes(cell) for cell in cells]
    return found


def has_bytes(cell: Any) -> bool:
    return isinstance(cell, Mapping) and bool(cell.get("bytes"))


def of_tsv(file: Path, pictures: Pictures) -> Iterator[Cells]:
    """The rows of a TSV. Empty cells are missing; `None`, `N/A` and `null` are words. Raises `DataError`."""
    rows = list(delimited(file))
    held = {row["index"]: row.get("image", "") for row in rows if "index" in row}
    for place, row in enumerate(rows):
        if "index" not in row:
            raise DataError(f"{file}: it has no column index; its columns are {', '.join(row)}.")
        values = {name: value for name, value in row.items() if name != "image"}
        source = f"{file}#{place}/image"
        paths = listed(row.get("image_path", ""))
        found: list[str | None] = encoded(row["image"], held, source, pictures) if "image" in row else [str(file.parent / path) for path in paths]
        yield Cells(f"{file}#{place}", values, {"image": found})


def encoded(cell: str, held: Mapping[str, str], source: str, pictures: Pictures) -> list[str | None]:
    """The sources of the pictures of a cell; a short cell names the row that holds it."""
    texts = [held.get(text, "") if len(text) <= REFERENCE else text for text in listed(cell)]
    found: list[str | None] = []
    for k, text in enumerate(texts):
        name = source if len(texts) == 1 else f"{source}/{k}"
        pictures.encoded |= {name: text} if text else {}
        if len(text) % 4 or BASE64.fullmatch(text) is None:
            pictures.damaged.add(name)
        found.append(name if text else None)
    return found


def delimited(file: Path) -> Iterator[dict[str, str]]:
    """The rows of a TSV as dicts, whose fields may be as long as a picture."""
    before = csv.field_size_limit(MOST_FIELD)
    try:
        with file.open(encoding="utf-8-sig", newline="") as opened_file:
            reader = csv.DictReader(opened_file, delimiter="\t", restkey="", restval="")
            yield from reader
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file}: it cannot be read as TSV ({error}).") from None
    finally:
        csv.field_size_limit(before)


def listed(value: Any) -> list[str]:
    """A cell as a list of texts: a list, the text of a Python list, or one text; a missing one as none. Never `eval`."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return [value]
    if isinstance(value, list | tuple):
        return [str(each) for each in value if each is not None]
    return [] if value is None or value == "" else [str(value)]


def legal_split(spec: Spec, split: str | None) -> str:
    """The split that is read. Raises `ConfigError`."""
    if split is not None and split not in spec.splits:
        legal = ", ".join(spec.splits)
        raise ConfigError(f"data.split={split}: splits of {spec.title} with answers are {legal}.{did_you_mean(split, spec.splits)}")
    return split or next(iter(spec.splits))
