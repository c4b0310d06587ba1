"""Questions and answers out of what a model wrote: CSV among prose, fences, numbers, quotes and headers. A line is read alone."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass

LEADING = re.compile(r"^\s*(?:[-*•]\s+|\(?(?:Q(?:uestion)?\s*)?\d{1,3}\s*[.):]\s*|Q(?:uestion)?\s*:\s*)+", re.IGNORECASE)
"""Bullets and numbers before a question."""
ASKED = re.compile(r"^(?P<question>.+?\?)[\"'*]*\s*(?:[,;|\t:]|\bA(?:nswer)?\s*\d*\s*[.:])+\s*(?P<answer>.+)$", re.IGNORECASE)
"""Whatever stands before and behind a question mark with something that divides them."""
NOTHING = re.compile(r"[\s|:=*-]+|\W*questions?\W+answers?\W*", re.IGNORECASE)
"""Rules of a table, and headers."""
FIRST_WORDS = frozenset((
    "what", "which", "who", "whose", "where", "when", "why", "how", "is", "are", "was", "were", "does", "do", "did", "has", "have", "had", "can",
    "could", "will", "would", "in", "on", "of", "at", "to", "from",
))  # fmt: skip
"""A question without its mark begins with one of these."""
MARKS = str.maketrans({"“": '"', "”": '"', "„": '"', "’": "'", "‘": "'", "，": ","})
NO_QUESTION, NO_ANSWER, CUT = "not a question and an answer", "no answer", "cut by the token limit"


@dataclass(frozen=True)
class Pair:
    """One line. reason: why it is refused, or an empty text. question, answer: as far as they can be told."""

    line: str
    question: str = ""
    answer: str = ""
    reason: str = ""


def parse(text: str, cut: bool) -> list[Pair]:
    """Every line that holds something but fences and headers. cut: the token limit ended it, so the last line is refused, however whole it looks."""
    pairs = [pair for line in text.splitlines() if (pair := read(line)) is not None]
    if cut and pairs:
        last = pairs.pop()
        pairs.append(Pair(last.line, last.question, last.answer, CUT))
    return pairs


def read(line: str) -> Pair | None:
    """One line; None where it holds nothing that anyone could have meant as a question."""
    words = line.strip().translate(MARKS)
    if not words or words.startswith(("```", "~~~")) or NOTHING.fullmatch(words):
        return None
    if words[0] in "{[":
        return Pair(line.strip(), reason=NO_QUESTION)
    words = LEADING.sub("", words.strip("|").strip())
    cells = fields(words)
    if len(cells) != 2 and (match := ASKED.match(words)) is not None:
        cells = [match["question"], match["answer"]]
    if len(cells) != 2 or not is_question(question := LEADING.sub("", clean(cells[0]))):
        return Pair(line.strip(), reason=NO_QUESTION)
    answer = clean(re.sub(r"^A(?:nswer)?\s*\d*\s*[.:]\s*", "", clean(cells[1]), flags=re.IGNORECASE)).rstrip(".").strip()
    return Pair(line.strip(), question, answer, "" if answer and not answer.endswith("?") else NO_ANSWER)


def fields(words: str) -> Sequence[str]:
    """The fields of a line of CSV, with the white space around them taken off; quotes that do not close are characters."""
    if words.count('"') % 2:
        words = words.replace('"', "")
    return [cell.strip() for cell in next(csv.reader([words], skipinitialspace=True), [])]


def clean(cell: str) -> str:
    """A cell without quotes and marks of emphasis around it."""
    return " ".join(cell.strip(" \t\"'*`").split())


def is_question(text: str) -> bool:
    """Whether it ends as a question does, or begins as one."""
    return bool(text) and (text.endswith("?") or text.split()[0].lower() in FIRST_WORDS)
