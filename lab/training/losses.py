"""What a training minimises, and the probabilities of labels that scoring reads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional as F

from lab.model.batching import IGNORED
from lab.model.family import Family

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def answer_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of the labels [B, A] under the logits [B, A, V] of `Vlm.predict`, in nats; Transformers' `labels=` loss."""
    return F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED)


def class_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The same where one of C labels is chosen: binary cross-entropy of each under the logits [B, 1, C], summed over labels, mean over
    those labels [B, 1] that count; as `ViltForQuestionAnswering` has it."""
    counts = labels[:, 0] != IGNORED
    chosen = F.one_hot(labels[counts, 0], logits.shape[-1]).float()
    return F.binary_cross_entropy_with_logits(logits[counts, 0].float(), chosen) * logits.shape[-1]


def shares_loss(logits: torch.Tensor, shares: torch.Tensor) -> torch.Tensor:
    """`class_loss` where each of C labels is to be a share [B, C]; as ViLT was trained on VQAv2 (`vqa_targets`)."""
    counts = shares.any(dim=1)
    return F.binary_cross_entropy_with_logits(logits[counts, 0].float(), shares[counts]) * logits.shape[-1]


LOSSES = {"inline": answer_loss, "beside": answer_loss, "classes": class_loss}
"""By where the answers of a `Family` stand."""


def loss_of(family: Family) -> Loss:
    """What a family's training minimises."""
    return answer_loss if family.one_of else LOSSES[family.answers]


def of_labels(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """log p of each label, float32 [B, A], and the likeliest tokens, int64 [B, A]; 0 and the label where it is `IGNORED`."""
    nll = F.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return -nll.view_as(labels), torch.where(labels == IGNORED, labels, logits.argmax(dim=-1))
