"""Columns of predictions, whatever the kind of answer."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from lab.errors import DataError
from lab.records import Answer, Prediction, Said

COMMON = (
    pa.field("sample_id", pa.string(), nullable=False),
    pa.field("image_set", pa.string(), nullable=False),
    pa.field("question_group", pa.string(), nullable=False),
    pa.field("subset", pa.string(), nullable=True),
    pa.field("image_order", pa.list_(pa.int32()), nullable=False),
    pa.field("visual_tokens", pa.list_(pa.int32()), nullable=False),
)


class PredictionTable:
    """Columns of n predictions of one kind; one that was not read raises `DataError` when it is touched.

    sample_id, image_set, question_group: str [n]; subset: str or None, object [n]
    image_order, visual_tokens: object [n] of tuples of int
    A kind adds its own columns (`FIELDS`), and what follows from them: computed once, not to be written to. Of every kind:
    answered, in words, object [n] of str; confidence, its probability, float64 [n]; and correct, bool [n], where one answer is right.
    """

    kind: ClassVar[str]
    FIELDS: ClassVar[tuple[pa.Field, ...]]
    BESIDE: ClassVar[tuple[str, ...]] = ()
    """Columns that lie in files of their own, if anywhere, float64 [n] (`lab.answers.learned`)."""

    def __init__(self, **columns: np.ndarray) -> None:
        unknown = columns.keys() - set(self.names())
        if unknown:
            raise DataError(f"predictions: no column {min(unknown)!r}; legal: {', '.join(self.names())}.")
        self.__dict__.update({name: columns[name] for name in self.names() if name in columns})

    @classmethod
    @functools.cache
    def fields(cls) -> dict[str, pa.Field]:
        """Every column of a file of this kind, in order."""
        return {field.name: field for field in (*COMMON, *cls.FIELDS)}

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Every column that a table of this kind may have, in order."""
        return (*cls.fields(), *cls.BESIDE)

    @classmethod
    def of(cls, rows: Sequence[Prediction]) -> type[PredictionTable]:
        """The table that holds predictions of this kind of answer."""
        return cls

    @classmethod
    def cells(cls, rows: Iterable[Prediction]) -> dict[str, list[Any]]:
        """The kind's own columns of predictions."""
        raise NotImplementedError

    @classmethod
    def answer_of(cls, row: Mapping[str, Any]) -> tuple[Answer, Said]:
        """The right answer and what was said, of a row of a file."""
        raise NotImplementedError

    @classmethod
    def decode(cls, name: str, column: pa.ChunkedArray) -> np.ndarray:
        """One column as it is in memory."""
        raise NotImplementedError

    def check(self, source: str) -> None:
        """Raise `DataError` for values that the kind cannot have."""
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        """Reached only when a column is absent: say which, and how to get it."""
        if name in self.fields():
            have = ", ".join(self.columns)
            raise DataError(f"predictions: column {name!r} was not read (read: {have}); add it to read(columns=[...]).")
        if name in self.BESIDE:
            raise DataError(f"predictions: {name!r} takes a model. Type lab score RUN --metric {name.partition('_')[0]} --model PATH, then read it.")
        raise AttributeError(name)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"predictions: {name} cannot be set; replace({name}=...) makes another table.")

    def __len__(self) -> int:
        return len(next(iter(self.__dict__.values())))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} rows: {', '.join(self.columns)})"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are here, in the schema's order."""
        return tuple(name for name in self.names() if name in self.__dict__)

    def take(self, rows: np.ndarray) -> Self:
        """Keep some rows, by index or by mask: a subset, a resample."""
        return type(self)(**{name: self.__dict__[name][rows] for name in self.columns})

    def select(self, *names: str) -> Self:
        """Keep some columns."""
        return type(self)(**{name: getattr(self, name) for name in names})

    def followed_by(self, other: Self) -> Self:
        """The rows of this table and after them those of another, in the columns of this one."""
        return type(self)(**{name: np.concatenate([self.__dict__[name], getattr(other, name)]) for name in self.columns})

    def replace(self, **columns: np.ndarray) -> Self:
        """Exchange whole columns."""
        return type(self)(**{name: self.__dict__[name] for name in self.columns} | columns)


def read_only(values: np.ndarray) -> np.ndarray:
    """Forbid writing into an array that others will be given too."""
    values.flags.writeable = False
    return values
