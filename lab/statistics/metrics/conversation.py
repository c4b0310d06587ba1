"""Metrics of conversations: those of `text` for the last answer, and the perplexity of every learned turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.statistics.metrics import Metric, ratio, text

NEEDS = ("turns_log_p", "turns_tokens", "log_p_reference", "reference_tokens")
Turns = Sequence[tuple[float, int]]
FIRST = 3
"""Turns that have a number of their own; those behind them share one."""


def exponential(sums: np.ndarray) -> np.ndarray:
    """exp(nll / tokens), [..., 2] -> [...]; NaN where there are no tokens."""
    with np.errstate(invalid="ignore"):
        return np.exp(ratio(sums))


def perplexity(name: str, header: str, chosen: Callable[[Turns], Turns], says: str) -> Metric:
    """That of some of the turns of each conversation."""

    def rows(table: PredictionTable) -> np.ndarray:
        pairs = [np.sum([(-log_p, tokens) for log_p, tokens in chosen(turns)] or [(0.0, 0)], axis=0) for turns in table.turns]
        return np.array(pairs, dtype=np.float64)

    return Metric(
        name, header, "", False, lambda table: float(exponential(rows(table).sum(axis=0))), says, rows=rows, value=exponential, needs=NEEDS,
    )  # fmt: skip


METRICS = (
    perplexity(
        "perplexity", "perplexity", lambda turns: turns,
        "perplexity: exp of the mean negative log-likelihood of a token of what the assistant says, ends of turn included, given all that "
        "precedes it as it was; over all turns that are learned (data.loss_on), and by the place of a turn in its conversation.",
    ),
    *(
        perplexity(f"perplexity_turn_{place}", f"perplexity, turn {place}", lambda turns, at=place: turns[at - 1 : at], "")
        for place in range(1, FIRST + 1)
    ),
    perplexity("perplexity_later_turns", "perplexity, later turns", lambda turns: turns[FIRST:], ""),
)  # fmt: skip

KIND = replace(
    text.KIND, name="conversation", metrics={**text.KIND.metrics, **{metric.name: metric for metric in METRICS}},
    shown=[*text.KIND.shown, "perplexity"],
)  # fmt: skip
