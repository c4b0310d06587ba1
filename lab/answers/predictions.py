"""The predictions table: what a run said of every sample, and the only thing its numbers come from.

One Parquet file per split, one row per `Prediction`; its metadata name the schema's version and the kind of answer.
`read(path, columns=[...])` touches only the columns it is asked for, so that a report over thousands of runs stays cheap.
Version 1, of True/False questions alone, is read as version 2.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lab.answers import learned
from lab.answers.choice import ChoiceTable
from lab.answers.regions import RegionsTable
from lab.answers.table import PredictionTable
from lab.answers.text import ConversationTable, RepliedTable, TextTable, VotedTable
from lab.errors import DataError, did_you_mean
from lab.host.files import write_atomically
from lab.records import Choice, Prediction

SCHEMA_VERSION = 2
VERSION_KEY, KIND_KEY = b"vlm_lab.predictions", b"vlm_lab.kind"
TABLES = (ChoiceTable, TextTable, VotedTable, ConversationTable, RepliedTable, RegionsTable)
KINDS: dict[str, type[PredictionTable]] = {table.kind: table for table in TABLES}
COLUMNS = tuple(dict.fromkeys(name for table in KINDS.values() for name in table.names()))
VERSION_1 = {
    "question_group": {"sentence_group": pa.string()},
    "options": {},
    "right": {"label": pa.bool_()},
    "log_p": {"log_p_true": pa.float64(), "log_p_false": pa.float64()},
    "prediction": {"prediction": pa.bool_()},
}
"""Columns of a `ChoiceTable` that version 1 kept otherwise, by name and type."""


def table(predictions: Iterable[Prediction]) -> PredictionTable:
    """Turn predictions into a checked table without a file."""
    return _checked(_arrow(predictions, "predictions"), "predictions")


def write(path: str | os.PathLike, predictions: Iterable[Prediction]) -> None:
    """Write a predictions file whole or not at all."""
    rows = _arrow(predictions, str(path))
    _checked(rows, str(path))
    _save(Path(path), rows)


def rewrite(path: str | os.PathLike, column: str, value: str) -> None:
    """Set one column of a predictions file to a value, such as the rule by which its texts are read."""
    rows = arrow(path)
    place = rows.schema.get_field_index(column)
    _save(Path(path), rows.set_column(place, rows.schema.field(place), pa.array([value] * rows.num_rows, rows.schema.field(place).type)))


def _save(path: Path, rows: pa.Table) -> None:
    write_atomically(path, lambda temporary: pq.write_table(rows, temporary, compression="zstd", write_page_checksum=True))


def read(path: str | os.PathLike, columns: Sequence[str] | None = None) -> PredictionTable:
    """Read a predictions file, or only some of its columns, and check what was read.

    Scores beside it (`lab.answers.learned`) are read with it, all or those that are named; where there are none, the table lacks them.
    """
    for name in columns or ():
        if name not in COLUMNS:
            legal = ", ".join(COLUMNS)
            raise DataError(f"predictions: no column {name!r}; legal: {legal}.{did_you_mean(name, COLUMNS)}")
    if columns is not None and not columns:
        raise DataError(f"{path}: columns=[] reads nothing; name some of {', '.join(COLUMNS)}, or give None for all.")
    scores = learned.stored(path) if columns is None or set(columns) & set(learned.NAMES) else ()
    if columns is not None and scores:
        columns = (*columns, *learned.SCORED)
    table = _checked(arrow(path, columns), str(path))
    return table.replace(**learned.beside(path, vars(table))) if scores else table


def rows(path: str | os.PathLike) -> list[Prediction]:
    """The predictions of a file one by one, as they were written."""
    stored = arrow(path)
    kind = KINDS[stored.schema.metadata[KIND_KEY].decode()]
    found = []
    for row in stored.to_pylist():
        answer, said = kind.answer_of(row)
        shared = {name: row[name] for name in ("sample_id", "image_set", "question_group", "subset")}
        found.append(Prediction(**shared, answer=answer, said=said, image_order=tuple(row["image_order"]), visual_tokens=tuple(row["visual_tokens"])))
    return found


def arrow(path: str | os.PathLike, columns: Sequence[str] | None = None) -> pa.Table:
    """The columns of a predictions file as they lie there, in the schema of today."""
    with readable(path), pq.ParquetFile(path, page_checksum_verification=True) as file:
        version, kind = _kind(file.schema_arrow, str(path))
        fields = {name: field for name, field in kind.fields().items() if columns is None or name in columns}
        stored = {name: {name: field.type} if version == 2 else VERSION_1.get(name, {name: field.type}) for name, field in fields.items()}
        wanted = {name: expected for parts in stored.values() for name, expected in parts.items()}
        _check_columns(file.schema_arrow, wanted, str(path))
        rows = file.read(columns=list(wanted), use_threads=False)
        if version == 1:
            schema = pa.schema(list(fields.values()), metadata=_metadata(kind))
            return pa.table([_from_version_1(rows, field, file.metadata.num_rows) for field in fields.values()], schema=schema)
        return rows


@contextlib.contextmanager
def readable(path: str | os.PathLike) -> Iterator[None]:
    """Turn what PyArrow says of a missing or broken file into a `DataError` that names it."""
    try:
        yield
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such predictions file; evaluate the run first.") from error
    except (pa.ArrowException, OSError, ValueError, TypeError, OverflowError, MemoryError) as error:  # a broken file may raise any
        raise DataError(f"{path}: not a readable Parquet file ({error}); evaluate the run again.") from error


def _metadata(kind: type[PredictionTable]) -> dict[bytes, bytes]:
    return {VERSION_KEY: str(SCHEMA_VERSION).encode(), KIND_KEY: kind.kind.encode()}


def _arrow(predictions: Iterable[Prediction], source: str) -> pa.Table:
    rows = list(predictions)
    kinds = {row.answer.kind for row in rows}
    if len(kinds) != 1:
        what = f"kinds of answer are mixed: {', '.join(sorted(kinds))}." if rows else "no predictions; a metric of nothing is undefined."
        raise DataError(f"{source}: {what}")
    kind = KINDS[kinds.pop()].of(rows)
    fields = kind.fields()
    try:
        cells = kind.cells(rows) | {name: [getattr(row, name) for row in rows] for name in fields if hasattr(rows[0], name)}
        return pa.table({name: cells[name] for name in fields}, schema=pa.schema(list(fields.values()), metadata=_metadata(kind)))
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"{source}: a prediction does not fit the schema ({error}); see lab.records.Prediction.") from error


def _kind(schema: pa.Schema, source: str) -> tuple[int, type[PredictionTable]]:
    """The version of a file's schema, and the kind of its answers."""
    metadata = schema.metadata or {}
    version, kind = metadata.get(VERSION_KEY, b"").decode(), metadata.get(KIND_KEY, b"").decode()
    if version == "1":
        return 1, ChoiceTable
    if version != str(SCHEMA_VERSION) or kind not in KINDS:
        raise DataError(
            f"{source}: predictions schema version {version or 'none'} of kind {kind or 'none'}, this laboratory reads 1 and "
            f"{SCHEMA_VERSION} of kind {', '.join(KINDS)}; evaluate the run again."
        )
    return 2, KINDS[kind]


def _check_columns(schema: pa.Schema, wanted: dict[str, pa.DataType], source: str) -> None:
    missing = [name for name in wanted if name not in schema.names]
    if missing:
        raise DataError(f"{source}: missing column(s) {', '.join(missing)}; the file holds {', '.join(schema.names)}.")
    for name, expected in wanted.items():
        if not schema.field(name).type.equals(expected):
            raise DataError(f"{source}: column {name!r} is {schema.field(name).type}, not {expected}.")


def _from_version_1(rows: pa.Table, field: pa.Field, number: int) -> pa.Array | pa.ChunkedArray:
    """One column of a `ChoiceTable` from those of version 1."""
    match field.name:
        case "question_group":
            return rows.column("sentence_group")
        case "options":
            return pa.array([Choice.truth(True).options] * number, field.type)
        case "log_p":
            pairs = np.stack([rows.column(name).to_numpy() for name in VERSION_1["log_p"]], axis=1)
            return pa.ListArray.from_arrays(np.arange(0, 2 * number + 1, 2, dtype=np.int32), pairs.ravel())
        case "right" | "prediction":
            (stored,) = VERSION_1[field.name]
            return pc.call_function("invert", [rows.column(stored)]).cast(field.type)  # True is the first option
        case name:
            return rows.column(name)


def _checked(rows: pa.Table, source: str) -> PredictionTable:
    """Refuse an empty table, nulls, NaN, impossible values and ids that occur twice."""
    if rows.num_rows == 0:
        raise DataError(f"{source}: no predictions; a metric of nothing is undefined.")
    kind = KINDS[rows.schema.metadata[KIND_KEY].decode()]
    columns = {}
    for name in rows.column_names:
        column = rows.column(name)
        if column.null_count and not kind.fields()[name].nullable:
            raise DataError(f"{source}: column {name!r} is empty in {column.null_count} of {rows.num_rows} rows.")
        columns[name] = _numpy(kind, name, column)
    made = kind(**columns)
    made.check(source)
    if "sample_id" in columns:
        ids, counts = np.unique(columns["sample_id"], return_counts=True)
        if (counts > 1).any():
            raise DataError(
                f"{source}: {int((counts > 1).sum())} sample id(s) occur more than once, "
                f"the first {str(ids[counts > 1][0])!r}; every sample is predicted exactly once."
            )
    return made


def _numpy(kind: type[PredictionTable], name: str, column: pa.ChunkedArray) -> np.ndarray:
    if name in ("image_order", "visual_tokens"):
        values = np.empty(len(column), dtype=object)
        values[:] = [tuple(item) for item in column.to_pylist()]
        return values
    if name in ("sample_id", "image_set", "question_group"):
        return np.asarray(column.to_pylist(), dtype=np.str_)
    if name == "subset":
        return np.asarray(column.to_pylist(), dtype=object)
    return kind.decode(name, column)
