"""Two tables of answers to the same questions, held against each other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.errors import DataError


@dataclass(frozen=True)
class Agreement:
    """num_examples: questions. flips: of them, those that are answered otherwise.

    max_gap: largest absolute difference of a log-probability (nats), of options to choose from or of an answer that both give.
    """

    num_examples: int
    flips: int
    max_gap: float

    def __str__(self) -> str:
        return f"{self.num_examples - self.flips} of {self.num_examples} answers equal, largest gap of a log-probability {self.max_gap:.3g}"


def agreement(table: PredictionTable, other: PredictionTable) -> Agreement:
    """Compare row by row. Raises `DataError` for tables of other questions."""
    if table.sample_id.tolist() != other.sample_id.tolist():
        raise DataError("two tables of answers: they are of other questions, or in another order.")
    same = texts(table) == texts(other)
    one, two = (each.log_p[..., : min(table.log_p.shape[-1], other.log_p.shape[-1])] for each in (table, other))
    with np.errstate(invalid="ignore"):  # beyond a question's options both are -inf
        gaps = np.abs(one - two)
    gaps = gaps if gaps.ndim == 2 else gaps[same]
    return Agreement(len(table), int((~same).sum()), float(np.nanmax(gaps, initial=0.0)))


def texts(table: PredictionTable) -> np.ndarray:
    """What was answered: the text as written, or the option, object [n] of str."""
    return table.text if "text" in table.fields() else table.answered
