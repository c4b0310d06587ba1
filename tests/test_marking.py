"""Rules of benchmarks: every disagreement of the two evaluators as published code has it, and parsers that survive any reply."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.answers.normalise import evalai, vlmevalkit_vqa
from lab.errors import LabError
from lab.statistics.marking import PROFILES, RULES, Asked, Marked

BOX = Asked(options=("box", "circle", "line", "None"))
OPEN = Asked(answer_type="float", precision=1)


def score(rule: str, reply: str, gold: str | tuple[str, ...], profile: str, asked: Asked = BOX) -> float:
    return RULES[rule](reply, (gold,) if isinstance(gold, str) else gold, profile=profile, asked=asked).score


def read(rule: str, reply: str, profile: str, asked: Asked = BOX) -> str | None:
    return RULES[rule](reply, ("A",), profile=profile, asked=asked).read_as


@pytest.mark.parametrize(
    ("rule", "reply", "gold", "lmms", "vlmevalkit", "ours"),
    [
        ("exact_answer", "Yes.", "yes", 1, 0, 1),
        ("exact_answer", "yes ", "yes", 0, 1, 1),
        ("exact_answer", "t-shirt", "tshirt", 1, 0, 0),
        ("relaxed_accuracy", " yes", "Yes", 0, 1, 1),
        ("yes_no", "Yes.", "yes", 0, 1, 1),
    ],
)
def test_words_that_the_two_evaluators_mark_differently(rule: str, reply: str, gold: str, lmms: int, vlmevalkit: int, ours: int) -> None:
    assert [score(rule, reply, gold, profile) for profile in ("lmms", "vlmevalkit", "ours")] == [lmms, vlmevalkit, ours]


@pytest.mark.parametrize(
    ("text", "lmms", "vlmevalkit"), [("5.", "5", "5."), ("it's", "it 's", "it's"), ("O'Reilly's", "o'reilly 's", "o'reilly's")]
)
def test_the_two_normalisers(text: str, lmms: str, vlmevalkit: str) -> None:
    assert (evalai(text), vlmevalkit_vqa(text)) == (lmms, vlmevalkit)
    assert score("vqa_accuracy", text, (lmms,) * 10, "lmms") == 1.0
    assert RULES["vqa_accuracy"](text, ("x",) * 10, profile="vlmevalkit").read_as == vlmevalkit


@pytest.mark.parametrize(
    ("rule", "reply", "lmms", "vlmevalkit", "ours"),
    [
        ("mmmu", "**B**", None, "B", "B"),
        ("mmmu", "B)", None, "B", "B"),
        ("mmmu", "\\boxed{C}", None, "C", "C"),
        ("mmmu", "A or B? The answer is (D).", "D", None, "D"),
        ("letter", "A or B? The answer is (D).", "A", None, "D"),
        ("mmmu", "A, B", "B", None, None),
        ("letter", "A, B", "A", None, None),
        ("mmmu", "<answer>B</answer>", None, None, "B"),
        ("letter", "<answer>B</answer>", "B", None, "B"),
        ("letter_seed", "(B)", None, "B", "B"),
        ("letter_seed", "The answer is B", None, "B", "B"),
        ("letter_scienceqa", "(B)", None, "B", "B"),
        ("letter_scienceqa", "b.", None, None, "B"),
        ("letter_scienceqa", "The answer is B", None, "B", "B"),
        ("letter_ai2d", "(B)", "B", "B", "B"),
        ("letter_ai2d", " B", None, "B", "B"),
        ("realworldqa", "The correct option is C", "C", "C", "C"),
        ("letter", "I'm sorry, but without the image provided: B", "B", None, "B"),
    ],
)
def test_letters_that_the_two_evaluators_read_differently(
    rule: str, reply: str, lmms: str | None, vlmevalkit: str | None, ours: str | None
) -> None:
    """What the table of disagreements calls random is unparsed here, and unparsed is wrong under every profile."""
    assert [read(rule, reply, profile) for profile in ("lmms", "vlmevalkit", "ours")] == [lmms, vlmevalkit, ours]
    for profile in PROFILES:
        assert [gold for gold in "ABCD" if score(rule, reply, gold, profile)] == [*filter(None, [read(rule, reply, profile)])]


def test_an_open_question_of_mmmu_compares_numbers_and_vlmevalkit_a_part_of_the_text() -> None:
    open_question = Asked()
    assert [score("mmmu", "13.5", "3.5", profile, open_question) for profile in PROFILES] == [0, 0, 1]
    assert [score("mmmu", "A", "3.5", profile, open_question) for profile in PROFILES] == [0, 0, 1], "its pseudo-choice A is the gold"
    assert "just A is right" in RULES["mmmu"].remarks["vlmevalkit"]
    assert [score("mmmu", "So the total is 3.50", "3.5", profile, open_question) for profile in ("ours", "lmms")] == [1, 1]
    assert score("mmmu", "x = 1,250", "1250", "ours", open_question) == 1 == score("mmmu", "The answer is Newton.", "newton", "ours", open_question)


def test_soft_accuracy_leaves_each_annotator_out() -> None:
    references = [("stop",) * k + ("halt",) * (10 - k) for k in range(5)]
    assert [round(score("vqa_accuracy", "Stop!", each, "ours"), 6) for each in references] == [0, 0.3, 0.6, 0.9, 1.0]
    assert [score("vqa_accuracy", "stop", "stop", profile) for profile in PROFILES] == [1, 0, 0], "one annotator left out leaves none"
    assert score("vqa_accuracy", "two", ("2",) * 3 + ("two",) * 7, "ours") == 1.0


@pytest.mark.parametrize(
    ("reply", "gold", "expected"),
    [("5%", "5", 0), ("0.0", "0", 0), ("1,000", "1000", 0), ("2019", "2009", 1), ("nan", "1", 0), ("21", "20", 1), ("5 %", "5%", 1)],
)
def test_relaxed_accuracy(reply: str, gold: str, expected: int) -> None:
    assert [score("relaxed_accuracy", reply, gold, profile) for profile in PROFILES] == [expected] * 3
    assert score("relaxed_accuracy", reply, (gold, reply), "ours") == 1, "the best reference counts"


def test_anls_counts_a_half_and_divides_by_the_text_as_it_is() -> None:
    assert [score("anls", "ab", "abcd", profile) for profile in PROFILES] == [0.5] * 3
    assert score("anls", "a", "abcd", "ours") == 0.0
    assert score("anls", "J.  DOE", ("J. Doe", "Doe"), "ours") == 1.0
    assert score("anls", "ab", "ab  cdef", "ours") == 0.0 != 1 - 5 / 7


def test_ocrbench_looks_for_the_reference_in_the_reply() -> None:
    formula = Asked(answer_type="HME100k")
    assert [score("contained", "it says ＣＥＮＴＲＥ", "centre", profile, Asked()) for profile in PROFILES] == [1, 1, 0], "full width"
    assert score("contained", "$x^{2}$", "x ^ { 2 }", "ours", formula) == 1 != score("contained", "$X^{2}$", "x ^ { 2 }", "ours", formula)
    assert score("contained", "8\nJan", ("1/8/93", "8 Jan"), "ours", Asked()) == 1


@pytest.mark.parametrize(
    ("reply", "answer_type", "gold", "lmms", "vlmevalkit", "ours"),
    [
        ("0", "integer", "0", 1, 1, 1),
        ("The number missing is 14.", "integer", "14", 0, 0, 1),
        ("There are 3 of 14", "integer", "14", 0, 0, 0),
        ("3 and 4: the answer is 7", "integer", "7", 0, 0, 1),
        ("7.5", "integer", "7", 0, 0, 0),
        ("1.24", "float", "1.2", 1, 0, 1),
        ("[2007, 2008]", "list", "[2007, 2008]", 1, 0, 1),
        ("between [2007,2008].", "list", "[2007, 2008]", 0, 0, 1),
    ],
)
def test_mathvista_without_a_model(reply: str, answer_type: str, gold: str, lmms: int, vlmevalkit: int, ours: int) -> None:
    asked = Asked(answer_type=answer_type, precision=1 if answer_type == "float" else None)
    assert [score("mathvista", reply, gold, profile, asked) for profile in ("lmms", "vlmevalkit", "ours")] == [lmms, vlmevalkit, ours]
    choice = Asked(options=("Yes", "No"), answer_type="text")
    assert [score("mathvista", "(B) No", "No", profile, choice) for profile in PROFILES] == [1, 1, 1]


@pytest.mark.parametrize(
    ("rule", "reply", "expected"),
    [
        ("letter", "ANSWER: AB", None),
        ("letter", "Answer: **D**", "D"),
        ("yes_no", "notice", None),
        ("yes_no", "Not yes, no", None),
        ("letter", "<think>It may be B", None),
        ("letter", "<think>It may be B</think>C", "C"),
        ("letter", "A box", "A"),
        ("letter", "A triangle", None),
        ("letter", "The answer is not B", None),
        ("letter", "The answer is B. No, wait: the answer is C", "C"),
        ("letter", "Answer: A and C", None),
        ("letter", "It is a circle.", "B"),
        ("letter", "None", "D"),
        ("letter", "None of them is a line", None),
        ("letter", "C. line", "C"),
        ("letter", "E", None),
        ("exact_answer", "<think>red", None),
    ],
)
def test_ours_reads_whole_words_and_the_last_that_is_stated(rule: str, reply: str, expected: str | None) -> None:
    assert read(rule, reply, "ours") == expected


def test_a_profile_that_is_none_is_refused() -> None:
    with pytest.raises(LabError, match="data.profile=lms: legal values are ours, lmms, vlmevalkit. Did you mean 'lmms'"):
        RULES["anls"]("a", ["a"], profile="lms")


PIECES = [
    *"ABCDEab", "(", ")", ".", "answer is ", "Answer:", "\\boxed{", "}", " ", "\n", "yes", "no", "not ", "3.5", "-1e9", "1,0", "<think>", "</think>",
    "[1,", "]", "box", "%", "İ", "ß", "\0", "𝟛",
]  # fmt: skip
TEXTS = st.text(max_size=200) | st.lists(st.sampled_from(PIECES)).map("".join)


@settings(max_examples=100)
@given(reply=TEXTS, options=st.lists(st.text(max_size=12), max_size=9), gold=st.text(min_size=1, max_size=12), kind=st.sampled_from(
    ["", "integer", "float", "list", "text", "HME100k"]))  # fmt: skip
def test_any_reply_is_marked_the_same_twice_and_never_by_lot(reply: str, options: list[str], gold: str, kind: str) -> None:
    for rule in RULES.values():
        for profile in PROFILES:
            asked = Asked(tuple(options), kind, 1)
            marked = rule(reply, (gold,), profile=profile, asked=asked)
            assert isinstance(marked, Marked) and 0 <= marked.score <= 1
            assert marked == rule(reply, (gold,), profile=profile, asked=asked)
            assert marked.read_as is not None or marked.score == 0, "unparsed is wrong"
            if rule.name.startswith("letter"):
                assert marked.read_as is None or "A" <= marked.read_as <= "ABCDEFGHI"[max(4, len(options) or 8) - 1]


@given(options=st.permutations(["box", "circle", "line", "dot"]), right=st.sampled_from(["box", "circle", "line", "dot"]))
def test_the_order_of_options_changes_the_letter_and_not_the_option(options: list[str], right: str) -> None:
    letter = "ABCD"[options.index(right)]
    for reply in (letter, f"({letter})", f"**{letter}**", f"{letter}. {right}", right, f"The answer is {letter}.", f"It is a {right}"):
        assert read("letter", reply, "ours", Asked(tuple(options))) == letter, reply


@pytest.mark.parametrize("rule", RULES)
def test_a_long_reply_is_marked_at_once(rule: str) -> None:
    """Nothing in a parser grows with the square of a reply's length."""
    import time

    began = time.process_time()
    for reply in ("A " * 20_000, "answer is (" * 5_000, "*" * 40_000, "1," * 20_000, "[" * 40_000, "<think>" * 5_000):
        for profile in PROFILES:
            RULES[rule](reply, ("A",), profile=profile, asked=BOX if rule != "mathvista" else OPEN)
    assert time.process_time() - began < 10
