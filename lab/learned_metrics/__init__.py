"""Metrics of written answers that a model computes: BERTScore, BARTScore, cosine. One number a pair; of several references the best.

    bertscore    greedy matching of contextual embeddings (Zhang et al. 2020, 1904.09675; bert-score 0.3.13 without idf and rescaling)
    bartscore    mean log-likelihood of the target's tokens, `<s>` and `</s>` among them, given the source (Yuan et al. 2021, 2106.11520)
    cosine       of sentence embeddings, pooled as the checkpoint says (Reimers and Gurevych 2019, 1908.10084)

Computed on Transformers, weights from safetensors alone: bert-score reads pickles and breaks off at an empty text with Transformers 5,
and torchmetrics mixes the pairs of lists of unequal lengths. Light: torch is imported with the first call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from lab.errors import ConfigError
from lab.host.progress import Report, silent

References = Sequence[str | Sequence[str]]
"""One reference, or several, for each prediction."""
Score = Callable[[list[tuple[str, str]], Report], np.ndarray]
"""Pairs of prediction and reference -> float64 [pairs]."""
PARTS = ("precision", "recall", "f1")
"""Of BERTScore the share of the prediction that is matched, of the reference, and their F1; of BARTScore log p(prediction | reference),
log p(reference | prediction), and their mean."""


def bertscore(
    predictions: Sequence[str], references: References, model: str | Path | None = None, *, num_layers: int | None = None,
    part: str = "f1", batch_size: int = 64, device: str | None = None,
) -> np.ndarray:  # fmt: skip
    """BERTScore of each pair, float64 [n]; 0 where a side is empty.

    model: folder or hub id of an encoder; None: `lab.learned_metrics.checkpoints.PACKAGED`. num_layers: whose output is compared, None:
    the last; bert-score takes 17 of roberta-large, 9 of bert-base-uncased.
    """
    from lab.learned_metrics.scorers import Bertscore

    return of_best(lambda *pairs: Bertscore(model, num_layers, part, batch_size, device).score(*pairs), predictions, references)


def bartscore(
    predictions: Sequence[str], references: References, model: str | Path, *, part: str = "recall", batch_size: int = 64,
    device: str | None = None,
) -> np.ndarray:  # fmt: skip
    """BARTScore of each pair, nats a token, float64 [n]. A text has less than 0 with itself, and a short one less than a long one.

    model: folder or hub id of an encoder-decoder; the paper's is facebook/bart-large-cnn.
    """
    from lab.learned_metrics.scorers import Bartscore

    return of_best(lambda *pairs: Bartscore(model, part, batch_size, device).score(*pairs), predictions, references)


def cosine(
    predictions: Sequence[str], references: References, model: str | Path | None = None, *, batch_size: int = 64, device: str | None = None
) -> np.ndarray:
    """Cosine of the sentence embeddings of each pair, float64 [n]. model: as in `bertscore`."""
    from lab.learned_metrics.scorers import Cosine

    return of_best(lambda *pairs: Cosine(model, batch_size, device).score(*pairs), predictions, references)


def of_best(score: Score, predictions: Sequence[str], references: References, report: Report = silent) -> np.ndarray:
    """The largest score of each prediction over its references, float64 [n]; a pair that occurs again is scored once.

    Raises `ConfigError` for lists of unequal lengths or no reference.
    """
    if len(predictions) != len(references):
        raise ConfigError(f"{len(predictions)} predictions and {len(references)} references are given; each prediction needs one, or a list.")
    lists = [[each] if isinstance(each, str) else list(each) for each in references]
    if not all(lists):
        raise ConfigError(f"prediction {[bool(each) for each in lists].index(False)} has no reference.")
    pairs = dict.fromkeys((text, each) for text, several in zip(predictions, lists, strict=True) for each in several)
    values = dict(zip(pairs, score(list(pairs), report).tolist(), strict=True))
    return np.array([max(values[text, each] for each in several) for text, several in zip(predictions, lists, strict=True)])


def of_itself(score: Score, references: Sequence[Sequence[str]]) -> np.ndarray:
    """The largest score of a reference with itself among the references of each question, float64 [n]."""
    texts = list(dict.fromkeys(chain.from_iterable(references)))
    values = dict(zip(texts, score([(text, text) for text in texts], silent).tolist(), strict=True))
    return np.array([max(values[text] for text in several) for several in references])
