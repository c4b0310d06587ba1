"""Winoground's three scores (Thrush et al. 2022, 2204.03162), by strict inequalities.

s[n, c, i] is the score that example n gives caption c with image i; any real number that grows with belief.

    text    s(c0,i0) > s(c1,i0)  and  s(c1,i1) > s(c0,i1)     per image, the right caption wins
    image   s(c0,i0) > s(c0,i1)  and  s(c1,i1) > s(c1,i0)     per caption, the right image wins
    group   both

A tie is a failure. Chance for real-valued scores: 1/4, 1/4 and 1/6.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from lab.errors import DataError
from lab.records import Prediction

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


def table(predictions: Iterable[Prediction]) -> tuple[list[str], np.ndarray]:
    """Arrange predictions as (ids [n] in order of appearance, s [n, 2, 2]), with s = log p(True) - log p(False).

    Raises `DataError` if an example has not exactly its four questions.
    """
    found: dict[str, dict[tuple[int, int], float]] = {}
    for prediction in predictions:
        named = SAMPLE_ID.fullmatch(prediction.sample_id)
        if named is None:
            raise DataError(f"sample {prediction.sample_id!r} is not a Winoground question '<id>-c<c>-i<i>'.")
        cells = found.setdefault(named["name"], {})
        cell = int(named["c"]), int(named["i"])
        if cell in cells:
            raise DataError(f"sample {prediction.sample_id!r} is predicted twice.")
        cells[cell] = prediction.log_p_true - prediction.log_p_false
    for name, cells in found.items():
        if len(cells) != 4:
            raise DataError(f"Winoground example {name} has {len(cells)} of its four questions; it cannot be scored.")
    s = np.array([[[cells[c, i] for i in (0, 1)] for c in (0, 1)] for cells in found.values()])
    return list(found), s.reshape(-1, 2, 2)
