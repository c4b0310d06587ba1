"""One-to-one pairs of predicted boxes and references, for precision, recall, F1, mean IoU and the confusion of classes.

Of all assignments the one with the largest sum of IoU (Kuhn 1955), whose pairs without overlap are dropped; a pair from IoU .5 on is a
hit. A click is a point, and overlaps a box with 1 where it lies inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.statistics.detection import Matches, Regions, boxes_of, iou, labels_of, match, valid

HIT = 0.5
CLICK = "click"
ALIKE = 0.95
"""IoU from which on a box repeats an earlier one of its label."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """The boxes of one picture: D predictions, G references.

    overlap: of each reference with the prediction it is paired with, [G], 0 without one. hit: of each prediction, bool [D].
    found: of each reference, bool [G]. valid, repeat: of each prediction, bool [D].
    """

    overlap: np.ndarray
    hit: np.ndarray
    found: np.ndarray
    valid: np.ndarray
    repeat: np.ndarray


@dataclass(frozen=True, eq=False)
class BoxPairs:
    """Those of a table's n pictures, in its order. clicks: its predictions are points."""

    pictures: tuple[Pairs, ...]
    clicks: bool

    def count(self, name: str) -> np.ndarray:
        """Sum of a column of `Pairs` in each picture, float64 [n]."""
        return np.array([getattr(one, name).sum() for one in self.pictures], dtype=np.float64)

    def size(self, name: str) -> np.ndarray:
        """Length of it, float64 [n]."""
        return np.array([len(getattr(one, name)) for one in self.pictures], dtype=np.float64)


def assign(overlap: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places of the pairs with the largest sum, two of int [pairs]; overlap: [D, G], of which 0 is never paired."""
    if min(overlap.shape) == 0:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    if overlap.size == 1:
        rows, columns = np.array([0]), np.array([0])
    else:
        from scipy.optimize import linear_sum_assignment

        rows, columns = linear_sum_assignment(overlap, maximize=True)
    paired = overlap[rows, columns] > 0
    return rows[paired], columns[paired]


def overlaps(said: Regions, right: Regions, size: tuple[float, float], clicks: bool) -> np.ndarray:
    """IoU of predictions with references whatever their labels, of clicks whether they lie inside, [D, G]; of invalid boxes 0."""
    first, second = boxes_of(said), boxes_of(right)
    if clicks:
        return ((first[:, None, :2] >= second[None, :, :2]) & (first[:, None, :2] <= second[None, :, 2:])).all(axis=-1).astype(float)
    return iou(first, second) * valid(first, size)[:, None]


def pairs_of(said: Regions, right: Regions, size: tuple[float, float], clicks: bool) -> Pairs:
    """Pair the boxes of a picture of (width, height) whose labels are equal."""
    names, overlap = [np.array(labels_of(one), dtype=object) for one in (said, right)], overlaps(said, right, size, clicks)
    overlap = overlap * (names[0][:, None] == names[1][None])
    rows, columns = assign(overlap)
    paired, hit = np.zeros(len(right)), np.zeros(len(said), dtype=bool)
    paired[columns] = overlap[rows, columns]
    hit[rows] = overlap[rows, columns] >= HIT
    legal = np.ones(len(said), dtype=bool) if clicks else valid(boxes_of(said), size)
    return Pairs(paired, hit, paired >= HIT, legal, repeats(said))


def repeats(said: Regions) -> np.ndarray:
    """Which predictions repeat an earlier one of their label, bool [D]."""
    boxes, names = boxes_of(said), np.array(labels_of(said), dtype=object)
    alike = (iou(boxes, boxes) >= ALIKE) | (boxes[:, None] == boxes[None]).all(axis=-1)
    return np.triu(alike & (names[:, None] == names[None]), 1).any(axis=0)


def confused(said: Regions, right: Regions, size: tuple[float, float], clicks: bool) -> list[tuple[str | None, str | None]]:
    """(label of the reference, label of the prediction) of hits whatever their labels; None where one of the two is alone."""
    overlap, names = overlaps(said, right, size, clicks), [labels_of(one) for one in (right, said)]
    rows, columns = assign(np.where(overlap >= HIT, overlap, 0.0))
    out: list[tuple[str | None, str | None]] = [(names[0][g], names[1][d]) for d, g in zip(rows, columns, strict=True)]
    out += [(name, None) for g, name in enumerate(names[0]) if g not in columns]
    return out + [(None, name) for d, name in enumerate(names[1]) if d not in rows]


_PAIRS: WeakKeyDictionary[PredictionTable, BoxPairs] = WeakKeyDictionary()
_MATCHES: WeakKeyDictionary[PredictionTable, Matches] = WeakKeyDictionary()


def sizes_of(table: PredictionTable) -> list[tuple[float, float]]:
    """(width, height) of each picture."""
    return list(zip(table.width.tolist(), table.height.tolist(), strict=True))


def box_pairs(table: PredictionTable) -> BoxPairs:
    """The pairs of a table of regions, made once."""
    if table not in _PAIRS:
        clicks = bool((table.boxes == CLICK).all())
        rows = zip(table.regions, table.references, sizes_of(table), strict=True)
        _PAIRS[table] = BoxPairs(tuple(pairs_of(said, right, size, clicks) for said, right, size in rows), clicks)
    return _PAIRS[table]


def matches(table: PredictionTable) -> Matches:
    """What average precision is made of, of a table of regions, made once; without the column `scores` as without scores."""
    if table not in _MATCHES:
        scores: Sequence[Sequence[float]] | None = list(table.scores) if "scores" in table.columns else None
        _MATCHES[table] = match(list(table.references), list(table.regions), scores, sizes_of(table))
    return _MATCHES[table]
