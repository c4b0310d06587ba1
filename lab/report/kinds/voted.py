"""Answers in words whose references were voted on: the page of `text`."""

from __future__ import annotations

from dataclasses import replace

from lab.answers.predictions import PredictionTable
from lab.report.kinds import text
from lab.statistics.text_scores import vqa_accuracy


def commonest(table: PredictionTable) -> tuple[str, dict[str, float]]:
    """As of `text`, with its share of votes."""
    name, metrics = text.commonest(table)
    answer = name.removeprefix(text.ALWAYS)
    votes = [vqa_accuracy(answer, *one) for one in zip(table.references, table.votes, strict=True)]
    return name, {**metrics, "vqa_accuracy": sum(votes) / len(votes)}


PAGE = replace(text.PAGE, kind="voted", baseline=commonest, baseline_needs=("votes",))
