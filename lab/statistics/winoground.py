"""Winoground's three scores (Thrush et al. 2022, 2204.03162), by strict inequalities.

s[n, c, i] is the score that example n gives caption c with image i; any real number that grows with belief.

    text    s(c0,i0) > s(c1,i0)  and  s(c1,i1) > s(c0,i1)     per image, the right caption wins
    image   s(c0,i0) > s(c0,i1)  and  s(c1,i1) > s(c1,i0)     per caption, the right image wins
    group   both

A tie is a failure. Chance for real-valued scores: 1/4, 1/4 and 1/6. Here s = log p(True) - log p(False), the log-odds of the
two answers; a published score by the unrenormalised p(Yes) ranks otherwise and is not comparable.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.errors import DataError
from lab.statistics import proportions
from lab.statistics.intervals import LEVEL, Interval

TITLE: str = "Winoground (diagnostic)"
SAYS: str = (
    "Share of examples right by strict inequalities of the log-odds of the two answers; a tie is wrong. Text: each "
    "image's right caption wins. Image: each caption's right image wins. Group: both. Not comparable with scores by P(Yes) alone."
)
CHANCE: Mapping[str, float] = {"text": 1 / 4, "image": 1 / 4, "group": 1 / 6}
SAMPLE_ID = re.compile(r"(?P<name>.+)-c(?P<c>[01])-i(?P<i>[01])")


def correct(s: np.ndarray) -> dict[str, np.ndarray]:
    """Return `text`, `image` and `group` as bool [n]: what is right of each example, for intervals over examples.

    s: float [n, 2, 2] by caption, then image. Raises `DataError` for another shape or a value that is not finite.
    """
    s = np.asarray(s, dtype=np.float64)
    if s.ndim != 3 or s.shape[1:] != (2, 2):
        raise DataError(f"Winoground scores have shape {s.shape}; legal: [examples, 2 captions, 2 images].")
    if not np.isfinite(s).all():
        raise DataError("Winoground scores hold a value that is not finite.")
    text = (s[:, 0, 0] > s[:, 1, 0]) & (s[:, 1, 1] > s[:, 0, 1])
    image = (s[:, 0, 0] > s[:, 0, 1]) & (s[:, 1, 1] > s[:, 1, 0])
    return {"text": text, "image": image, "group": text & image}


def scores(s: np.ndarray) -> dict[str, float]:
    """Return the share of examples in [0, 1] that are right by `text`, `image` and `group`."""
    right = correct(s)
    if not len(right["text"]):
        raise DataError("Winoground scores hold no example.")
    return {name: float(each.mean()) for name, each in right.items()}


def arranged(scored: Iterable[tuple[str, float]]) -> tuple[list[str], np.ndarray]:
    """Arrange pairs of a sample id and its score as (ids [n] in order of appearance, s [n, 2, 2]).

    Raises `DataError` if an example has not exactly its four questions.
    """
    found: dict[str, dict[tuple[int, int], float]] = {}
    for sample_id, score in scored:
        named = SAMPLE_ID.fullmatch(sample_id)
        if named is None:
            raise DataError(f"sample {sample_id!r} is not a Winoground question '<id>-c<c>-i<i>'.")
        cells = found.setdefault(named["name"], {})
        cell = int(named["c"]), int(named["i"])
        if cell in cells:
            raise DataError(f"sample {sample_id!r} is predicted twice.")
        cells[cell] = score
    for name, cells in found.items():
        if len(cells) != 4:
            raise DataError(f"Winoground example {name} has {len(cells)} of its four questions; it cannot be scored.")
    s = np.array([[[cells[c, i] for i in (0, 1)] for c in (0, 1)] for cells in found.values()])
    return list(found), s.reshape(-1, 2, 2)


def intervals(asked: PredictionTable) -> dict[str, Interval]:
    """Text, image and group score of a predictions table, each with its 95 % interval over examples.

    asked: with columns sample_id, log_p. One example alone has no interval: its ends are NaN.
    """
    _, s = arranged(zip(asked.sample_id.tolist(), asked.log_odds.tolist(), strict=True))
    right = np.stack(list(correct(s).values()), axis=1).astype(np.float64)  # [n, 3]
    estimates, low, high = scores(s), np.full(3, np.nan), np.full(3, np.nan)
    if len(right) > 1:
        low, high = proportions.limits(right.sum(axis=0), np.full(3, len(right)), LEVEL)
    return {
        name: Interval(value, float(low[k]), float(high[k]), LEVEL, 4 * len(right), len(right), 0, 0, proportions.METHOD)
        for k, (name, value) in enumerate(estimates.items())
    }

