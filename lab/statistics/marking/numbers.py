"""What is worth a reply to questions of mixed kinds: MMMU, MathVista, RealWorldQA."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence

from lab.answers.normalise import evalai
from lab.statistics.marking import letters
from lab.statistics.marking.mark import LETTERS, PLAIN, UNPARSED, Asked, Mark, Marked, final

MMMU_CHOICE: Mark = letters.by_letter(letters.bracketed)
FIRST_OPTION: Mark = letters.by_letter(letters.first_option)
OTHER_ANSWERS = "Other Answers"
"""What VLMEvalKit puts beside the gold of an open question of MMMU, to ask for it as a choice of two."""

WITH_COMMAS = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
SCIENTIFIC = re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+")
SIMPLE = re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])")
TELLING = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")

STATED = re.compile(r"(?i:\banswer\b)\s*(?:(?i:is)\b)?\s*[:=]?\s*|\\boxed\{")
NUMBER = re.compile(r"(?<![\w.])[-−]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?")
INTEGER = re.compile(r"[+-]?\d+")
BRACKETS = re.compile(r"\[[^\[\]]*\]")


def mmmu(prediction: str, references: Sequence[str], profile: str = "ours", asked: Asked = PLAIN) -> Marked:
    """A multiple choice by its letter; an open question by the official parser (Yue et al. 2024, eval_utils.py)."""
    if asked.options:
        return MMMU_CHOICE(prediction, references, profile, asked)
    if profile == "vlmevalkit":
        read = [letters.inferred_letter(prediction, (reference, OTHER_ANSWERS)) for reference in references]
        return Marked(float("A" in read), next(filter(None, read), None))
    text = final(prediction) if profile == "ours" else prediction
    if not text.strip():
        return UNPARSED
    given = open_candidates(text)
    wanted = [value for reference in references for value in normal(reference)]
    words = [one for one in wanted if isinstance(one, str)]
    right = any(any(word in each for word in words) if isinstance(each, str) else each in wanted for each in given)
    return Marked(float(right), "; ".join(map(str, given)))


def open_candidates(reply: str) -> list[str | float]:
    """The official parser's: what stands behind telling words, and the numbers in it, each as `normal` gives it."""
    reply = reply.strip().strip(".").lower()
    lines, telling, parts = reply.split("\n"), TELLING, []
    for place, line in enumerate(lines):
        telling = (*TELLING, "=") if place == len(lines) - 1 else TELLING
        behind = [line.split(word)[-1].strip() for word in telling if word in line]
        shortest = ""
        for each in behind:
            shortest = each if not shortest or len(each) < len(shortest) else shortest
        if shortest and shortest not in (":", ",", ".", "!", "?", ";", "'"):
            parts.append(shortest)
    parts = parts or [reply]
    numbers = [number for part in parts for pattern in (WITH_COMMAS, SCIENTIFIC, SIMPLE) for number in pattern.findall(part)]
    return list(dict.fromkeys(value for part in (*parts, *numbers) for value in normal(part)))


def normal(text: str) -> list[str | float]:
    """A number to two places; else the text in lower case, of one letter with a space before or behind it."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def mathvista(prediction: str, references: Sequence[str], profile: str = "ours", asked: Asked = PLAIN) -> Marked:
    """MathVista's without a model that extracts (Lu et al. 2024): an option, a whole number, a number to `asked.precision` places, a list.

    ours: of several numbers the one that is stated as the answer. lmms, vlmevalkit: the reply is the answer and nothing else, as both
    ask a language model of any other.
    """
    if asked.options:
        place = MATHVISTA_OPTION[profile](prediction, asked.options)
        read_as = None if place is None else asked.options[place]
        return Marked(float(read_as is not None and read_as in references), read_as)
    if asked.answer_type == "list":
        return listed(prediction, references, profile)
    text = stated_number(final(prediction)) if profile == "ours" else prediction.strip()
    if text is None or (profile != "ours" and asked.answer_type == "integer" and not INTEGER.fullmatch(text)):
        return UNPARSED
    places = None if profile == "vlmevalkit" or asked.answer_type != "float" else asked.precision
    given = as_number(text, places)
    if given is None:
        return UNPARSED
    return Marked(float(given in [as_number(reference, places) for reference in references]), f"{given:g}")


def option_of_ours(reply: str, options: Sequence[str]) -> int | None:
    letter = letters.stated_letter(reply, options)
    return None if letter is None else LETTERS.index(letter)


def option_of_lmms(reply: str, options: Sequence[str]) -> int | None:
    reply = reply.strip()
    if reply in options:
        return options.index(reply)
    bracketed = re.findall(r"\(([a-zA-Z])\)", reply)
    letter = bracketed[0].upper() if bracketed else reply
    return LETTERS.index(letter) if len(letter) == 1 and letter in LETTERS[: len(options)] else None


def option_of_vlmevalkit(reply: str, options: Sequence[str]) -> int | None:
    letter = letters.inferred_letter(reply, options)
    return None if letter is None else LETTERS.index(letter)


MATHVISTA_OPTION = {"ours": option_of_ours, "lmms": option_of_lmms, "vlmevalkit": option_of_vlmevalkit}


def stated_number(reply: str) -> str | None:
    """The first number behind the last stated answer; else the only one in the reply."""
    stated = list(STATED.finditer(reply))
    numbers = NUMBER.findall(reply[stated[-1].end() :] if stated else reply)
    return numbers[0] if numbers and (stated or len({*numbers}) == 1) else None


def as_number(text: str, places: int | None) -> float | None:
    """A text as a number, rounded to so many decimal places; None: it is none."""
    try:
        value = float(text.replace(",", "").replace("−", "-"))
        return value if places is None else round(value, places)
    except (ValueError, OverflowError):
        return None


def listed(prediction: str, references: Sequence[str], profile: str) -> Marked:
    """A list in brackets, the last one; VLMEvalKit compares none, so that all are wrong."""
    text = prediction if profile != "ours" else next(reversed(BRACKETS.findall(final(prediction))), "")
    given = literal(text)
    if not isinstance(given, list) or profile == "vlmevalkit":
        return UNPARSED
    if profile == "lmms":
        return Marked(float(text.strip() in (reference.strip() for reference in references)), text.strip())
    return Marked(float(any(given == literal(reference) for reference in references)), text)


def literal(text: str) -> object:
    """A text as a Python literal, or None."""
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def realworldqa(prediction: str, references: Sequence[str], profile: str = "ours", asked: Asked = PLAIN) -> Marked:
    """A letter where the gold is one, else equality."""
    if asked.options:
        return FIRST_OPTION(prediction, references, profile, asked)
    if profile == "ours":
        read_as = evalai(final(prediction))
        return Marked(float(read_as in map(evalai, references)), read_as) if read_as else UNPARSED
    read_as = prediction.lower().strip().rstrip("." if profile == "lmms" else "")
    return Marked(float(read_as in [reference.lower().strip() for reference in references]), read_as) if read_as else UNPARSED
