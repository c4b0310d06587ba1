"""Boxes against boxes: IoU and the 101-point average precision of COCO, in plain numpy.

A box is (x0, y0, x1, y1) in pixels, continuous (no +1); a labelled one is a `lab.records.Region`. IoU >= threshold counts. A box without
area, with swapped corners or outside of its picture is invalid: it matches nothing and is a false positive.
Matching and accumulation are those of pycocotools (Lin et al. 2014, 1405.0312), NaN in place of its -1. Pictures are matched once;
`Matches.average_precision` accumulates again under other weights of the pictures, which is what a resample is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lab.errors import LabError

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
"""Least and most area of a box in square pixels, both included."""
MOST_BOXES = 100
"""Boxes of one class in one picture that count, the most confident first."""
OUTSIDE = 1e-3
"""Pixels by which a box may leave its picture, for rounding."""
CELLS = 100_000
"""Numbers held at once while weights are accumulated."""

Regions = Sequence[Any]
"""Of one picture: `Region`s, or boxes of four numbers, which are all of one class."""


def boxes_of(regions: Regions) -> np.ndarray:
    """Corners, float64 [n, 4]."""
    if not len(regions):
        return np.zeros((0, 4))
    if hasattr(regions[0], "label"):
        return np.array([(region.x0, region.y0, region.x1, region.y1) for region in regions], dtype=np.float64)
    boxes = np.asarray(regions, dtype=np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise LabError(f"boxes: shape {boxes.shape} given; legal: [n, 4], x0, y0, x1, y1 of each box in pixels.")
    return boxes


def labels_of(regions: Regions) -> list[str]:
    """Names of the classes, [n]."""
    return [getattr(region, "label", "") for region in regions]


def area(boxes: np.ndarray) -> np.ndarray:
    """Square pixels, [..., 4] -> [...]; 0 of swapped corners."""
    return np.clip(boxes[..., 2] - boxes[..., 0], 0, None) * np.clip(boxes[..., 3] - boxes[..., 1], 0, None)


def iou(a: Any, b: Any) -> Any:
    """Intersection over union: of two boxes a float, of [n, 4] and [m, 4] float64 [n, m]; 0 where both have no area."""
    single = hasattr(a, "label") or np.ndim(a) == 1 and len(a) == 4
    first, second = (boxes_of([box] if single else box) for box in (a, b))
    corner, far = np.maximum(first[:, None, :2], second[None, :, :2]), np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.clip(far - corner, 0, None).prod(axis=-1)
    union = area(first)[:, None] + area(second)[None] - shared
    overlap = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return float(overlap[0, 0]) if single else overlap


def valid(boxes: np.ndarray, size: tuple[float, float] | None = None) -> np.ndarray:
    """Whether each box has an area and stays inside a picture of (width, height), bool [n]."""
    inside = area(boxes) > 0
    if size is not None:
        inside &= (boxes >= -OUTSIDE).all(axis=1) & (boxes <= np.array([*size, *size]) + OUTSIDE).all(axis=1)
    return inside


@dataclass(frozen=True, eq=False)
class Ranked:
    """The predictions of one class over all n pictures, the most confident first; those above `MOST_BOXES` are left out.

    picture: int [D]; score: float [D]. true, counted: bool [areas, thresholds, D]; what is not counted is outside of the area, or
    matches a reference that is. positives: references inside of each area, int [areas, n].
    """

    picture: np.ndarray
    score: np.ndarray
    true: np.ndarray
    counted: np.ndarray
    positives: np.ndarray

    def curve(self, weights: np.ndarray, size: int, threshold: int, tied: bool) -> tuple[np.ndarray, np.ndarray]:
        """Recall and interpolated precision at each step of the ranking, two of [B, steps]; weights: of pictures, [B, n]."""
        true, drawn = self.true[size, threshold], weights[:, self.picture]
        steps = np.flatnonzero(np.append(np.diff(self.score) != 0, True)) if tied and len(true) else np.flatnonzero(true)
        hits = np.cumsum(drawn * true, axis=1)[:, steps]
        every = np.cumsum(drawn * self.counted[size, threshold], axis=1)[:, steps]
        precision = hits / (every + np.spacing(1))
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        with np.errstate(invalid="ignore"):  # without a reference recall is 0/0
            return hits / (weights @ self.positives[size])[:, None], envelope

    def average_precision(self, weights: np.ndarray, size: int, threshold: int, tied: bool) -> np.ndarray:
        """Mean over `RECALLS` of the precision where the recall is first reached, [B]; NaN without a reference."""
        recall, envelope = self.curve(weights, size, threshold, tied)
        reached = np.searchsorted(RECALLS, np.nan_to_num(recall), side="right")
        value = (np.diff(reached, axis=1, prepend=0) * envelope).sum(axis=1) / len(RECALLS)
        return np.where(weights @ self.positives[size] > 0, value, np.nan)


@dataclass(frozen=True, eq=False)
class Matches:
    """Predictions matched with references once and for all: by class, and `class_free` as if all had one.

    scored: every prediction has a score; without, all stand on one step of the ranking, so that no order of writing decides.
    crowded: pictures with more than `MOST_BOXES` predictions. invented: predictions by class that no reference has.
    """

    num_pictures: int
    classes: dict[str, Ranked]
    class_free: Ranked
    scored: bool
    crowded: int
    invented: dict[str, int]

    def average_precision(
        self, weights: np.ndarray | None = None, size: str = "all", thresholds: slice = slice(None), class_free: bool = False
    ) -> np.ndarray:
        """Mean over classes that have references and over thresholds, [B]; weights: how often each picture counts, [B, n]."""
        weights = np.ones((1, self.num_pictures)) if weights is None else weights
        ranked = [self.class_free] if class_free else [self.classes[name] for name in self.classes if name not in self.invented]
        steps = range(*thresholds.indices(len(THRESHOLDS)))
        out = np.empty(len(weights))
        widest = max([len(one.picture) for one in ranked], default=0) + 1
        for start in range(0, len(weights), step := max(1, CELLS // widest)):
            part, place = weights[start : start + step], list(AREAS).index(size)
            values = [[one.average_precision(part, place, threshold, not self.scored) for threshold in steps] for one in ranked]
            out[start : start + step] = mean_of_known(np.array(values).reshape(-1, len(part)))
        return out


    def by_class(self) -> dict[str, tuple[float, float, float]]:
        """AP, AP50 and AP75 of every class that has references."""
        once = np.ones((1, self.num_pictures))
        known = {name: one for name, one in self.classes.items() if name not in self.invented}
        values = {name: [one.average_precision(once, 0, t, not self.scored)[0] for t in range(len(THRESHOLDS))] for name, one in known.items()}
        return {name: (float(np.mean(one)), float(one[0]), float(one[5])) for name, one in values.items()}

    def precision(self, threshold: int) -> np.ndarray:
        """Interpolated precision at each of `RECALLS`, mean over classes that have references, [101]."""
        once, rows = np.ones((1, self.num_pictures)), []
        for name, one in self.classes.items():
            if name not in self.invented:
                (recall,), (envelope,) = one.curve(once, 0, threshold, not self.scored)
                rows.append(np.append(envelope, 0.0)[np.searchsorted(recall, RECALLS)])
        return np.mean(rows, axis=0)


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the first axis of what is not NaN; NaN where nothing is known."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):  # 0/0 where nothing is
        return np.where(known, values, 0.0).sum(axis=0) / known.sum(axis=0)


def match(
    references: Sequence[Regions],
    predictions: Sequence[Regions],
    scores: Sequence[Sequence[float]] | None = None,
    sizes: Sequence[tuple[float, float]] | None = None,
) -> Matches:
    """Match the pictures' predictions with their references. scores: one of each prediction; sizes: (width, height) of each picture.

    Raises `LabError` where they do not describe the same pictures.
    """
    number = len(references)
    for name, column in (("predictions", predictions), ("scores", scores), ("sizes", sizes)):
        if column is not None and len(column) != number:
            raise LabError(f"{name}: {len(column)} pictures given, references of {number}; they must describe the same pictures.")
    scored = scores is not None and all(len(one) > 0 for one, boxes in zip(scores, predictions, strict=True) if len(boxes))
    score = [np.asarray(scores[i] if scored and scores is not None else np.zeros(len(predictions[i])), float) for i in range(number)]
    for i, (values, boxes) in enumerate(zip(score, predictions, strict=True)):
        if len(values) != len(boxes) or not np.isfinite(values).all():
            raise LabError(f"scores of picture {i}: {len(values)} for {len(boxes)} predictions; legal: a finite number of each.")
    labels = [[np.array(labels_of(one), dtype=object) for one in column] for column in (references, predictions)]
    known = {name for names in labels[0] for name in names}
    pictures = list(_overlaps(references, predictions, sizes))
    every = sorted(known | {name for names in labels[1] for name in names})
    classes = {name: _ranked(pictures, score, [[names == name for names in column] for column in labels]) for name in every}
    everything = [[np.ones(len(names), dtype=bool) for names in column] for column in labels]
    class_free = classes[every[0]] if len(every) == 1 else _ranked(pictures, score, everything)
    invented = {name: sum(int((names == name).sum()) for names in labels[1]) for name in every if name not in known}
    crowded = sum(len(boxes) > MOST_BOXES for boxes in predictions)
    return Matches(number, classes, class_free, scored, crowded, invented)


def _overlaps(
    references: Sequence[Regions], predictions: Sequence[Regions], sizes: Sequence[tuple[float, float]] | None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each picture IoU [D, G], areas of predictions [D] and of references [G]."""
    for i, (right, said) in enumerate(zip(references, predictions, strict=True)):
        first, second = boxes_of(said), boxes_of(right)
        legal = valid(first, None if sizes is None else sizes[i])
        yield iou(first, second) * legal[:, None], area(first), area(second)


def _ranked(pictures: Sequence[tuple[np.ndarray, ...]], scores: Sequence[np.ndarray], chosen: Sequence[Sequence[np.ndarray]]) -> Ranked:
    """Match the boxes of one class; chosen: which of the references and of the predictions of each picture are of it."""
    shape = (len(AREAS), len(THRESHOLDS))
    places, ranks, parts, positives = [], [], [np.zeros((2, *shape, 0), dtype=bool)], np.zeros((len(AREAS), len(pictures)), dtype=np.int64)
    for i, ((overlap, said, right), score, of_references, of_predictions) in enumerate(zip(pictures, scores, *chosen, strict=True)):
        order = np.flatnonzero(of_predictions)
        order = order[np.argsort(-score[order], kind="stable")][:MOST_BOXES]
        outside = _outside(right[of_references])
        positives[:, i] = (~outside).sum(axis=1)
        if len(order):
            parts.append(_matched(overlap[order][:, of_references], _outside(said[order]), outside))
            places.append(np.full(len(order), i))
            ranks.append(score[order])
    place, rank = (np.concatenate(lists) if lists else np.zeros(0) for lists in (places, ranks))
    order = np.argsort(-rank, kind="stable")
    true, counted = np.concatenate(parts, axis=-1)[..., order]
    return Ranked(place[order].astype(np.int64), rank[order], true, counted, positives)


def _outside(areas: np.ndarray) -> np.ndarray:
    """Whether boxes are not of each of `AREAS`, bool [areas, n]."""
    return np.stack([(areas < least) | (areas > most) for least, most in AREAS.values()])


def _matched(overlap: np.ndarray, said_outside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Which predictions, best first, are true and which are counted, bool [2, areas, thresholds, D]; overlap: [D, G].

    Each takes the reference that it overlaps most (of equal ones the last) among those inside of the area, or else among the others.
    """
    number, references = overlap.shape
    shape = (len(AREAS), len(THRESHOLDS), references)
    taken, own = np.zeros(shape, dtype=bool), np.broadcast_to(~outside[:, None], shape)
    out = np.zeros((2, len(AREAS), len(THRESHOLDS), number), dtype=bool)
    for place in range(number):
        free = (overlap[place] >= THRESHOLDS[:, None]) & ~taken
        inside = free & own
        usable = np.where(inside.any(axis=-1, keepdims=True), inside, free)
        found = usable.any(axis=-1)
        chosen = np.zeros(shape, dtype=bool)
        if references:
            best = references - 1 - np.where(usable, overlap[place], -1.0)[..., ::-1].argmax(axis=-1)
            chosen = (np.arange(references) == best[..., None]) & found[..., None]
        taken |= chosen
        out[0, :, :, place] = (chosen & own).any(axis=-1)
        out[1, :, :, place] = np.where(found, out[0, :, :, place], ~said_outside[:, place, None])
    return out


def average_precision(
    references: Sequence[Regions],
    predictions: Sequence[Regions],
    scores: Sequence[Sequence[float]] | None = None,
    sizes: Sequence[tuple[float, float]] | None = None,
) -> dict[str, float]:
    """AP (mean over IoU .5 to .95), AP50, AP75, those of small, medium and large boxes, and class-free ones; NaN where undefined.

    One entry a picture: boxes [n, 4] or `Region`s, scores [n], (width, height). Without scores all predictions stand on one step.
    """
    return values_of(match(references, predictions, scores, sizes))


def values_of(matches: Matches) -> dict[str, float]:
    """The same of what is matched already."""
    asked: dict[str, dict[str, Any]] = {"AP": {}, "AP50": {"thresholds": slice(0, 1)}, "AP75": {"thresholds": slice(5, 6)}}
    asked |= {f"AP_{size}": {"size": size} for size in list(AREAS)[1:]}
    asked |= {"AP_class_free": {"class_free": True}, "AP50_class_free": {"class_free": True, "thresholds": slice(0, 1)}}
    return {name: float(matches.average_precision(**options)[0]) for name, options in asked.items()}
