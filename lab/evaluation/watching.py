"""Boxes of minival at every look of a training, so that early stopping and the best weights follow what boxes are like."""

from __future__ import annotations

from typing import cast

import lightning as L
from lightning.pytorch.callbacks import Callback
from torchmetrics import Metric

from lab.config import EvaluationSection
from lab.errors import DataError
from lab.evaluation import locating
from lab.model.answers import RegionsReadout
from lab.records import Regions
from lab.training.examples import Examples
from lab.training.learner import Learner
from lab.training.objective import RegionsObjective


class WatchBoxes(Callback):
    """Writes the boxes of all minival pictures and logs what they come to beside the loss of their references."""

    def __init__(self, minival: Examples, section: EvaluationSection) -> None:
        self.minival, self.section = minival, section

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Learner) and isinstance(pl_module.objective, RegionsObjective)
        readout = self.minival.encoder.readout
        assert isinstance(readout, RegionsReadout)
        rows = locating.answer(pl_module.vlm, self.minival, readout, self.section, "minival")
        metrics: dict[str, Metric] = dict(pl_module.objective.located.items())  # type: ignore[arg-type]  # torch calls them modules
        for name, metric in metrics.items():
            metric.update(rows)
            pl_module.log(f"minival/{name}", metric)
        if not any(cast(Regions, row.answer).regions for row in rows):
            raise DataError("minival: none of its pictures has a box, so no look can tell a better arm. Set trainer.val_every=null, or give it some.")


def watchers(minival: Examples, section: EvaluationSection) -> list[Callback]:
    """What looks on while answers of a kind are learned."""
    return [WatchBoxes(minival, section)] if minival.encoder.readout.kind == Regions.kind else []
