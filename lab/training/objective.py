"""What a training minimises, and what is watched of it meanwhile, by kind of answer."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from lab.model.answers import Readout
from lab.model.encoding import IGNORED
from lab.records import Choice
from lab.statistics.functional import NUM_BINS
from lab.statistics.metrics import KINDS

WATCHED_SPLITS = ("minival", "train_slice")
"""Splits that are scored during training, in the order of `DataModule.val_dataloader`."""


def answer_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the labels [B, A] under the logits [B, A, V] of `Vlm.predict`, in nats; Transformers' `labels=` loss."""
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


class ChoiceObjective(nn.Module):
    """Cross-entropy of the answer's tokens; watched by the negative log-likelihood of the right option among all.

    accuracy and ece (`NUM_BINS` equal widths) are torchmetrics, which gather over ranks what they have counted.
    """

    watched = KINDS[Choice.kind].watched

    def __init__(self, readout: Readout) -> None:
        super().__init__()
        self.readout = readout
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
        metrics: dict[str, Metric] = dict(self.metrics[split].items())  # type: ignore[operator]
        metrics["accuracy"].update(log_p.argmax(dim=1), right)
        metrics["ece"].update(shares, right)
        return {"loss": answer_loss(logits, labels), "nll": -(log_p[rows, right] - total).mean(), **metrics}
