"""What a training minimises, and what is watched of it meanwhile, by kind of answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from lab.config import Optim
from lab.errors import ConfigError
from lab.model.answers import AnyReadout, Readout, RegionsReadout
from lab.model.batching import IGNORED
from lab.records import Choice, Regions, Text
from lab.statistics.functional import NUM_BINS
from lab.statistics.metrics import KINDS
from lab.training.box_metrics import BoxMetric
from lab.training.losses import Loss, answer_loss, of_labels

if TYPE_CHECKING:
    from lab.training.datamodule import Examples

WATCHED_SPLITS = ("minival", "train_slice")
"""Splits that are scored during training, in the order of `DataModule.val_dataloader`."""


class ChoiceObjective(nn.Module):
    """Cross-entropy of the answer's tokens; watched by the negative log-likelihood of the right option among all.

    accuracy and ece (`NUM_BINS` equal widths) are torchmetrics, which gather over ranks what they have counted.
    """

    watched, better = KINDS[Choice.kind].watched, "min"

    def __init__(self, readout: Readout, loss: Loss = answer_loss) -> None:
        super().__init__()
        self.readout, self.loss = readout, loss
        number = len(readout.words)
        self.metrics = nn.ModuleDict({split: nn.ModuleDict({
            "accuracy": MulticlassAccuracy(number, average="micro", validate_args=False),
            "ece": MulticlassCalibrationError(number, n_bins=NUM_BINS, validate_args=False),
        }) for split in WATCHED_SPLITS})  # fmt: skip

    def score(self, split: str, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor | Metric]:
        """Numbers of one batch of a split, and the metrics that have counted it; tensors as in `answer_loss`."""
        first = (labels != IGNORED).int().argmax(dim=1)
        rows = torch.arange(len(first), device=first.device)
        log_p = self.readout.log_p(logits[rows, first])
        total = torch.logaddexp(*log_p.unbind(dim=1)) if log_p.shape[1] == 2 else log_p.logsumexp(dim=1)
        taught = torch.tensor(self.readout.first, device=labels.device)
        right = (labels[rows, first, None] == taught).int().argmax(dim=1)
        shares = (log_p - total[:, None]).exp().clamp(max=1.0)
        metrics: dict[str, Metric] = dict(self.metrics[split].items())  # type: ignore[operator]  # torch declares no nested ModuleDict
        metrics["accuracy"].update(log_p.argmax(dim=1), right)
        metrics["ece"].update(shares, right)
        return {"loss": self.loss(logits, labels), "nll": -(log_p[rows, right] - total).mean(), **metrics}


class TextObjective(nn.Module):
    """Cross-entropy of the tokens of the reference and the end of its turn; watched by its mean over all of them.

    exact_match: share of references of which every token is the likeliest, so that greedy writing gives them. torchmetrics, as above.
    """

    watched, better = KINDS[Text.kind].watched, "min"

    def __init__(self, loss: Loss = answer_loss) -> None:
        super().__init__()
        self.loss = loss
        names = KINDS[Text.kind].watched, KINDS[Text.kind].headline
        self.metrics = nn.ModuleDict({split: nn.ModuleDict({name: MeanMetric() for name in names}) for split in WATCHED_SPLITS})

    def score(self, split: str, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor | Metric]:
        """As of a `ChoiceObjective`."""
        log_p, likeliest = of_labels(logits, labels)
        metrics: dict[str, Metric] = dict(self.metrics[split].items())  # type: ignore[operator]  # torch declares no nested ModuleDict
        metrics[KINDS[Text.kind].watched].update(-log_p[labels != IGNORED])
        metrics[KINDS[Text.kind].headline].update((likeliest == labels).all(dim=1).float())
        return {"loss": self.loss(logits, labels), **metrics}


class RegionsObjective(TextObjective):
    """That of texts; watched by mean IoU, or recall of clicks, of the boxes that are written at a look (`lab.evaluation.watching`).

    located: torchmetrics of those boxes.
    """

    better = "max"

    def __init__(self, boxes: str, loss: Loss = answer_loss) -> None:
        super().__init__(loss)
        clicks = boxes == "click"
        names = (KINDS[Regions.kind].headline, "recall") if clicks else (KINDS[Regions.kind].headline, KINDS[Regions.kind].watched, "ap50", "ap")
        self.located = nn.ModuleDict({name: BoxMetric(name) for name in names})
        self.watched = names[1]


def objective(reads: AnyReadout, loss: Loss = answer_loss) -> ChoiceObjective | TextObjective:
    """Of answers that are read so."""
    if isinstance(reads, RegionsReadout):
        return RegionsObjective(reads.boxes, loss)
    return ChoiceObjective(reads, loss) if isinstance(reads, Readout) else TextObjective(loss)


def require_votes(section: Optim, train: Examples) -> None:
    """Raise a `ConfigError` for soft targets of answers that nobody voted on."""
    if section.soft_targets and not any(getattr(train.split.index(i).answer, "votes", ()) for i in range(len(train))):
        raise ConfigError(
            "optim.soft_targets=true: no answer of data.train has votes of annotators, so its only target is its label. Leave it out, or give "
            "data whose rows hold every annotator's answer."
        )
