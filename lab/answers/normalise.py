"""How a written answer and its references are made alike before they are compared: `prompt.post`.

    none    nothing
    lower   case, and white space at the ends
    squad   SQuAD's evaluation (Rajpurkar et al. 2016, 1606.05250): case, ASCII punctuation, articles, white space
    vqa     VQAv2's evaluation (Antol et al. 2015, 1505.00468; vqaEval.py): case, punctuation, number words, articles, contractions
    blip    first word, without punctuation at its ends
    llava   first word after prefixes such as "Answer:", without any punctuation
    qwen    first run of letters; "Unknown" if there is none

The last three skip the articles a, an, the, unless nothing else is there. Every rule is applied to both sides.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable

ARTICLES = ("a", "an", "the")
UNKNOWN = "Unknown"
"""What `qwen` gives for a text without a letter."""
PREFIX = re.compile(r"^(?:(?:(?:final|short|predicted)\s+)?answer|ans|assistant|response|a)\s*:|^(?:the\s+)?answer\s+is\b\s*:?")

SQUAD_ARTICLES = re.compile(r"\b(a|an|the)\b")
SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)
VQA_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10",
}  # fmt: skip
VQA_FULL_STOP, VLMEVALKIT_FULL_STOP = re.compile(r"(?!<=\d)\.(?!\d)"), re.compile(r"(?<!\d)\.(?!\d)")
VQA_PUNCTUATION = r';/[]"{}()=+\_-><@`,?!'
VQA_CONTRACTED = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've he's how'd how'll "
    "how's isn't it'd it'd've it'll let's ma'am mightn't mightn't've might've mustn't must've needn't not've o'clock "
    "oughtn't 'ow's'at 'twas shan't she'd've should've shouldn't shouldn't've somebody'd somebody'd've somebody'll somebody's someone'd "
    "someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're there's they'd "
    "they'd've they'll they're they've wasn't we'd've we've weren't what'll what're what's what've when's where'd where's where've "
    "who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd "
    "you'd've you'll you're you've"
)
CONTRACTIONS = {word.replace("'", ""): word for word in VQA_CONTRACTED.split()}
"""`dont` -> `don't`."""


def none(text: str) -> str:
    """The text, whatever it is."""
    return text


def lower(text: str) -> str:
    """The text in lower case, without white space at its ends."""
    return text.strip().lower()


def squad(text: str) -> str:
    """SQuAD's own rule."""
    return " ".join(SQUAD_ARTICLES.sub(" ", text.lower().translate(SQUAD_PUNCTUATION)).split())


def vqa(text: str) -> str:
    """VQAv2's own rule."""
    return as_vqa(text, VQA_FULL_STOP)


def evalai(text: str) -> str:
    """`vqa` as EvalAI's server and lmms-eval have it: commas and question marks go first, a possessive is a word of its own."""
    return vqa(text.lower().replace(",", "").replace("?", "").replace("'s", " 's"))


def vlmevalkit_vqa(text: str) -> str:
    """`vqa` as VLMEvalKit has it: a full stop behind a digit stays."""
    return as_vqa(text, VLMEVALKIT_FULL_STOP)


def as_vqa(text: str, full_stop: re.Pattern[str]) -> str:
    """VQAv2's rule. full_stop: what is taken for one."""
    text = text.replace("\n", " ").replace("\t", " ").strip().lower()
    given, in_number = text, re.search(r"\d,\d", text) is not None
    for mark in VQA_PUNCTUATION:
        text = text.replace(mark, "" if f"{mark} " in given or f" {mark}" in given or in_number else " ")
    text = full_stop.sub("", text)
    words = [VQA_NUMBERS.get(word, word) for word in text.split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def is_mark(character: str) -> bool:
    """Whether a character is punctuation or a symbol (Unicode categories P and S)."""
    return unicodedata.category(character)[0] in "PS"


def first(words: list[str]) -> str:
    """The first word that is no article, else the first, else nothing."""
    return next((word for word in words if word not in ARTICLES), words[0] if words else "")


def strip_marks(word: str) -> str:
    """A word without punctuation at its ends."""
    while word and is_mark(word[0]):
        word = word[1:]
    while word and is_mark(word[-1]):
        word = word[:-1]
    return word


def blip(text: str) -> str:
    """The first word, lower case, without punctuation at its ends."""
    words = map(strip_marks, unicodedata.normalize("NFC", text).lower().split())
    return first([word for word in words if word])


def llava(text: str) -> str:
    """The first word after leading non-letters and known prefixes, lower case, without punctuation anywhere."""
    text, before = unicodedata.normalize("NFC", text).lower(), None
    while text != before:
        before = text
        while text and not text[0].isalpha():
            text = text[1:]
        text = PREFIX.sub("", text, count=1)
    return first("".join(character for character in text if not is_mark(character)).split())


def qwen(text: str) -> str:
    """The first run of letters, lower case; hyphens and apostrophes between two letters join them."""
    text = re.sub(r"(?<=[^\W\d_])['’‘\-‐‑](?=[^\W\d_])", "", unicodedata.normalize("NFC", text).lower())
    return first("".join(character if character.isalpha() else " " for character in text).split()) or UNKNOWN


RULES: dict[str, Callable[[str], str]] = {rule.__name__: rule for rule in (none, lower, squad, vqa, blip, llava, qwen)}
