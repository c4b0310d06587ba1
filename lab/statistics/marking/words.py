"""What a short written answer is worth: GQA, TextVQA, DocVQA, ChartQA, OCRBench, POPE."""

from __future__ import annotations

import math
import string
from collections.abc import Callable, Mapping, Sequence

from lab.answers.normalise import evalai, lower, vlmevalkit_vqa
from lab.statistics import text_scores
from lab.statistics.marking.mark import PLAIN, UNPARSED, Asked, Marked, final

Normaliser = Callable[[str], str]

LEAST_ANLS = 0.5
MOST_CHANGE = 0.05
"""The tolerance of relaxed accuracy, a share of the reference."""
FORMULAS = ("HME100k", "Handwritten Mathematical Expression Recognition")
"""OCRBench's name of the data and of the category whose answers are formulas, which spaces and case are read otherwise in."""
FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0x3000: 0x20}


def without_punctuation(text: str) -> str:
    """Lower case without ASCII punctuation; white space stays."""
    return text.lower().translate(str.maketrans("", "", string.punctuation))


def said(prediction: str, profile: str) -> str:
    """What is marked of a reply: the two evaluators take it as it is."""
    return final(prediction) if profile == "ours" else prediction


WORD: Mapping[str, Normaliser] = {"ours": evalai, "lmms": without_punctuation, "vlmevalkit": lower}
VQA: Mapping[str, Normaliser] = {"ours": evalai, "lmms": evalai, "vlmevalkit": vlmevalkit_vqa}


def exact_answer(prediction: str, references: Sequence[str], profile: str = "ours", asked: Asked = PLAIN) -> Marked:
    """Equality with a reference (GQA)."""
    read_as = WORD[profile](said(prediction, profile))
    return Marked(float(read_as in map(WORD[profile], references)), read_as) if read_as.strip() else UNPARSED


def vqa_accuracy(prediction: str, references: Sequence[str], profile: str = "ours", asked: Asked = PLAIN) -> Marked:
    """The vote of annotators, one reference each (Antol et al. 2015); ours: of one annotator alone equality, which both others mark 0."""
    read_as = VQA[profile](said(prediction, profile))
    votes = [VQA[profile](reference) for reference in references]
    if not read_as.strip() or not votes:
        return UNPARSED
    if len(votes) == 1:
        return Marked(float(votes[0] == read_as and profile == "ours"), read_as)
    return Marked(text_scores.vqa_accuracy(read_as, votes, ()), read_as)


def anls(prediction: str, references: Sequence[str], profile: str = "ours", asked: Asked = PLAIN) -> Marked:
    """Average normalised Levenshtein similarity (Biten et al. 2019) with the best reference; below a half it is 0, a half counts.

    As both evaluators: case and repeated spaces make no distance, but the length that it is divided by is that of the longer text as it is.
    """
    from rapidfuzz.distance import Levenshtein

    text = said(prediction, profile)
    read_as = " ".join(text.lower().split())
    if not read_as or not references:
        return UNPARSED
    alike = (
        1 - Levenshtein.distance(" ".join(each.lower().split()), read_as) / max(len(each.upper()), len(text.upper())) for each in references
    )
    best = max(alike)
    return Marked(best if best >= LEAST_ANLS else 0.0, read_as)


def relaxed_accuracy(prediction: str, references: Sequence[str], profile: str = "ours", asked: Asked = PLAIN) -> Marked:
    """ChartQA's: a number within 5 % of the reference, else equality without case (Masry et al. 2022; pix2struct). 2019 is within 5 % of 2009."""
    text = prediction if profile == "lmms" else said(prediction, profile).strip()
    if not text.strip():
        return UNPARSED
    return Marked(float(any(relaxed_equal(text, reference) for reference in references)), text)


def relaxed_equal(text: str, reference: str) -> bool:
    """Whether a text is within the tolerance; a reference of 0 is compared as text."""
    given, wanted = number_of(text), number_of(reference)
    if given is not None and wanted:
        return abs(given - wanted) / abs(wanted) <= MOST_CHANGE
    return text.lower() == reference.lower()


def number_of(text: str) -> float | None:
    """A text as a number, a percentage as a share; None: it is none."""
    try:
        value = float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def contained(prediction: str, references: Sequence[str], profile: str = "ours", asked: Asked = PLAIN) -> Marked:
    """OCRBench's: a reference stands in the reply (Liu et al. 2024); in formulas without spaces and with case. asked.answer_type: its data."""
    formula, fold = asked.answer_type in FORMULAS, profile != "vlmevalkit"

    def read(text: str) -> str:
        text = text.strip().replace("\n", " ")
        if formula:
            return text.replace(" ", "")
        return (text.translate(FULL_WIDTH) if fold else text).lower().strip()

    read_as = read(said(prediction, profile))
    return Marked(float(any(read(reference) in read_as for reference in references)), read_as) if read_as else UNPARSED


def yes_no(prediction: str, references: Sequence[str], profile: str = "ours", asked: Asked = PLAIN) -> Marked:
    """POPE's: yes or no as a word of the reply, not both; lmms: the reply is nothing else."""
    text = said(prediction, profile).lower()
    words = {text.strip()} if profile == "lmms" else {*(vlmevalkit_vqa(text) if profile == "vlmevalkit" else without_marks(text)).split()}
    found = words & {"yes", "no"}
    if len(found) != 1:
        return UNPARSED
    read_as = found.pop()
    return Marked(float(read_as in map(lower, references)), read_as)


def without_marks(text: str) -> str:
    """A text whose characters that are neither letters, digits nor apostrophes are spaces."""
    return "".join(character if character.isalnum() or character in "'’" else " " for character in text)
