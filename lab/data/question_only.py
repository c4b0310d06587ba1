"""How often the commonest answer to a question in train is right: what a model can score that never sees an image."""

from __future__ import annotations

from collections import Counter, defaultdict

from lab.records import Split, Text

NAME = "always the question's commonest answer in train"
"""Its name among `Splits.baselines`."""


def question_only(learned: Split, asked: Split) -> float | None:
    """Share of right answers in [0, 1]; a question that train does not ask gets train's commonest answer. None without train.

    Texts are compared as they are written; any reference of a `Text` is right.
    """
    by_question: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for sample in map(learned.index, range(len(learned))):
        by_question[sample.text][sample.answer.text] += 1
    if not by_question or not len(asked):
        return None
    commonest = {question: counts.most_common(1)[0][0] for question, counts in by_question.items()}
    otherwise = sum(by_question.values(), Counter()).most_common(1)[0][0]
    right = 0
    for sample in map(asked.index, range(len(asked))):
        answer = sample.answer
        right += commonest.get(sample.text, otherwise) in (answer.references if isinstance(answer, Text) else (answer.text,))
    return right / len(asked)
