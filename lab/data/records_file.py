"""A file of records that somebody made: CSV, TSV, JSON, JSON Lines, Parquet, a folder of `save_to_disk` or a hub id, read alike.

Every cell is text without white space at its ends, or a list of such texts, or the pictures that a table holds. A number stands as
it is written (`007` stays `007`); nothing is guessed from other rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lab.data import manifest, tables
from lab.data.faults import BadRecord, not_unicode, shown
from lab.data.files import mark_length, open_regular
from lab.data.manifest import Row
from lab.errors import ConfigError, DataError
from lab.paths import absent
from lab.records import Picture

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON = (".json", ".jsonl", ".ndjson")
csv.field_size_limit(manifest.MAX_RECORD)


@dataclass(frozen=True)
class RecordsFile:
    """rows: each with its place, `file:line` or `table#row`; several on one line are numbered. columns: all names, in order.

    faults: rows that cannot be read. tables: where pictures lie, where the file holds them. splits: of each row, where the file itself
    is divided.
    """

    rows: list[Row]
    columns: tuple[str, ...]
    faults: list[BadRecord]
    tables: tables.Tables | None = None
    splits: dict[str, str] = field(default_factory=dict)


def read(path: str, images: Sequence[str], cache_dir: Path, key: str = "data.path") -> RecordsFile:
    """Read a whole file. images: names of the columns that may hold pictures. key: that names it. Raises `ConfigError` or `DataError`."""
    ending = Path(path).suffix.lower()
    if ending in (*DELIMITERS, *JSON, ".parquet") and not Path(path).is_file():
        raise DataError(absent(key, path))
    if ending in DELIMITERS:
        return collected(delimited(Path(path), DELIMITERS[ending]))
    if ending in JSON:
        return collected(manifest.objects(Path(path)))
    if Path(path).is_file() and ending != ".parquet":
        raise ConfigError(f"{key}={path}: legal endings are {', '.join((*DELIMITERS, *JSON, '.parquet'))}.")
    return divided(path, tables.open_every_split(path, cache_dir), images)


def divided(path: str, datasets: dict[str, Any], images: Sequence[str]) -> RecordsFile:
    """The records of tables of `datasets` by their split."""
    made: list[tables.Table] = []
    found: list[tuple[str, dict[str, Any]]] = []
    splits: dict[str, str] = {}
    with_paths: list[str] = []
    for split, dataset in datasets.items():
        name = f"{path}[{split}]" if split else path
        held = [column for column in images if column in dataset.column_names and tables.is_image(dataset, column)]
        with_paths += [name] if {*images} & {*dataset.column_names} - {*held} else []
        made.append(tables.Table(name, dataset, held))
        pictures = {column: made[-1].sources(column) for column in held}
        for index, fields in enumerate(tables.values(dataset)):
            own = {column: [Picture(source) for source in sources[index]] or None for column, sources in pictures.items()}
            found.append((f"{name}#{index}", fields | own))
            splits[f"{name}#{index}"] = split
    inside = any(table.images for table in made)
    if inside and with_paths:
        raise DataError(f"{with_paths[0]}: some pictures lie in the table and others in files; take one of the columns out.")
    file = collected(iter(found))
    return replace(file, tables=tables.Tables(made) if inside else None, splits=splits if len(datasets) > 1 else {})


def collected(found: Iterator[tuple[str, dict[str, Any] | BadRecord]]) -> RecordsFile:
    """Every record with its cells as text; those of which a cell is neither text, number, list nor picture are faults."""
    rows: list[Row] = []
    faults: list[BadRecord] = []
    columns: dict[str, None] = {}
    here: Counter[str] = Counter()
    for line, fields in found:
        here[line] += 1
        source = line if here[line] == 1 else f"{line} (record {here[line]})"
        try:
            if isinstance(fields, BadRecord):
                raise BadRecord(source, fields.reason)
            columns |= dict.fromkeys(fields)
            rows.append(Row(source, {key: cell(source, key, value) for key, value in fields.items()}))
        except BadRecord as fault:
            faults.append(fault)
    return RecordsFile(rows, tuple(columns), faults)


def cell(source: str, key: str, value: Any) -> Any:
    """A value as text, a list of texts, or pictures; an empty one as None. Raises `BadRecord`."""
    if isinstance(value, str):
        if wrong := not_unicode(value):
            raise BadRecord(source, f"key {key!r}: {wrong}")
        return value.strip() or None
    if value is None or isinstance(value, Picture):
        return value
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        cells = [cell(source, key, one) for one in value]
        if all(isinstance(one, str | Picture) for one in cells):
            return cells or None
    raise BadRecord(source, f"key {key!r}: {shown(value)} is given; a text, a number, or a list of them is legal")


def text_of(path: Path) -> str:
    """The text of a file in UTF-8, with or without a byte-order mark. Raises `DataError` with the line that is not, or naming another encoding."""
    try:
        with open_regular(path) as file:
            data = file.read()
    except (OSError, ValueError) as error:
        raise DataError(f"data.path={path}: it cannot be read ({error}).") from None
    try:
        return data[mark_length(data) :].decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: it is not UTF-8 ({error.reason}, byte {data[error.start]:#04x}). Save the file as UTF-8.") from None
    except ValueError as error:
        raise DataError(f"{path}: {error}.") from None


def delimited(path: Path, delimiter: str) -> Iterator[tuple[str, dict[str, Any] | BadRecord]]:
    """Records of CSV or TSV under a header. A field with both a line break and a delimiter is taken for a stray quote: a fault."""
    reader = csv.reader(io.StringIO(text_of(path), newline=""), delimiter=delimiter, strict=True)
    header = next_of(reader, path)
    if not header:
        raise DataError(f"{path}: it is empty; its first line names the columns.")
    header = [name.strip() for name in header]
    if len(header) == 1 and (others := [other for other in ",;\t" if other in header[0]]):
        raise DataError(f"{path}:1: {path.suffix} is divided by {delimiter!r}, and this file by {others[0]!r}. Save it with {delimiter!r}.")
    if len(set(header)) < len(header) or not all(header):
        raise DataError(f"{path}:1: the header is {shown(header, 200)}; each column needs a name of its own.")
    while True:
        line = reader.line_num + 1
        source = f"{path}:{line}"
        fields = next_of(reader, path)
        if fields is None:
            return
        glued = [name for name, value in zip(header, fields, strict=False) if "\n" in value and delimiter in value]
        if glued:
            lines = f"lines {line} to {reader.line_num}"
            yield source, BadRecord(
                source, f"key {glued[0]!r} holds {lines} and a {delimiter!r}: a quote is not closed. If it is meant, write JSON Lines"
            )
        elif fields and len(fields) != len(header):
            yield source, BadRecord(source, f"{len(fields)} fields are given; the header has {len(header)} ({', '.join(header)})")
        elif fields:
            yield source, dict(zip(header, fields, strict=True))


def next_of(reader: Any, path: Path) -> list[str] | None:
    """The next row; None at the end. Raises `DataError` where no row can be made of the text."""
    line = reader.line_num + 1
    try:
        return next(reader, None)
    except csv.Error as error:
        raise DataError(f"{path}:{line}: no row of a {path.suffix} file begins here ({error}). Look for a quote that is not closed.") from None
