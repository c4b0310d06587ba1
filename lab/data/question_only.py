"""How often the commonest answer to a question in train is right: what a model can score that never sees an image."""

from __future__ import annotations

from collections import Counter, defaultdict

from lab.records import Answer, Split, Text
from lab.statistics.text_scores import vqa_accuracy

NAME = "always the question's commonest answer in train"
"""Its name among `Splits.baselines`."""


def question_only(learned: Split, asked: Split) -> float | None:
    """Mean score in [0, 1]; a question that train does not ask gets train's commonest answer. None where either split is empty."""
    by_question: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for sample in map(learned.index, range(len(learned))):
        by_question[sample.text][sample.answer.text] += 1
    if not by_question or not len(asked):
        return None
    commonest = {question: counts.most_common(1)[0][0] for question, counts in by_question.items()}
    answers: Counter[str] = Counter()
    for counts in by_question.values():
        answers.update(counts)  # `sum` would copy all that it has for every question
    otherwise = answers.most_common(1)[0][0]
    return sum(score(commonest.get(one.text, otherwise), one.answer) for one in map(asked.index, range(len(asked)))) / len(asked)


def score(text: str, answer: Answer) -> float:
    """1 for a right text, as it is written; of references that were voted on, VQA's accuracy."""
    if isinstance(answer, Text):
        return vqa_accuracy(text, answer.references, answer.votes) if answer.votes else float(text in answer.references)
    return float(text == answer.text)
