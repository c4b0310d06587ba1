"""Rules that a question must pass. Each is counted, and switched off by `quality.NAME=false`, which leaves a doubt behind."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from lab.curation.config import Quality
from lab.curation.parsing import Pair

YES_NO = ("yes", "no")
RULES = {
    "one_word": "answer of several words",
    "repeated": "question asked twice",
    "answer_in_question": "answer in the question",
    "unsupported": "answer not in the attributes",
}
"""What a refused question is counted under, by the key of `quality`."""
UNBALANCED = "too many of yes or no"
WORD = re.compile(r"\w+(?:[-']\w+)*")


@dataclass(frozen=True)
class Judged:
    """A question and its answer. reason: why it is refused, or an empty text. doubts: what rules that are off saw."""

    question: str
    answer: str
    line: str
    reason: str = ""
    doubts: tuple[str, ...] = field(default_factory=tuple)


def judge(pairs: Sequence[Pair], attributes: Mapping[str, Sequence[str]], rules: Quality) -> list[Judged]:
    """The questions about one picture, each held against every rule and the others."""
    answers: dict[str, set[str]] = defaultdict(set)
    for pair in pairs:
        if not pair.reason:
            answers[normal(pair.question)].add(normal(pair.answer))
    known = stems(" ".join(value for values in attributes.values() for value in values))
    judged: list[Judged] = []
    seen: set[str] = set()
    for pair in pairs:
        if pair.reason:
            judged.append(Judged(pair.question, pair.answer, pair.line, pair.reason))
            continue
        question = normal(pair.question)
        broken = {
            "one_word": len(pair.answer.split()) > 1,
            "repeated": question in seen or len(answers[question]) > 1,
            "answer_in_question": normal(pair.answer) not in YES_NO and bool(stems(pair.answer)) and stems(pair.answer) <= stems(pair.question),
            "unsupported": normal(pair.answer) not in YES_NO and not stems(pair.answer) <= known,
        }
        seen.add(question)
        wrong = [name for name, is_broken in broken.items() if is_broken]
        reason = next((RULES[name] for name in wrong if getattr(rules, name)), "")
        doubts = tuple(RULES[name] for name in wrong if not getattr(rules, name))
        judged.append(Judged(pair.question, pair.answer, pair.line, reason, doubts))
    return judged


def normal(text: str) -> str:
    """A text as two are compared: lower case, words alone."""
    return " ".join(WORD.findall(text.lower()))


def stems(text: str) -> set[str]:
    """The words of a text without endings in which a plural and its singular differ, a hyphenated one also in its parts."""
    words = {part for word in WORD.findall(text.lower()) for part in (word, *word.split("-"))}
    return {re.sub(r"(?<=\w\w)(?:e?s|e)+$", "", word) for word in words} - {""}


def balance(judged: Mapping[str, Sequence[Judged]], splits: Mapping[str, str], rules: Quality, seed: int) -> dict[str, list[Judged]]:
    """The questions by product, with so many of the commoner of yes and no refused that each split keeps to `quality.yes_no_share`."""
    if rules.yes_no_share is None:
        return {product: list(questions) for product, questions in judged.items()}
    refused: set[tuple[str, int]] = set()
    for split in set(splits.values()):
        places: dict[str, list[tuple[str, int]]] = {answer: [] for answer in YES_NO}
        for product, questions in judged.items():
            for at, one in enumerate(questions):
                if splits[product] == split and not one.reason and normal(one.answer) in YES_NO:
                    places[normal(one.answer)].append((product, at))
        rarer, commoner = sorted(places.values(), key=len)
        share = rules.yes_no_share
        most = len(commoner) if share == 1.0 else int(len(rarer) * share / (1 - share) + 1e-9)
        drawn = sorted(commoner, key=lambda place: hashlib.sha256(f"{seed}/{place[0]}/{place[1]}".encode()).digest())
        refused |= set(drawn[most:])
    return {
        product: [replace(one, reason=UNBALANCED) if (product, at) in refused else one for at, one in enumerate(questions)]
        for product, questions in judged.items()
    }
