"""What is watched during training is what the report computes of the same answers."""

from __future__ import annotations

import pytest
import torch

from lab.answers.choice import ChoiceTable
from lab.model.answers import Readout
from lab.model.batching import IGNORED
from lab.statistics import functional
from lab.training.objective import ChoiceObjective


def test_torchmetrics_of_batches_equal_the_report_s_numbers() -> None:
    words = Readout(("True", "False"), ((1, 2), (3,)), (("True", "true"), ("False",)), (1, 3))
    objective, generator = ChoiceObjective(words), torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(50, 2, 8, generator=generator)
    right = torch.randint(2, (50,), generator=generator)
    labels = torch.full((50, 2), IGNORED)
    labels[:, -1] = torch.tensor(words.first)[right]
    for rows in torch.arange(50).split(16):
        numbers = objective.score("minival", logits[rows], labels[rows])
    log_p = words.log_p(logits[:, 1]).double().numpy()
    table = ChoiceTable(log_p=log_p, right=right.numpy(), prediction=log_p.argmax(axis=1))
    assert float(numbers["accuracy"].compute()) == pytest.approx(functional.mean("correct", table.correct))
    assert float(numbers["ece"].compute()) == pytest.approx(functional.ece(table.confidence, table.correct), abs=1e-6)
    whole = objective.score("train_slice", logits, labels)
    assert float(whole["nll"]) == pytest.approx(functional.nll(table.p_true, table.label), abs=1e-6)
