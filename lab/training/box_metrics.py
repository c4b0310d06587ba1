"""Numbers of boxes as torchmetrics, which gather over ranks the boxes they were given.

They compute by `lab.statistics.metrics.regions`, as a report does, and not by torchmetrics' `MeanAveragePrecision`, which computes in
float32 and gives -1 for what is undefined: a look at minival and the report of the same answers are one number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torchmetrics import Metric

from lab.answers import predictions
from lab.host.files import text_hash
from lab.records import Located, Prediction, Region, Regions
from lab.statistics.metrics import KINDS
from lab.training import devices

REFERENCE, PREDICTION = 0.0, 1.0


class BoxMetric(Metric):
    """One metric of the kind `regions` over all pictures that it was given, float64.

    boxes: rows of (picture, `REFERENCE` or `PREDICTION`, label, x0, y0, x1, y1, score or NaN), float64 [N, 8]; pictures: rows of (picture,
    width, height, 1 for clicks), float64 [P, 4]. Pictures and labels are numbers that no other rank gives to another.
    """

    full_state_update, higher_is_better = False, True
    boxes: list[torch.Tensor]
    pictures: list[torch.Tensor]

    def __init__(self, name: str) -> None:
        super().__init__()
        self.of = KINDS[Regions.kind].metrics[name]
        self.add_state("boxes", default=[], dist_reduce_fx="cat")
        self.add_state("pictures", default=[], dist_reduce_fx="cat")

    def update(self, rows: Sequence[Prediction]) -> None:
        """Add the pictures of some answers."""
        first = devices.rank() * 2**32 + sum(map(len, self.pictures))
        boxes, pictures = [], []
        for picture, row in enumerate(rows, start=first):
            answer, said = cast(Regions, row.answer), cast(Located, row.said)
            pictures.append((picture, *answer.size, said.boxes == "click"))
            boxes += [(picture, REFERENCE, number_of(region.label), *region[1:], float("nan")) for region in answer.regions]
            scores = said.scores or (float("nan"),) * len(said.regions)
            boxes += [
                (picture, PREDICTION, number_of(region.label), *region[1:], score)
                for region, score in zip(said.regions, scores, strict=True)
            ]
        self.boxes.append(torch.tensor(boxes, dtype=torch.float64, device=self.device).reshape(-1, 8))
        self.pictures.append(torch.tensor(pictures, dtype=torch.float64, device=self.device).reshape(-1, 4))

    def compute(self) -> torch.Tensor:
        """The number; NaN where it is undefined."""
        rows = rows_of(whole(self.boxes).tolist(), whole(self.pictures).tolist())
        return torch.tensor(self.of.of(predictions.table(rows)), dtype=torch.float64, device=self.device)


def whole(parts: list[torch.Tensor] | torch.Tensor) -> torch.Tensor:
    """A state in one tensor, as it is after the ranks have been gathered."""
    return parts if isinstance(parts, torch.Tensor) else torch.cat(parts)


def number_of(label: str) -> int:
    """A number that is every rank's for a label, exact in float64."""
    return int(text_hash(label, digits=12), 16)


def rows_of(boxes: list[list[float]], pictures: list[list[float]]) -> list[Prediction]:
    """Answers to every picture, with numbers for labels."""
    by_picture: dict[tuple[float, float], list[tuple[Region, float]]] = {}
    for picture, side, label, *corners, score in boxes:
        by_picture.setdefault((picture, side), []).append((Region(f"{label:.0f}", *corners), score))
    rows = []
    for picture, width, height, clicks in pictures:
        right, said = ([*by_picture.get((picture, side), ())] for side in (REFERENCE, PREDICTION))
        scores = tuple(score for _, score in said if score == score)
        regions = tuple(region for region, _ in said)
        located = Located("", "click" if clicks else "json", "ok", regions, scores, 0, True, 0.0)
        name = f"{picture:.0f}"
        answer = Regions(tuple(region for region, _ in right), (int(width), int(height)))
        rows.append(Prediction(name, name, name, None, answer, located, (0,), ()))
    return rows
