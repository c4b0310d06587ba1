"""Choice: one of a few options is right. What a table of such answers holds, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lab.answers.table import PredictionTable, read_only
from lab.errors import DataError
from lab.records import Answer, Choice, Prediction, Said, Scored

if TYPE_CHECKING:
    from lab.config import PromptDial

TOLERANCE = 1e-4
"""Rounding allowed to a sum of probabilities computed in float32."""


class ChoiceTable(PredictionTable):
    """options: object [n] of tuples of str; right, prediction: int16 [n], places among them

    log_p: float64 [n, most options], natural log of each option's probability mass under the full vocabulary; -inf beyond a
    question's options. captured_mass: float64 [n], their sum of probabilities.
    With two options P(True) is the probability of the first: `binary` tables have `label`, `log_odds` and `p_true`.
    """

    kind = Choice.kind
    FIELDS = (
        pa.field("options", pa.list_(pa.string()), nullable=False),
        pa.field("right", pa.int16(), nullable=False),
        pa.field("log_p", pa.list_(pa.float64()), nullable=False),
        pa.field("captured_mass", pa.float64(), nullable=False),
        pa.field("prediction", pa.int16(), nullable=False),
    )

    @classmethod
    def cells(cls, rows: Iterable[Prediction]) -> dict[str, list[Any]]:
        rows = list(rows)
        scored = {name: [getattr(row.said, name) for row in rows] for name in ("log_p", "captured_mass", "prediction")}
        return {name: [getattr(row.answer, name) for row in rows] for name in ("options", "right")} | scored

    @classmethod
    def answer_of(cls, row: Mapping[str, Any]) -> tuple[Answer, Said]:
        said = Scored(tuple(row["log_p"]), row["captured_mass"], row["prediction"])
        return Choice(row["right"], tuple(row["options"])), said

    @classmethod
    def decode(cls, name: str, column: pa.ChunkedArray) -> np.ndarray:
        if name == "options":
            known: dict[tuple[str, ...], tuple[str, ...]] = {}
            values = np.empty(len(column), dtype=object)
            values[:] = [known.setdefault(each, each) for each in map(tuple, column.to_pylist())]
            return values
        if name != "log_p":
            return column.to_numpy()
        lists = column.combine_chunks()
        sizes, flat = lists.value_lengths().to_numpy(), lists.flatten().to_numpy(zero_copy_only=False)
        if (sizes == sizes[0]).all():
            return flat.reshape(len(sizes), -1)
        wide = np.full((len(sizes), sizes.max()), -np.inf)
        wide[np.arange(wide.shape[1]) < sizes[:, None]] = flat
        return wide

    def check(self, source: str) -> None:
        """Refuse impossible probabilities, and places that are none of the options'."""
        limits = {"log_p": (-np.inf, TOLERANCE), "captured_mass": (0.0, 1 + TOLERANCE)}
        for name, (low, high) in limits.items():
            values = getattr(self, name) if name in self.columns else np.zeros(0)
            bad = ~((values >= low) & (values <= high))  # true for NaN as well
            if bad.any():
                row = int(bad.reshape(len(self), -1).any(axis=1).argmax())
                many = f"{values[bad][0]} in row {row} ({int(bad.sum())} such values)"
                raise DataError(f"{source}: column {name!r} holds {many}; legal: {low} to {high:g}.")
        if "log_p" not in self.columns:
            return
        if num := int(np.isneginf(self.log_p).all(axis=1).sum()):
            raise DataError(f"{source}: every option has probability 0 in {num} rows, so their shares are undefined.")
        for name in {"right", "prediction"} & set(self.columns):
            places = getattr(self, name)
            if ((places < 0) | (places >= self.log_p.shape[1])).any():
                raise DataError(f"{source}: column {name!r} holds a place that is none of {self.log_p.shape[1]} options.")

    @property
    def binary(self) -> bool:
        """Whether there are two options, so that P(True) exists."""
        return self.log_p.shape[1] == 2

    def option(self, place: int) -> np.ndarray:
        """log p of one of two options, contiguous."""
        if not self.binary:
            raise DataError(f"predictions: P(True) is undefined for questions with up to {self.log_p.shape[1]} options.")
        return read_only(np.ascontiguousarray(self.log_p[:, place]))

    @cached_property
    def label(self) -> np.ndarray:
        """Whether the first of two options is right, bool [n]."""
        return read_only(self.right == 0)

    @cached_property
    def log_p_true(self) -> np.ndarray:
        return self.option(0)

    @cached_property
    def log_p_false(self) -> np.ndarray:
        return self.option(1)

    @cached_property
    def log_odds(self) -> np.ndarray:
        """z = log p_true - log p_false, the one logit that a temperature scales."""
        return read_only(self.log_p_true - self.log_p_false)

    @cached_property
    def p_true(self) -> np.ndarray:
        """P(True) = p_true / (p_true + p_false), renormalised over the two answers."""
        return read_only(sigmoid(self.log_odds))

    @cached_property
    def confidence(self) -> np.ndarray:
        """The probability of the recorded prediction, renormalised over the options: their largest where it is the likeliest."""
        if self.binary:
            return read_only(sigmoid(np.where(self.prediction == 0, self.log_odds, -self.log_odds)))
        shares = np.exp(self.log_p - np.logaddexp.reduce(self.log_p, axis=1, keepdims=True))
        return read_only(shares[np.arange(len(self)), self.prediction])

    @cached_property
    def answered(self) -> np.ndarray:
        """The option that was answered, object [n] of str."""
        values = np.empty(len(self), dtype=object)
        values[:] = [options[place] for options, place in zip(self.options, self.prediction.tolist(), strict=True)]
        return read_only(values)

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether the recorded prediction is right, bool [n]."""
        return read_only(self.prediction == self.right)


def sigmoid(z: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-z)) without overflow; exact at z = 0 and at +-inf."""
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1.0, small) / (1.0 + small)


def words(options: tuple[str, ...], dial: PromptDial) -> dict[str, str]:
    """How options are written, by where that is said: True and False as the prompt has them, any others as they are."""
    return dial.words if options == Choice.truth(True).options else {f"the option {option}": option for option in options}


def target(answer: Choice, dial: PromptDial) -> str:
    """What a model is taught to say."""
    return tuple(words(answer.options, dial).values())[answer.right]


def described(dial: PromptDial) -> dict[str, str]:
    """The words as a contract names them."""
    return {key.rpartition("_")[2]: word for key, word in dial.words.items()}


def spellings(word: str) -> tuple[str, ...]:
    """Ways a model may write an answer word: three cases, with and without a leading space."""
    cases = dict.fromkeys((word, word.lower(), word.upper(), word.capitalize()))
    return tuple(cases) + tuple(f" {case}" for case in cases)


def read(text: str, options: Sequence[str]) -> int | None:
    """The place of the option whose spelling equals the text, stripped of white space and a final full stop; None: of no option."""
    stripped = text.strip().removesuffix(".")
    return next((place for place, word in enumerate(options) if stripped in {each.strip() for each in spellings(word)}), None)
