"""What it does to a step's gradient that questions of one picture stand in it together: how many independent ones they count as.

rho is the correlation of the gradients of two questions of one picture, over that of two of different pictures: mean inner products of the
first less those of the second, by mean squared norms less the same. A step of B questions, K of each picture, then has the noise of
B / (1 + (K - 1) rho) independent ones (the design effect of cluster samples, Kish 1965).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lab.host.progress import Report, silent
from lab.model.batching import to_device
from lab.model.encoded import Example
from lab.model.encoding import Encoder
from lab.training.learner import Learner

RESAMPLES = 2000
INTERVAL = (2.5, 97.5)


@dataclass(frozen=True)
class Correlation:
    """rho with its 95 % interval, bootstrapped over pictures. questions, pictures: it was measured on."""

    rho: float
    low: float
    high: float
    questions: int
    pictures: int

    def effective(self, questions: float, together: float) -> float:
        """As how many independent ones so many questions of a step count, of which so many are of one picture."""
        return questions / (1 + (together - 1) * self.rho)


def measure(
    learner: Learner, encoder: Encoder, examples: Sequence[Example], pictures: Sequence[int], report: Report = silent
) -> Correlation | None:
    """Of gradients of one question each, of all that trains, with weights as they are; None where no two are of one picture.

    pictures: of each question. Leaves no gradient behind.
    """
    trained = [value for value in learner.parameters() if value.requires_grad]
    rows = []
    for done, example in enumerate(examples):
        batch = encoder.collate([example], with_answers=True, learned=True)
        found = torch.autograd.grad(learner.loss(to_device(batch, learner.vlm.device)), trained, allow_unused=True)
        rows.append(torch.cat([each.flatten().float().cpu() for each in found if each is not None]))
        report("gradients of single questions", done + 1, len(examples), "")
    gradients = torch.stack(rows)
    return of_products((gradients @ gradients.T).double().numpy(), np.asarray(pictures))


def of_products(products: np.ndarray, pictures: np.ndarray) -> Correlation | None:
    """Of inner products [n, n] of the gradients of n questions, int [n] whose pictures they are of."""
    together = pictures[:, None] == pictures
    if together.sum() == len(pictures) or together.all():
        return None
    apart = products[~together].mean()
    names = np.unique(pictures)
    pairs, norms, counts = [], [], []
    for name in names:
        own = products[np.ix_(pictures == name, pictures == name)]
        norms.append(np.trace(own))
        pairs.append(own.sum() - norms[-1])
        counts.append(len(own))
    pair_sums, norm_sums, numbers = map(np.asarray, (pairs, norms, counts))

    def rho(chosen: np.ndarray) -> np.ndarray:
        """Of pictures int [..., n]."""
        within = (numbers * (numbers - 1))[chosen].sum(axis=-1)
        spread = norm_sums[chosen].sum(axis=-1) / numbers[chosen].sum(axis=-1) - apart
        return (pair_sums[chosen].sum(axis=-1) / np.maximum(within, 1) - apart) / spread

    drawn = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    low, high = np.percentile(rho(drawn), INTERVAL)
    return Correlation(float(rho(np.arange(len(names)))), float(low), float(high), len(pictures), len(names))
