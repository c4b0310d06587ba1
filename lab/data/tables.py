"""Tables with images inside (parquet or Arrow, a local folder or the Hugging Face hub), read row by row.

The only file of `lab.data` that imports `datasets`, and only where a table is read (`library`). Images stay encoded and on disk until a
sample is asked for; a picture is named `<table>[<split>]#<row>/<column>`, the k-th of a list of them `.../<column>/<k>`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lab.data.faults import BadRecord, shown
from lab.data.manifest import Row
from lab.data.verified import Stamp
from lab.errors import ConfigError, DataError, LabError
from lab.paths import absent
from lab.records import Medium

HUB_ID = re.compile(r"(?P<path>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")
SHARD = re.compile(r"(?P<split>[A-Za-z0-9_.]+?)(-[0-9]{5}-of-[0-9]{5}(-[0-9a-f]{16})?)?\.parquet")


def library() -> Any:
    """The package `datasets`. Raises `ConfigError` where it is not installed."""
    try:
        import datasets
    except ImportError as error:
        raise ConfigError(
            f"data: tables (parquet, Arrow, the hub) are read by the package datasets, which cannot be imported ({error}). "
            "Install it with `pip install datasets`, or give data that are no tables, such as data=pairs or data=nlvr."
        ) from None
    return datasets


class Table:
    """One split of a table: image columns that stay encoded, and columns of plain values. Others are never touched, but `nested` ones."""

    def __init__(self, name: str, dataset: Any, images: Sequence[str], nested: Sequence[str] = ()) -> None:
        self.name = name
        self.images = tuple(images)
        missing = [column for column in (*images, *nested) if column not in dataset.column_names]
        if missing:
            there = ", ".join(dataset.column_names)
            raise DataError(f"{name}: it has no column {missing[0]!r}; its columns are {there}.")
        self._columns = {column: _encoded(name, dataset, column) for column in images}
        self._meta = dataset.select_columns([name for name in dataset.column_names if name in nested or _is_scalar(dataset, name)])
        files = [os.stat(file["filename"]) for file in dataset.cache_files]
        self.stamp = Stamp(sum(file.st_size for file in files), max((file.st_mtime_ns for file in files), default=0))

    def __len__(self) -> int:
        return len(self._meta)

    def rows(self) -> list[Row]:
        """Return every row without its images."""
        return [Row(f"{self.name}#{index}", fields) for index, fields in enumerate(self._meta)]

    def source(self, index: int, column: str) -> str:
        """Return the name of one picture."""
        return f"{self.name}#{index}/{column}"

    def sources(self, column: str) -> list[list[str]]:
        """The names of the pictures in each row of a column, without reading them; none where a cell is empty."""
        cells = self._columns[column].data.column(column)
        if not pa.types.is_list(cells.type) and not pa.types.is_large_list(cells.type):
            return [[self.source(index, column)] if there else [] for index, there in enumerate(cells.is_valid().to_pylist())]
        lengths = pc.call_function("list_value_length", [cells]).to_pylist()
        return [[f"{self.source(index, column)}/{k}" for k in range(length or 0)] for index, length in enumerate(lengths)]

    def several(self, column: str) -> bool:
        """Whether a cell of the column is a list of pictures."""
        kind = self._columns[column].data.column(column).type
        return pa.types.is_list(kind) or pa.types.is_large_list(kind)

    def counts(self, column: str) -> np.ndarray:
        """How many pictures are in each row of a column, without reading them; int32 [rows]."""
        cells = self._columns[column].data.column(column)
        lengths = pc.call_function("list_value_length", [cells]) if self.several(column) else cells.is_valid()
        return lengths.cast(pa.int32()).fill_null(0).to_numpy()

    def encoded(self, index: int, column: str, place: int | None = None) -> bytes:
        """Return the encoded bytes of one picture; place: among those of its cell."""
        cell = self._columns[column][index][column]
        cell = cell if place is None else cell[place]
        data = cell.get("bytes") if isinstance(cell, Mapping) else None
        if not isinstance(data, bytes):
            what = f"only a path, {shown(cell.get('path'))}" if isinstance(cell, Mapping) else shown(cell)
            raise BadRecord(self.source(index, column), f"the cell holds no encoded image but {what}")
        return data


class Tables:
    """Several tables as one place to fetch pictures from; see `lab.data.images.Tables`."""

    def __init__(self, tables: Sequence[Table]) -> None:
        self._tables = {table.name: table for table in tables}

    def stamp(self, source: str) -> Stamp:
        """Return size [bytes] and newest mtime [ns] of the files of the table."""
        return self._tables[source.rpartition("#")[0]].stamp

    def fetch(self, picture: Medium) -> Medium:
        """Return the picture with its encoded bytes."""
        name, _, place = picture.source.rpartition("#")
        index, column, *among = place.split("/")
        return dataclasses.replace(picture, data=self._tables[name].encoded(int(index), column, *map(int, among)))


def open_tables(
    root: str, splits: Sequence[str], images: Sequence[str], cache_dir: Path, nested: Sequence[str] = ()
) -> dict[str, Table]:
    """Open the named splits that are there, of a folder of parquet files or of a hub id `owner/name[@revision]`.

    nested: columns of lists or of several values that are read too. Local files are named `<split>.parquet` or
    `<split>-00000-of-00001.parquet`, in the folder or in `data/` in it.
    Raises `DataError` if none of the splits is there.
    """
    folder = Path(root)
    found = _local(folder, splits, cache_dir) if folder.is_dir() else _hub(root, splits, cache_dir)
    return {split: Table(f"{root}[{split}]", dataset, images, nested) for split, dataset in found.items()}


def open_every_split(path: str, cache_dir: Path) -> dict[str, Any]:
    """Open a Parquet file, a folder written by `save_to_disk` or a hub id whole: its splits by name; a table without is `""`."""
    if Path(path).suffix.lower() == ".parquet":
        return {"": _parquet([path], cache_dir)}
    if Path(path).is_dir():
        return open_arrow(path, "data.path", single="")
    return _hub(path, (None,), cache_dir, "data.path")


def values(dataset: Any) -> Iterator[dict[str, Any]]:
    """Every row without its images, a class label as its name."""
    datasets = library()
    names = [name for name in dataset.column_names if not is_image(dataset, name)]
    labels = {name: dataset.features[name] for name in names if isinstance(dataset.features[name], datasets.ClassLabel)}
    for row in dataset.select_columns(names):
        named = {name: feature.int2str(row[name]) for name, feature in labels.items() if row[name] is not None and row[name] >= 0}
        yield {**row, **dict.fromkeys(labels), **named}


def open_arrow(root: str, key: str = "data.root", single: str = "dev") -> dict[str, Any]:
    """Open a folder written by `save_to_disk`: a `DatasetDict` by its splits, a `Dataset` as `single`. key: that names it."""
    datasets = library()

    folder = Path(root)
    if not folder.is_dir():
        raise DataError(absent(key, root, "folder of save_to_disk"))
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # a broken folder raises whatever its JSON or Arrow reader raises
        raise DataError(f"{key}={root}: not a readable save_to_disk folder ({_short(error)}).") from error
    several = loaded if isinstance(loaded, datasets.DatasetDict) else {single: loaded}
    opened = {str(split): dataset for split, dataset in several.items()}
    for dataset in opened.values():
        for file in dataset.cache_files:  # their names come from a file in the folder
            if not Path(os.path.abspath(file["filename"])).is_relative_to(os.path.abspath(folder)):
                raise DataError(f"{key}={root}: its state.json names a file outside it, {file['filename']}.")
    return opened


def _local(folder: Path, splits: Sequence[str], cache_dir: Path) -> dict[str, Any]:
    library()  # where it is missing, nothing else is worth saying

    shards: dict[str, list[str]] = {}
    for place in (folder, folder / "data"):
        for path in sorted(place.glob("*.parquet")):
            named = SHARD.fullmatch(path.name)
            if named:
                shards.setdefault(named["split"], []).append(str(path))
    wanted = {split: files for split, files in shards.items() if split in splits}
    if not wanted:
        there = ", ".join(sorted(shards)) or "none"
        raise DataError(f"data.root={folder}: splits wanted: {', '.join(splits)}; splits found as parquet: {there}.")
    return {split: _parquet(files, cache_dir) for split, files in wanted.items()}


def _parquet(files: list[str], cache_dir: Path) -> Any:
    try:
        return library().load_dataset("parquet", data_files=files, split="train", cache_dir=str(Path(cache_dir) / "tables"))
    except LabError:
        raise
    except Exception as error:  # a broken file raises whatever its parquet reader raises
        raise DataError(f"{files[0]}: the table cannot be read ({_short(error)}).") from error


def _hub(root: str, splits: Sequence[str | None], cache_dir: Path, key: str = "data.root") -> dict[str, Any]:
    datasets = library()

    named = HUB_ID.fullmatch(root)
    if named is None:
        raise ConfigError(
            f"{key}={root}: neither a file or folder that is there nor a hub id, 'owner/name' or 'owner/name@revision'."
        )
    opened: dict[str, Any] = {}
    for split in splits:
        try:
            loaded = datasets.load_dataset(
                named["path"], revision=named["revision"], split=split, cache_dir=str(Path(cache_dir) / "tables")
            )
        except Exception as error:  # gated, offline, absent, renamed: the hub's own words say which
            raise DataError(
                f"{key}={root}: not a local folder, and the hub did not give {f'split {split!r}' if split else 'it'} ({_short(error)}). "
                "For a gated set accept its terms on its page and run `hf auth login`."
            ) from error
        opened |= dict(loaded) if split is None else {split: loaded}
    return opened


def _is_scalar(dataset: Any, column: str) -> bool:
    datasets = library()

    return isinstance(dataset.features[column], (datasets.Value, datasets.ClassLabel))


def is_image(dataset: Any, column: str) -> bool:
    """Whether a column holds encoded images, or lists of them."""
    datasets = library()

    feature = dataset.features[column]
    feature = feature.feature if isinstance(feature, datasets.List | datasets.LargeList) else feature
    return isinstance(feature, datasets.Image) or (isinstance(feature, Mapping) and "bytes" in feature)


def _encoded(name: str, dataset: Any, column: str) -> Any:
    """Return the table of one image column, its cells as {"bytes", "path"}."""
    datasets = library()

    if not is_image(dataset, column):
        raise DataError(f"{name}: column {column!r} does not hold images but {dataset.features[column]}.")
    alone = dataset.select_columns([column])
    feature = alone.features[column]
    if isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Image):
        return alone.cast_column(column, datasets.List(datasets.Image(decode=False)))
    return alone.cast_column(column, datasets.Image(decode=False)) if isinstance(feature, datasets.Image) else alone


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
