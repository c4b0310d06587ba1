"""Metrics of answers in words whose references were voted on: those of `text`, compared in VQA accuracy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.statistics import text_scores
from lab.statistics.metrics import Metric, text


def each(table: PredictionTable) -> np.ndarray:
    rows = zip(table.normal, table.votes, strict=True)
    return np.array([text_scores.vqa_accuracy(written, references, votes) for (written, references), votes in rows])


VQA_ACCURACY = Metric(
    "vqa_accuracy", "VQA accuracy", "%", True, lambda table: float(each(table).mean()),
    "VQA accuracy: min(votes for the answer / 3, 1), the mean over leaving each annotator out, both sides read by the rule prompt.post "
    "(Antol et al. 2015).",
    each=each, interval=True, needs=(*text.NEEDS, "votes"),
)  # fmt: skip

KIND = replace(
    text.KIND, name="voted", metrics={VQA_ACCURACY.name: VQA_ACCURACY} | text.KIND.metrics, headline=VQA_ACCURACY.name,
    shown=[VQA_ACCURACY.name, *text.KIND.shown],
)  # fmt: skip
