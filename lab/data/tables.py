"""Tables with images inside (parquet or Arrow, a local folder or the Hugging Face hub), read row by row.

The only file of `lab.data` that imports `datasets`, and only where a table is read (`library`). Images stay encoded and on disk until a
sample is asked for; a picture is named `<table>[<split>]#<row>/<column>`.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.data.faults import BadRecord, shown
from lab.data.manifest import Row
from lab.data.verified import Stamp
from lab.errors import ConfigError, DataError
from lab.records import Picture

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
    """One split of a table: image columns that stay encoded, and columns of plain values. Others are never touched."""

    def __init__(self, name: str, dataset: Any, images: Sequence[str]) -> None:
        self.name = name
        self.images = tuple(images)
        missing = [column for column in images if column not in dataset.column_names]
        if missing:
            there = ", ".join(dataset.column_names)
            raise DataError(f"{name}: it has no column {missing[0]!r}; its columns are {there}.")
        self._columns = {column: _encoded(name, dataset, column) for column in images}
        self._meta = dataset.select_columns([name for name in dataset.column_names if _is_scalar(dataset, name)])
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

    def encoded(self, index: int, column: str) -> bytes:
        """Return the encoded bytes of one picture."""
        cell = self._columns[column][index][column]
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

    def fetch(self, picture: Picture) -> Picture:
        """Return the picture with its encoded bytes."""
        name, _, place = picture.source.rpartition("#")
        index, _, column = place.partition("/")
        return dataclasses.replace(picture, data=self._tables[name].encoded(int(index), column))


def open_tables(root: str, splits: Sequence[str], images: Sequence[str], cache_dir: Path) -> dict[str, Table]:
    """Open the named splits that are there, of a folder of parquet files or of a hub id `owner/name[@revision]`.

    Local files are named `<split>.parquet` or `<split>-00000-of-00001.parquet`, in the folder or in `data/` in it.
    Raises `DataError` if none of the splits is there.
    """
    folder = Path(root)
    found = _local(folder, splits, cache_dir) if folder.is_dir() else _hub(root, splits, cache_dir)
    return {split: Table(f"{root}[{split}]", dataset, images) for split, dataset in found.items()}


def open_arrow(root: str) -> dict[str, Any]:
    """Open a folder written by `save_to_disk`: a `DatasetDict` by its splits, a single `Dataset` as `dev`."""
    datasets = library()

    folder = Path(root)
    if not folder.is_dir():
        raise DataError(f"data.root={root}: no such folder; data.source=arrow needs one written by save_to_disk.")
    try:
        loaded = datasets.load_from_disk(str(folder))
    except Exception as error:  # a broken folder raises whatever its JSON or Arrow reader raises
        raise DataError(f"data.root={root}: not a readable save_to_disk folder ({_short(error)}).") from error
    several = loaded if isinstance(loaded, datasets.DatasetDict) else {"dev": loaded}
    opened = {str(split): dataset for split, dataset in several.items()}
    for dataset in opened.values():
        for file in dataset.cache_files:  # their names come from a file in the folder
            if not Path(os.path.abspath(file["filename"])).is_relative_to(os.path.abspath(folder)):
                raise DataError(f"data.root={root}: its state.json names a file outside it, {file['filename']}.")
    return opened


def _local(folder: Path, splits: Sequence[str], cache_dir: Path) -> dict[str, Any]:
    datasets = library()

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
    opened = {}
    for split, files in wanted.items():
        cache = str(Path(cache_dir) / "tables")
        try:
            opened[split] = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache)
        except Exception as error:  # a broken file raises whatever its parquet reader raises
            raise DataError(f"{files[0]}: the table cannot be read ({_short(error)}).") from error
    return opened


def _hub(root: str, splits: Sequence[str], cache_dir: Path) -> dict[str, Any]:
    datasets = library()

    named = HUB_ID.fullmatch(root)
    if named is None:
        raise ConfigError(
            f"data.root={root}: neither a folder that is there nor a hub id, 'owner/name' or 'owner/name@revision'."
        )
    opened: dict[str, Any] = {}
    for split in splits:
        try:
            opened[split] = datasets.load_dataset(
                named["path"], revision=named["revision"], split=split, cache_dir=str(Path(cache_dir) / "tables")
            )
        except Exception as error:  # gated, offline, absent, renamed: the hub's own words say which
            raise DataError(
                f"data.root={root}: not a local folder, and the hub did not give split {split!r} ({_short(error)}). "
                "For a gated set accept its terms on its page and run `hf auth login`."
            ) from error
    return opened


def _is_scalar(dataset: Any, column: str) -> bool:
    datasets = library()

    return isinstance(dataset.features[column], (datasets.Value, datasets.ClassLabel))


def _is_image(dataset: Any, column: str) -> bool:
    datasets = library()

    feature = dataset.features[column]
    return isinstance(feature, datasets.Image) or (isinstance(feature, Mapping) and "bytes" in feature)


def _encoded(name: str, dataset: Any, column: str) -> Any:
    """Return the table of one image column, its cells as {"bytes", "path"}."""
    datasets = library()

    if not _is_image(dataset, column):
        raise DataError(f"{name}: column {column!r} does not hold images but {dataset.features[column]}.")
    alone = dataset.select_columns([column])
    is_decoded = isinstance(alone.features[column], datasets.Image)
    return alone.cast_column(column, datasets.Image(decode=False)) if is_decoded else alone


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
