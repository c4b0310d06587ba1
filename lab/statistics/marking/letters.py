"""Which option a reply names: parsers of multiple choice. None: none of them, or several with nothing that decides.

    stated_letter      ours: whole letters, the last one that is stated as the answer; an option's own words
    first_option       lmms-eval's `extract_mcq_answer` (MMStar, RealWorldQA)
    bracketed          MMMU's official parser (mmmu/eval_utils.py), as lmms-eval has it
    initial, pointed   lmms-eval's of SEED-Bench; of ScienceQA and AI2D
    inferred_letter    VLMEvalKit's `can_infer`, all sets
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Sequence

from lab.answers.normalise import squad
from lab.statistics.marking.mark import LETTERS, PLAIN, Asked, Mark, Marked, final

Parser = Callable[[str, Sequence[str]], str | None]
"""The letter that a reply with these options names."""

UNKNOWN_OPTIONS = 8
"""Letters that are legal where nobody says which options there were: A to H."""

OPENING, CLOSING = r"[\s:=*_(\"'“‘`\[{$]*", r"[\s*_)\"'”’`\]}$]*"
STATED = re.compile(
    rf"(?i:\b(?:answer|(?:correct|right|best|final|my)\s+(?:option|choice|letter))\b){OPENING}(?:(?i:is|would be|must be|should be)\b{OPENING})?"
    rf"(?:(?i:option|choice|letter)\b{OPENING})?(?:\\boxed\{{|\\text\{{)*(?:([A-Z])(?![\w'’])|([a-z])(?={CLOSING}[.!]?\s*$)){CLOSING}"
)
BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{\s*)?([A-Za-z])\s*\}")
LEADING = re.compile(rf"^{OPENING}([A-Za-z]){CLOSING}(?:$|[.:)\]]|\n)")
ALSO = re.compile(r"^\s*(?:,|&|/|and\b|or\b)\s*(?:option\s+)?[*(\[]*[A-Z](?![\w'’])")
WHOLE = re.compile(r"(?<![\w'’])([A-Z])(?![\w'’])")
WORD_AFTER = re.compile(r"[ \t]+[a-z]")
DENIAL = re.compile(r"\b(?:not|no|none|neither|nor|never|except|cannot)\b|n['’]t\b", re.IGNORECASE)
DENIED = re.compile(r"(?:\b(?:not|neither|nor|never|except)|n['’]t)\s+(?:option\s+)?[*(\[]*$", re.IGNORECASE)
NEAR = 20
"""Characters before a letter in which it may be denied."""
PAUSE = re.compile(r"[,.;:!\n]")

REFUSALS = (
    "Sorry, I can't help with images of people yet.", "I can't process this file.", "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)  # fmt: skip
VLMEVALKIT_MARKS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
VLMEVALKIT_STATED = re.compile(r"(?i)answer\s+is\s+\**([ABCD])\**")
LMMS_PHRASES = (
    *(f"{the}{which}{what} is" for what in ("answer", "option") for which in ("correct ", "best ") for the in ("the ", "")), "answer is",
    "the answer is", "the choice is", "choice is", "the correct choice is", "correct choice is", "i choose", "i select", "i pick",
    "my answer is", "my choice is", "옵션", "정답은", "답은", "답:", "答案是", "答案为", "选", "答えは",
)  # fmt: skip


def by_letter(lmms: Parser) -> Mark:
    """The rule of a multiple choice whose lmms-eval task reads replies by `lmms`."""
    parsers: dict[str, Parser] = {"ours": stated_letter, "lmms": lmms, "vlmevalkit": inferred_letter}

    def mark(prediction: str, references: Sequence[str], profile: str = "ours", asked: Asked = PLAIN) -> Marked:
        read_as = parsers[profile](prediction, asked.options)
        return Marked(float(read_as in references), read_as)

    return mark


def letters_of(options: Sequence[str]) -> str:
    """The letters of a question's options."""
    return LETTERS[: len(options) or UNKNOWN_OPTIONS]


def stated_letter(reply: str, options: Sequence[str]) -> str | None:
    """By, in this order: the last stated answer, a box, the letter that begins the reply, the only letter in it, an option's words."""
    reply, legal = final(reply), letters_of(options)
    if stated := list(STATED.finditer(reply)):
        return None if ALSO.match(reply[stated[-1].end() :]) else legal_letter(stated[-1][1] or stated[-1][2], legal)
    if boxed := BOXED.findall(reply):
        return legal_letter(boxed[-1], legal)
    alone = {found[1] for found in WHOLE.finditer(reply) if not is_word(found, reply)} & {*legal}
    if any(DENIED.search(reply[max(0, found.start() - NEAR) : found.start()]) for found in WHOLE.finditer(reply)):
        return None
    leading = LEADING.match(reply)
    if leading and (place := legal_letter(leading[1], legal)):
        rest = squad(reply[leading.end() :])
        if not alone - {place} or (options and rest == squad(options[legal.index(place)])):
            return place
    if len(alone) == 1:
        return alone.pop()
    return None if alone else worded(reply, options)


def legal_letter(letter: str, legal: str) -> str | None:
    return letter.upper() if letter.upper() in legal else None


def is_word(found: re.Match[str], reply: str) -> bool:
    """Whether a capital is the article or the pronoun: `A box`, `I think`."""
    return found[1] in "AI" and WORD_AFTER.match(reply, found.end()) is not None


def worded(reply: str, options: Sequence[str]) -> str | None:
    """The option whose words a reply is, or the only one whose words are in it, whole, where it denies nothing."""
    text, begun, words = squad(reply), squad(PAUSE.split(reply)[0]), [squad(option) for option in options]
    same = [place for place, option in enumerate(words) if option and option in (text, begun)]
    if not same and not DENIAL.search(reply):
        same = [place for place, option in enumerate(words) if option and re.search(rf"(?<!\w){re.escape(option)}(?!\w)", text)]
    return LETTERS[same[0]] if len(same) == 1 else None


def first_option(reply: str, options: Sequence[str]) -> str | None:
    """Candidates of eight forms; the first form that has any decides, and in it the last place."""
    text = f" {stripped(reply, FIRST_OPTION_MARKS)} "
    bare, legal = text.strip(), LETTERS[: max(4, len(options))]
    found = [(10, 0, each) for each in legal if bare.startswith(each) and not bare[1:2].isalpha()]
    found += [(9, len(text) - 1, each) for each in legal if bare.endswith(each) and not bare[-2:-1].isalpha()]
    for phrase in LMMS_PHRASES:
        if (at := text.lower().find(phrase)) >= 0:
            found += [(7, place, each) for each in legal if (place := text.find(each, at + len(phrase))) >= 0]
    for worth, form in ((6, "({})"), (5, "{}."), (4, "{}:"), (3, "{})"), (2, "{} ")):
        found += [(worth, place, each) for each in legal if (place := text.rfind(form.format(each))) >= 0]
    found = found or [(0, place, each) for each in legal if (place := text.rfind(each)) >= 0]
    return max(found, key=lambda one: one[:2])[2] if found else None


FIRST_OPTION_MARKS = ",.!?;:'\""


def stripped(text: str, marks: Sequence[str]) -> str:
    """A text without marks at its ends, taken off one after the other."""
    text = text.strip()
    for mark in marks:
        text = text.strip(mark)
    return text


def bracketed(reply: str, options: Sequence[str]) -> str | None:
    """`(A)`, else `A `, else `A.`, the last of several; of more than five words also an option's words. Where it would draw lots: None."""
    for mark in ",.!?;:'":
        reply = reply.strip(mark)
    text, legal = f" {reply} ", letters_of(options)
    for form, last in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        if found := [each for each in legal if form.format(each) in text]:
            return max(found, key=lambda each: text.rfind(last.format(each))) if len(found) > 1 else found[0]
    if len(text.split()) <= 5:
        return None
    words = {each: option.lower() for each, option in zip(legal, options, strict=False) if option.lower() in text.lower()}
    return max(words, key=lambda each: text.lower().rfind(words[each])) if words else None


def initial(reply: str, options: Sequence[str]) -> str | None:
    """The first character."""
    return legal_letter(reply.strip()[:1], letters_of(options)) if reply.strip() else None


def pointed(reply: str, options: Sequence[str]) -> str | None:
    """The letter alone in either case, or a reply that begins `A.`."""
    text = reply.strip()
    whole = len(text) == 1 or (len(text) >= 2 and text[0].isupper() and text[1] == ".")
    return legal_letter(text[0], letters_of(options)) if whole else None


def pointed_or_marked(reply: str, options: Sequence[str]) -> str | None:
    """A reply that begins `A.`, or the letter among ASCII punctuation, in either case."""
    begun = re.match(r"\s*([A-Z])\.", reply)
    text = begun[1] if begun else reply.translate(str.maketrans("", "", string.punctuation))
    return legal_letter(text, letters_of(options)) if len(text) == 1 else None


def inferred_letter(reply: str, options: Sequence[str]) -> str | None:
    """The only letter among the tokens, within the last five; else `answer is X`; else the only option whose words are in the reply."""
    if "Failed to obtain answer via API" in reply or any(refusal in reply for refusal in REFUSALS):
        return None
    legal, tokens = letters_of(options), reply.translate(VLMEVALKIT_MARKS).split()
    found = [each for each in legal if each in tokens]
    if len(found) == 1 and tokens.index(found[0]) > len(tokens) - 5:
        return found[0]
    if not found and "Z" in tokens:
        return None
    stated = VLMEVALKIT_STATED.search(reply)
    if stated and stated[1].upper() in legal:
        return stated[1].upper()
    if len(reply) > 2 * sum(map(len, options)):
        return None
    words = [each for each, option in zip(legal, options, strict=False) if option.lower() in reply.lower()]
    return words[0] if len(words) == 1 else None
