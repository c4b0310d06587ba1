"""Text: an answer in words of one's own. What a table of such answers holds, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from lab.answers import learned
from lab.answers.normalise import RULES
from lab.answers.table import PredictionTable, read_only
from lab.errors import DataError
from lab.records import Answer, Prediction, Replied, Said, Text, Written

TOLERANCE = 1e-4
"""Rounding allowed to a log-probability computed in float32."""


class TextTable(PredictionTable):
    """references: object [n] of tuples of str; votes: object [n] of tuples of int, as many or none

    text: object [n] of str, as written; post: object [n] of str, the rule by which it and the references are read
    tokens, reference_tokens: int32 [n]; ended: bool [n]; log_p, log_p_reference: float64 [n], as in `lab.records.Written`
    """

    kind = Text.kind
    BESIDE = learned.NAMES
    FIELDS = (
        pa.field("references", pa.list_(pa.string()), nullable=False),
        pa.field("votes", pa.list_(pa.int32()), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("post", pa.string(), nullable=False),
        pa.field("tokens", pa.int32(), nullable=False),
        pa.field("ended", pa.bool_(), nullable=False),
        pa.field("log_p", pa.float64(), nullable=False),
        pa.field("log_p_reference", pa.float64(), nullable=False),
        pa.field("reference_tokens", pa.int32(), nullable=False),
    )

    @classmethod
    def of(cls, rows: Sequence[Prediction]) -> type[PredictionTable]:
        if any(isinstance(row.said, Replied) for row in rows):
            return RepliedTable
        if any(isinstance(row.said, Written) and row.said.turns_tokens for row in rows):
            return ConversationTable
        return VotedTable if any(isinstance(row.answer, Text) and row.answer.votes for row in rows) else TextTable

    @classmethod
    def cells(cls, rows: Iterable[Prediction]) -> dict[str, list[Any]]:
        rows = list(rows)
        given = {name: [getattr(row.answer, name) for row in rows] for name in ("references", "votes")}
        return given | {field.name: [getattr(row.said, field.name) for row in rows] for field in cls.FIELDS[2:]}

    @classmethod
    def answer_of(cls, row: Mapping[str, Any]) -> tuple[Answer, Said]:
        listed = {field.name for field in cls.FIELDS[2:] if pa.types.is_list(field.type)}
        values: dict[str, Any] = {field.name: row[field.name] for field in cls.FIELDS[2:]}
        said = Written(**{**values, **{name: tuple(values[name]) for name in listed}})
        return Text(tuple(row["references"]), tuple(row["votes"])), said

    @classmethod
    def decode(cls, name: str, column: pa.ChunkedArray) -> np.ndarray:
        listed = pa.types.is_list(column.type)
        if not listed and name not in ("text", "post"):
            return column.to_numpy()
        values = np.empty(len(column), dtype=object)
        values[:] = list(map(tuple, column.to_pylist())) if listed else column.to_pylist()
        return values

    def check(self, source: str) -> None:
        """Refuse impossible log-probabilities, questions without a reference, and rules that are none."""
        for name in ("log_p", "log_p_reference"):
            values = getattr(self, name) if name in self.columns else np.zeros(0)
            bad = ~(values <= TOLERANCE)  # true for NaN as well
            if bad.any():
                raise DataError(f"{source}: column {name!r} holds {values[bad][0]} in row {int(bad.argmax())}; legal: at most 0.")
        if "post" in self.columns and (unknown := set(self.post) - set(RULES)):
            raise DataError(f"{source}: column 'post' holds {min(unknown)!r}; legal: {', '.join(RULES)}.")
        if "references" in self.columns and not all(self.references):
            raise DataError(f"{source}: {sum(not each for each in self.references)} questions have no reference.")

    @cached_property
    def normal(self) -> list[tuple[str, tuple[str, ...]]]:
        """What was written and its references, both by the rule, [n]."""
        known: dict[tuple[str, str], str] = {}

        def read(post: str, text: str) -> str:
            if (post, text) not in known:
                known[post, text] = RULES[post](text)
            return known[post, text]

        rows = zip(self.post, self.text, self.references, strict=True)
        return [(read(post, text), tuple(read(post, reference) for reference in references)) for post, text, references in rows]

    @property
    def answered(self) -> np.ndarray:
        """What was written, object [n] of str."""
        return self.text

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether the answer equals a reference, both by the rule, bool [n]."""
        return read_only(np.array([text in references for text, references in self.normal], dtype=bool))

    @cached_property
    def confidence(self) -> np.ndarray:
        """The probability of what was written, all of its tokens, [n]."""
        return read_only(np.exp(np.minimum(self.log_p, 0.0)))

    @cached_property
    def confidence_per_token(self) -> np.ndarray:
        """Its geometric mean over the tokens, [n]."""
        return read_only(np.exp(np.minimum(self.log_p, 0.0) / self.tokens))


class RepliedTable(TextTable):
    """A table of replies without probabilities; `confidence` is NaN."""

    kind = "replied"
    FIELDS = tuple(field for field in TextTable.FIELDS if field.name in ("references", "votes", "text", "post", "ended"))

    @classmethod
    def answer_of(cls, row: Mapping[str, Any]) -> tuple[Answer, Said]:
        return Text(tuple(row["references"]), tuple(row["votes"])), Replied(row["text"], row["post"], row["ended"])

    @cached_property
    def confidence(self) -> np.ndarray:
        """Not told, [n]."""
        return read_only(np.full(len(self), np.nan))


class VotedTable(TextTable):
    """A table whose references were given by several annotators each."""

    kind = "voted"


class ConversationTable(TextTable):
    """A table of last answers, with what the model made of the learned turns before them.

    turns_log_p, turns_tokens: object [n] of tuples of float and of int, as in `lab.records.Written`
    """

    kind = "conversation"
    FIELDS = (
        *TextTable.FIELDS,
        pa.field("turns_log_p", pa.list_(pa.float64()), nullable=False),
        pa.field("turns_tokens", pa.list_(pa.int32()), nullable=False),
    )

    @cached_property
    def turns(self) -> list[list[tuple[float, int]]]:
        """log p and number of tokens of every learned turn, the answer last, [n]."""
        before = [list(zip(*pair, strict=True)) for pair in zip(self.turns_log_p, self.turns_tokens, strict=True)]
        last = zip(self.log_p_reference.tolist(), self.reference_tokens.tolist(), strict=True)
        return [[*turns, answer] for turns, answer in zip(before, last, strict=True)]
