"""Metrics of answers in words. A rule (`prompt.post`) makes both sides alike before they are compared."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.statistics import functional, text_scores
from lab.statistics.metrics import COUNTS, Kind, Metric, gap_rows, mean_gap, ratio, selective

NEEDS = ("references", "text", "post")
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


def scored(name: str, header: str, score: Callable[[str, Sequence[str]], float], says: str) -> Metric:
    """The mean of a score of each answer."""

    def each(table: PredictionTable) -> np.ndarray:
        known = {pair: score(*pair) for pair in set(table.normal)}  # short answers are few
        return np.array([known[pair] for pair in table.normal])

    return Metric(name, header, "%", True, lambda table: float(each(table).mean()), says, each=each, needs=NEEDS)


def share(name: str, header: str, each: Callable[[PredictionTable], Any], needs: tuple[str, ...], says: str) -> Metric:
    """A share of answers that should be small."""
    return Metric(name, header, "%", False, lambda table: float(np.mean(each(table))), says, each=each, needs=needs)


def calibration(name: str, header: str, confidence: Callable[[PredictionTable], np.ndarray], interval: bool, says: str) -> Metric:
    """The ECE of a confidence against an exact match."""
    return Metric(
        name, header, "%", False, lambda table: functional.ece(confidence(table), table.correct), says,
        rows=gap_rows(confidence, lambda table: table.correct), value=mean_gap, interval=interval, needs=(*NEEDS, "log_p", "tokens"),
    )  # fmt: skip


def token_rows(table: PredictionTable) -> np.ndarray:
    """(-log p of the reference, its tokens), [n, 2]."""
    return np.stack([-table.log_p_reference, table.reference_tokens.astype(np.float64)], axis=1)


def learned(name: str, header: str, unit: str, says: str, better: bool | None = True) -> Metric:
    """The mean of a column that `lab.score` has written beside the predictions; nothing where it has not."""

    def each(table: PredictionTable) -> np.ndarray:
        return getattr(table, name)

    return Metric(
        name, header, unit, better, lambda table: float(each(table).mean()), says, each=each, needs=(name,),
        only=lambda table: name in table.columns,
    )  # fmt: skip


def commonest(table: PredictionTable) -> float:
    """The share of the answer that is given most often."""
    return Counter(text for text, _ in table.normal).most_common(1)[0][1] / len(table)


def numbers_of(text: str) -> set[str]:
    """The numbers in a text, without commas."""
    return {number.replace(",", "") for number in NUMBER.findall(text)}


def loses(post: tuple[str, ...], raw: tuple[str, ...]) -> bool:
    """Whether a rule takes from references all their text, or a number."""
    return any((text.strip() and not kept) or not numbers_of(text) <= numbers_of(kept) for kept, text in zip(post, raw, strict=True))


def damaged(table: PredictionTable) -> np.ndarray:
    return np.array([loses(post, raw) for (_, post), raw in zip(table.normal, table.references, strict=True)], dtype=bool)


METRICS = (
    Metric(
        "exact_match", "exact match", "%", True, lambda table: functional.mean("correct", table.correct),
        "exact match: share of answers that equal a reference, both read by the rule prompt.post.",
        each=lambda table: table.correct, exact=True, interval=True, needs=NEEDS,
    ),
    scored(
        "token_f1", "token F1", text_scores.token_f1,
        "token F1: F1 of the words in common with the best reference, repetitions counted, split as SQuAD 2.0's script does.",
    ),
    scored(
        "token_f1_squad1", "token F1 (SQuAD 1.1)", text_scores.token_f1_squad1,
        "token F1 (SQuAD 1.1): as token F1, but two empty answers are worth 0, as in the first version of the script.",
    ),
    scored(
        "rouge_l", "ROUGE-L", text_scores.rouge_l, "ROUGE-L: F1 of the longest common subsequence of words (Lin 2004), without stemmer.",
    ),
    scored(
        "rouge_l_stemmed", "ROUGE-L, stemmed", text_scores.rouge_l_stemmed,
        "ROUGE-L, stemmed: as ROUGE-L, of words without their endings (Porter 1980 by NLTK, as rouge-score with its stemmer): dogs is dog.",
    ),
    calibration(
        "ece", "ECE", lambda table: table.confidence, True,
        "ECE: expected calibration error, sum over 15 equal-width bins of the bin's share times |exact match - mean confidence| (Guo et "
        "al. 2017). Confidence is the probability of the written answer, all of its tokens and the end of the turn.",
    ),
    calibration(
        "ece_per_token", "ECE per token", lambda table: table.confidence_per_token, False,
        "ECE per token: of the geometric mean of the tokens' probabilities, which does not fall with an answer's length.",
    ),
    *selective((*NEEDS, "log_p", "tokens")),
    Metric(
        "token_nll", "token NLL", "nats", False, lambda table: float(ratio(token_rows(table).sum(axis=0))),
        "token NLL: mean negative natural logarithm of the probability of a token of the reference that is trained on, end of the turn "
        "included.",
        rows=token_rows, needs=("log_p_reference", "reference_tokens"),
    ),
    share("cut_off", "cut off", lambda table: ~table.ended, ("ended",), "cut off: answers that met evaluation.max_new_tokens."),
    share(
        "empty", "empty", lambda table: [not text for text, _ in table.normal], NEEDS,
        "empty: answers of which the rule leaves nothing.",
    ),
    share(
        "damaged_references", "damaged references", damaged, NEEDS,
        "damaged references: questions with a reference that loses all its text or a number by the rule.",
    ),
    Metric(
        "commonest_answer", "commonest answer", "%", None, commonest,
        "commonest answer: the share of the answer written most often; far above that of the commonest reference, answers have collapsed.",
        needs=NEEDS,
    ),
    learned(
        "bertscore", "BERTScore", "",
        "BERTScore: F1 of greedily matched contextual embeddings (Zhang et al. 2020), without idf and rescaling; by lab.score, of the model "
        "named. It is high for answers that are wrong in the same words' company: read it beside exact match.",
    ),
    learned(
        "bartscore", "BARTScore", "nats",
        "BARTScore: mean log-likelihood of a token of the reference given the answer, or as named (Yuan et al. 2021); by lab.score. Reference "
        "with itself: of the reference given the reference, which is below 0 and lower for short texts.",
    ),
    learned("bartscore_of_reference", "reference with itself", "nats", "", None),
    learned("cosine", "cosine", "", "cosine: of the sentence embeddings of answer and reference (Reimers and Gurevych 2019); by lab.score."),
    *COUNTS,
)  # fmt: skip

KIND = Kind(
    name="text",
    metrics={metric.name: metric for metric in METRICS},
    headline="exact_match",
    shown=["exact_match", "token_f1", "rouge_l", "ece", "auroc_confidence", "aurc", "token_nll"],
    watched="token_nll",
    truth="references",
)
