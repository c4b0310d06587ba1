"""The predictions table: what a run said of every sample, and the only thing its numbers come from.

One Parquet file per split, one row per `Prediction`. `read(path, columns=[...])` touches only the
columns it is asked for, so that a report over thousands of runs stays cheap.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lab.errors import DataError, did_you_mean
from lab.records import Prediction

SCHEMA_VERSION = 1
_VERSION_KEY = b"vlm_lab.predictions"
_TOLERANCE = 1e-4  # rounding allowed to a sum of probabilities computed in float32

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("image_set", pa.string(), nullable=False),
        pa.field("sentence_group", pa.string(), nullable=False),
        pa.field("subset", pa.string(), nullable=True),
        pa.field("label", pa.bool_(), nullable=False),
        pa.field("log_p_true", pa.float64(), nullable=False),
        pa.field("log_p_false", pa.float64(), nullable=False),
        pa.field("captured_mass", pa.float64(), nullable=False),
        pa.field("prediction", pa.bool_(), nullable=False),
        pa.field("image_order", pa.list_(pa.int32()), nullable=False),
        pa.field("visual_tokens", pa.list_(pa.int32()), nullable=False),
    ],
    metadata={_VERSION_KEY: str(SCHEMA_VERSION).encode()},
)
COLUMNS = tuple(SCHEMA.names)
_TEXT = ("sample_id", "image_set", "sentence_group")
_LISTS = ("image_order", "visual_tokens")


@dataclass(frozen=True, eq=False, repr=False)
class PredictionTable:
    """Columns of n predictions; a column that was not read raises `DataError` when it is touched.

    sample_id, image_set, sentence_group: str [n]; subset: str or None, object [n]
    label, prediction: bool [n]; log_p_true, log_p_false, captured_mass: float64 [n]
    image_order, visual_tokens: object [n] of tuples of int

    What follows from the columns is computed once and cannot be written to.
    """

    sample_id: np.ndarray
    image_set: np.ndarray
    sentence_group: np.ndarray
    subset: np.ndarray
    label: np.ndarray
    log_p_true: np.ndarray
    log_p_false: np.ndarray
    captured_mass: np.ndarray
    prediction: np.ndarray
    image_order: np.ndarray
    visual_tokens: np.ndarray
    kind: ClassVar[str] = "choice"

    def __getattr__(self, name: str) -> np.ndarray:
        """Reached only when a column is absent: say which, and how to get it."""
        if name in COLUMNS:
            have = ", ".join(self.columns)
            raise DataError(f"predictions: column {name!r} was not read (read: {have}); add it to read(columns=[...]).")
        raise AttributeError(name)

    def __len__(self) -> int:
        return len(next(iter(self.__dict__.values())))

    def __repr__(self) -> str:
        return f"PredictionTable({len(self)} rows: {', '.join(self.columns)})"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are here, in the schema's order."""
        return tuple(name for name in COLUMNS if name in self.__dict__)

    @cached_property
    def log_odds(self) -> np.ndarray:
        """z = log p_true - log p_false, the one logit that a temperature scales."""
        return _fixed(self.log_p_true - self.log_p_false)

    @cached_property
    def p_true(self) -> np.ndarray:
        """P(True) = p_true / (p_true + p_false), renormalised over the two answers."""
        return _fixed(sigmoid(self.log_odds))

    @cached_property
    def confidence(self) -> np.ndarray:
        """The renormalised probability of the recorded prediction: max(P, 1 - P) where it is the likelier."""
        return _fixed(sigmoid(np.where(self.prediction, self.log_odds, -self.log_odds)))

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether the recorded prediction equals the label, bool [n]."""
        return _fixed(self.prediction == self.label)

    def take(self, rows: np.ndarray) -> PredictionTable:
        """Keep some rows, by index or by mask: a subset, a resample."""
        return _of({name: self.__dict__[name][rows] for name in self.columns})

    def select(self, *names: str) -> PredictionTable:
        """Keep some columns."""
        return _of({name: getattr(self, name) for name in names})

    def replace(self, **columns: np.ndarray) -> PredictionTable:
        """Exchange whole columns."""
        return _of({**self.__dict__, **columns})


def _fixed(values: np.ndarray) -> np.ndarray:
    """Forbid writing into an array that others will be given too."""
    values.flags.writeable = False
    return values


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)) without overflow; exact at z = 0 and at +-inf."""
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, small) / (1.0 + small)


def table(predictions: Iterable[Prediction]) -> PredictionTable:
    """Turn predictions into a checked table without a file."""
    return _checked(_arrow(predictions, "predictions"), "predictions")


def write(path: str | os.PathLike, predictions: Iterable[Prediction]) -> None:
    """Write a predictions file whole or not at all: a temporary file in the same folder, then `os.replace`."""
    path = Path(path)
    rows = _arrow(predictions, str(path))
    _checked(rows, str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as stream:
            pq.write_table(rows, stream, compression="zstd", write_page_checksum=True)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def read(path: str | os.PathLike, columns: Sequence[str] | None = None) -> PredictionTable:
    """Read a predictions file, or only some of its columns, and check what was read."""
    for name in columns or ():
        if name not in COLUMNS:
            legal = ", ".join(COLUMNS)
            raise DataError(f"predictions: no column {name!r}; legal: {legal}.{did_you_mean(name, COLUMNS)}")
    if columns is not None and not columns:
        raise DataError(f"{path}: columns=[] reads nothing; name some of {', '.join(COLUMNS)}, or give None for all.")
    wanted = [name for name in COLUMNS if columns is None or name in columns]
    with readable(path):
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            _check_schema(file.schema_arrow, wanted, str(path))
            rows = file.read(columns=wanted, use_threads=False)
        return _checked(rows, str(path))


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


def _of(columns: dict[str, np.ndarray]) -> PredictionTable:
    """Make a table that may lack columns."""
    made = object.__new__(PredictionTable)
    made.__dict__.update({name: columns[name] for name in COLUMNS if name in columns})
    return made


def _arrow(predictions: Iterable[Prediction], source: str) -> pa.Table:
    rows = list(predictions)
    try:
        return pa.table({name: [getattr(row, name) for row in rows] for name in COLUMNS}, schema=SCHEMA)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"{source}: a prediction does not fit the schema ({error}); see lab.records.Prediction.") from error


def _check_schema(schema: pa.Schema, wanted: Sequence[str], source: str) -> None:
    version = (schema.metadata or {}).get(_VERSION_KEY, b"").decode()
    if version != str(SCHEMA_VERSION):
        raise DataError(
            f"{source}: predictions schema version {version or 'none'}, this laboratory reads {SCHEMA_VERSION}; "
            "evaluate the run again."
        )
    missing = [name for name in wanted if name not in schema.names]
    if missing:
        raise DataError(f"{source}: missing column(s) {', '.join(missing)}; the file holds {', '.join(schema.names)}.")
    for name in wanted:
        if schema.field(name).type != SCHEMA.field(name).type:
            raise DataError(f"{source}: column {name!r} is {schema.field(name).type}, not {SCHEMA.field(name).type}.")


def _checked(rows: pa.Table, source: str) -> PredictionTable:
    """Refuse an empty table, nulls, NaN, impossible probabilities and ids that occur twice."""
    if rows.num_rows == 0:
        raise DataError(f"{source}: no predictions; a metric of nothing is undefined.")
    columns = {}
    for name in rows.column_names:
        column = rows.column(name)
        if column.null_count and not SCHEMA.field(name).nullable:
            raise DataError(f"{source}: column {name!r} is empty in {column.null_count} of {rows.num_rows} rows.")
        columns[name] = _numpy(name, column)
    _check_probabilities(columns, source)
    if "sample_id" in columns:
        ids, counts = np.unique(columns["sample_id"], return_counts=True)
        if (counts > 1).any():
            raise DataError(
                f"{source}: {int((counts > 1).sum())} sample id(s) occur more than once, "
                f"the first {str(ids[counts > 1][0])!r}; every sample is predicted exactly once."
            )
    return _of(columns)


def _numpy(name: str, column: pa.ChunkedArray) -> np.ndarray:
    if name in _LISTS:
        values = np.empty(len(column), dtype=object)
        values[:] = [tuple(item) for item in column.to_pylist()]
        return values
    if name in _TEXT:
        return np.asarray(column.to_pylist(), dtype=np.str_)
    if name == "subset":
        return np.asarray(column.to_pylist(), dtype=object)
    return column.to_numpy()


def _check_probabilities(columns: dict[str, np.ndarray], source: str) -> None:
    logarithm, mass = (-np.inf, _TOLERANCE), (0.0, 1 + _TOLERANCE)
    for name, (low, high) in {"log_p_true": logarithm, "log_p_false": logarithm, "captured_mass": mass}.items():
        if name not in columns:
            continue
        bad = ~((columns[name] >= low) & (columns[name] <= high))  # true for NaN as well
        if bad.any():
            row = int(bad.argmax())
            raise DataError(
                f"{source}: column {name!r} holds {columns[name][row]} in row {row} ({int(bad.sum())} such rows); "
                f"legal: {low} to {high:g}."
            )
    if "log_p_true" in columns and "log_p_false" in columns:
        neither = np.isneginf(columns["log_p_true"]) & np.isneginf(columns["log_p_false"])
        if neither.any():
            num = int(neither.sum())
            raise DataError(f"{source}: both answers have probability 0 in {num} rows, so P(True) is undefined.")
