"""How sure replies were against how often they were right, where probabilities are told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lab.statistics.functional import ece

UNTOLD = "log-probabilities: the server tells none, so nothing is said of how sure it was"


def of(scores: Mapping[str, Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """`n`, mean `confidence` and expected calibration error `ece` of marked rows whose probabilities are told; None: of no row.

    scores: of each reply by id, as `lab.llm.log_probabilities.told` gives them. The confidence of a letter is its share among the letters
    that are told at its place; of anything else the probability of the whole reply.
    """
    known = [row for row in rows if "log_p" in scores.get(row["id"], {})]
    if not known:
        return None
    sure = np.array([confidence(scores[row["id"]], row["read_as"]) for row in known])
    right = np.array([float(row["score"]) for row in known])
    return {"n": float(len(known)), "confidence": float(sure.mean()), "ece": ece(sure, right)}


def confidence(told: Mapping[str, Any], read_as: str | None) -> float:
    """Of one reply."""
    letters = {name: math.exp(log_p) for name, log_p in told.items() if len(name) == 1}
    whole = min(1.0, math.exp(told["log_p"]))
    return letters[read_as] / sum(letters.values()) if read_as in letters else whole
