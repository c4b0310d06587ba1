"""Metrics of boxes. Average precision is no sum over pictures: its resamples weight pictures that were matched once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.statistics import functional
from lab.statistics.box_pairs import box_pairs, matches
from lab.statistics.detection import AREAS, area, boxes_of
from lab.statistics.functional import NUM_BINS, bin_index
from lab.statistics.metrics import COUNTS, Kind, Metric, Weighted

BOXES = ("references", "regions", "boxes", "width", "height")
COCO = "COCO's 101-point interpolation (Lin et al. 2014)"


def boxed(table: PredictionTable) -> bool:
    """Whether predictions are boxes, not clicks."""
    return not (table.boxes == "click").all()


def scored(table: PredictionTable) -> bool:
    """Whether there are predictions and each has a score."""
    return any(map(len, table.regions)) and all(map(len, table.scores[[bool(one) for one in table.regions]]))


def share(sums: np.ndarray) -> np.ndarray:
    """sum x / sum y, [..., 2] -> [...]; NaN where there is nothing to divide by."""
    return np.divide(sums[..., 0], sums[..., 1], out=np.full(sums.shape[:-1], np.nan), where=sums[..., 1] > 0)


def pooled(
    name: str, header: str, unit: str, better: bool | None, rows: Callable[[PredictionTable], np.ndarray], says: str = "",
    only: Callable[[PredictionTable], bool] = lambda table: True, interval: bool = False,
) -> Metric:  # fmt: skip
    """A ratio of sums over pictures."""
    return Metric(
        name, header, unit, better, lambda table: float(share(rows(table).sum(axis=0))), says, rows=rows, value=share, interval=interval,
        needs=BOXES, only=only,
    )  # fmt: skip


def over(first: Callable[[PredictionTable], np.ndarray], second: Callable[[PredictionTable], np.ndarray]) -> Callable[[PredictionTable], np.ndarray]:
    """Two numbers of each picture side by side, [n, 2]."""
    return lambda table: np.stack([first(table), second(table)], axis=1)


def hits(table: PredictionTable) -> np.ndarray:
    return box_pairs(table).count("hit")


def predicted(table: PredictionTable) -> np.ndarray:
    return box_pairs(table).size("hit")


def asked(table: PredictionTable) -> np.ndarray:
    """References of each picture, [n]."""
    return box_pairs(table).size("found")


def both(table: PredictionTable) -> np.ndarray:
    """Half of predictions and references, so that hits over it are F1."""
    return (predicted(table) + asked(table)) / 2


def picture_f1(table: PredictionTable) -> np.ndarray:
    """F1 of each picture, [n]; 1 where nothing is to be found and nothing is predicted."""
    return np.divide(hits(table), both(table), out=np.ones(len(table)), where=both(table) > 0)


def average_precision(name: str, header: str, says: str = "", interval: bool = False, **options: object) -> Metric:
    """AP over some thresholds, sizes or without classes."""

    def weighted(table: PredictionTable) -> Weighted:
        matched = matches(table)
        return lambda weights: matched.average_precision(weights, **options)  # type: ignore[arg-type]

    return Metric(
        name, header, "%", True, lambda table: float(weighted(table)(np.ones((1, len(table))))[0]), says, weighted=weighted,
        interval=interval, needs=(*BOXES, "scores"), only=boxed, note=lambda table: "" if matches(table).scored else "no scores",
    )  # fmt: skip


def recall_of(size: str) -> Metric:
    """Recall among references of a size."""
    least, most = AREAS[size]

    def rows(table: PredictionTable) -> np.ndarray:
        inside = [(area(boxes_of(one)) >= least) & (area(boxes_of(one)) < most) for one in table.references]
        found = [one.found[rows].sum() for one, rows in zip(box_pairs(table).pictures, inside, strict=True)]
        return np.array([found, [one.sum() for one in inside]], dtype=np.float64).T

    return pooled(f"recall_{size}", f"recall, {size}", "%", True, rows)


def flat(table: PredictionTable) -> tuple[np.ndarray, np.ndarray]:
    """Score of each predicted box, and whether it is a hit, two of [boxes]."""
    scores = np.array([score for one in table.scores for score in one], dtype=np.float64)
    return np.clip(scores, 0.0, 1.0), np.concatenate([one.hit for one in box_pairs(table).pictures])


def score_gaps(table: PredictionTable) -> np.ndarray:
    """Rows of the calibration error of scores: hit - score in the column of its bin, and the number of boxes in the last."""
    score, hit = flat(table)
    picture = np.repeat(np.arange(len(table)), predicted(table).astype(int))
    gaps = np.zeros((len(table), NUM_BINS + 1))
    np.add.at(gaps, (picture, bin_index(score)), hit - score)
    gaps[:, -1] = predicted(table)
    return gaps


def mean_gap(sums: np.ndarray) -> np.ndarray:
    """sum_b |sum of gaps in bin b| / boxes; NaN without a box."""
    return share(np.stack([np.abs(sums[..., :-1]).sum(axis=-1), sums[..., -1]], axis=-1))


def of_scores(name: str, header: str, unit: str, better: bool, of: Callable[[np.ndarray, np.ndarray], float], says: str, **more: object) -> Metric:
    """A number of the scores and which of their boxes are hits."""
    return Metric(name, header, unit, better, lambda table: of(*flat(table)), says, needs=(*BOXES, "scores"), only=scored, **more)  # type: ignore[arg-type]


def status(name: str, better: bool | None, says: str) -> Metric:
    """The share of answers that read so."""
    return Metric(
        name, name, "%", better, lambda table: float((table.status == name).mean()), says, each=lambda table: table.status == name,
        needs=("status",),
    )  # fmt: skip


def distance_rows(table: PredictionTable) -> np.ndarray:
    """(distance of clicks to the nearest centre of a reference in diagonals of the picture, clicks), [n, 2]."""
    rows = np.zeros((len(table), 2))
    for place, (said, right) in enumerate(zip(table.regions, table.references, strict=True)):
        if said and right:
            centres = boxes_of(right).reshape(-1, 2, 2).mean(axis=1)
            away = np.linalg.norm(boxes_of(said)[:, None, :2] - centres[None], axis=-1).min(axis=1)
            rows[place] = away.sum() / np.hypot(table.width[place], table.height[place]), len(said)
    return rows


METRICS = (
    Metric(
        "picture_f1", "F1 by picture", "%", True, lambda table: float(picture_f1(table).mean()),
        "F1 by picture: F1 of each picture's boxes, mean over pictures; 1 where nothing is to be found and nothing is predicted. Predictions "
        "and references of one label are paired one to one with the largest sum of IoU, and a pair from IoU .5 on is a hit; a click hits the "
        "box that it lies in.",
        each=picture_f1, interval=True, needs=BOXES,
    ),
    pooled("precision", "precision", "%", True, over(hits, predicted)),
    pooled("recall", "recall", "%", True, over(hits, asked)),
    pooled("f1", "F1", "%", True, over(hits, both), "precision, recall, F1: at IoU .5, of the same pairs, over all boxes of all pictures."),
    pooled(
        "mean_iou", "mean IoU", "%", True, over(lambda table: box_pairs(table).count("overlap"), asked),
        "mean IoU: of references with the boxes they are paired with, 0 without one; boxes that hit nothing do not lower it.",
        boxed, interval=True,
    ),
    average_precision(
        "ap", "AP",
        f"AP: mean average precision over IoU .5 to .95 and over classes that have references, {COCO}; AP50, AP75: at one IoU. Boxes are "
        "ranked by score, the geometric mean probability of a box's tokens; of a picture the first 100 of a class count. Without scores "
        "(marked so) all boxes stand on one step of the ranking, so that no order of writing decides.", True,
    ),
    average_precision("ap50", "AP50", interval=True, thresholds=slice(0, 1)),
    average_precision("ap75", "AP75", thresholds=slice(5, 6)),
    *(average_precision(f"ap_{size}", f"AP, {size}", size=size) for size in list(AREAS)[1:]),
    average_precision(
        "ap50_class_free", "AP50, class-free", "AP50, class-free: as if all boxes had one label. A class that only predictions have is in no "
        "mean over classes; it counts here.", class_free=True, thresholds=slice(0, 1),
    ),
    *map(recall_of, list(AREAS)[1:]),
    of_scores(
        "ece", "ECE of scores", "%", False, functional.ece, "ECE of scores: expected calibration error of boxes, score against hit, 15 "
        "equal-width bins (Guo et al. 2017).", rows=score_gaps, value=mean_gap,
    ),
    of_scores(
        "auroc_confidence", "AUROC of scores", "", True, functional.auroc, "AUROC of scores: probability that a hit has a higher score than a "
        "box that is none.",
    ),
    of_scores(
        "aurc", "area under risk-coverage", "", False, functional.aurc, "Risk-coverage: share of false boxes among the k with the highest scores, "
        "mean over k (Geifman et al. 2019).",
    ),
    status("ok", None, "ok, partial, empty, failed: shares of answers of which all boxes could be read, of which some were lost, which say that "
        "there is none, and of which nothing could be read."),
    status("partial", False, ""),
    status("empty", None, ""),
    status("failed", False, ""),
    Metric(
        "duplicates", "repeats a picture", "", False, lambda table: float(box_pairs(table).count("repeat").mean()),
        "repeats a picture: boxes that overlap an earlier one of their label with IoU .95 or more.",
        each=lambda table: box_pairs(table).count("repeat"), needs=BOXES,
    ),
    pooled(
        "invalid", "invalid boxes", "%", False, over(lambda table: (predicted(table) - box_pairs(table).count("valid")), predicted),
        "invalid boxes: with swapped corners, without an area, or beyond the picture; they hit nothing.", boxed,
    ),
    Metric(
        "crowded", "more than 100 boxes", "%", False, lambda table: float(np.mean(predicted(table) > 100)),
        each=lambda table: predicted(table) > 100, needs=BOXES,
    ),
    pooled(
        "distance", "distance", "%", False, distance_rows,
        "distance: of a click to the nearest centre of a reference, in diagonals of the picture.", lambda table: not boxed(table),
    ),
    *COUNTS,
)  # fmt: skip

KIND = Kind(
    name="regions",
    metrics={metric.name: metric for metric in METRICS},
    headline="picture_f1",
    shown=["picture_f1", "precision", "recall", "f1", "mean_iou", "ap", "ap50", "ap75"],
    watched="mean_iou",
    truth="references",
)
