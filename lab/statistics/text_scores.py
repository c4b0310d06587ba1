"""How right a written answer is, given its references: a number in [0, 1].

`token_f1` and `rouge_l` split both sides into words by their own rules; nothing else is made alike here (`lab.answers.normalise`).
Of several references the best counts, but for `vqa_accuracy`, which is a vote.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Sequence

from lab.answers.normalise import squad

ROUGE_WORD = re.compile(r"[a-z0-9]+")


def token_f1(text: str, references: Sequence[str]) -> float:
    """F1 of the words in common, counted with their repetitions, as SQuAD 2.0: two empty sides agree, an empty and a full one do not."""
    return max(_f1(squad(text).split(), squad(reference).split()) for reference in references)


def token_f1_squad1(text: str, references: Sequence[str]) -> float:
    """`token_f1` as SQuAD 1.1: without a word in common 0, of two empty sides too."""
    return token_f1(text, references) if squad(text) else 0.0


def rouge_l(text: str, references: Sequence[str]) -> float:
    """F1 of the longest common subsequence of words [a-z0-9]+ (Lin 2004; rouge-score without stemmer)."""
    words = ROUGE_WORD.findall(text.lower())
    return max(_rouge(words, ROUGE_WORD.findall(reference.lower())) for reference in references)


def rouge_l_stemmed(text: str, references: Sequence[str]) -> float:
    """`rouge_l` of words without their endings (rouge-score with stemmer)."""
    words = _stems(text)
    return max(_rouge(words, _stems(reference)) for reference in references)


def vqa_accuracy(text: str, references: Sequence[str], votes: Sequence[int]) -> float:
    """VQAv2's accuracy (Antol et al. 2015, 1505.00468): the mean of min(votes of the others / 3, 1) over annotators left out.

    votes: annotators of each reference, or () for one each. One annotator alone: equality. `vqaEval.py` does so for its ten.
    """
    counts = list(votes) or [1] * len(references)
    agree, number = sum(count for reference, count in zip(references, counts, strict=True) if reference == text), sum(counts)
    if number == 1:
        return float(agree)
    return (agree * min((agree - 1) / 3, 1.0) + (number - agree) * min(agree / 3, 1.0)) / number


def _f1(words: list[str], reference: list[str]) -> float:
    if not words or not reference:
        return float(words == reference)
    common = (Counter(words) & Counter(reference)).total()
    return 2 * common / (len(words) + len(reference))


def _stems(text: str) -> list[str]:
    return [_stem(word) if len(word) > 3 else word for word in ROUGE_WORD.findall(text.lower())]


@functools.cache
def _stem(word: str) -> str:
    """By Porter (1980) with NLTK's extensions."""
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer().stem(word)


def _rouge(words: list[str], reference: list[str]) -> float:
    if not words or not reference:
        return 0.0
    row = [0] * (len(reference) + 1)
    for word in words:
        diagonal = 0
        for j, other in enumerate(reference, 1):
            diagonal, row[j] = row[j], diagonal + 1 if word == other else max(row[j], row[j - 1])
    return 2 * row[-1] / (len(words) + len(reference))
