"""Answers in words: the rules that read them, their scores, their table. Golden vectors of official scripts and libraries."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import SHARED
from synthetic_runs import write_run, write_sweep

from lab.answers import choice, predictions
from lab.answers.normalise import RULES, vqa
from lab.errors import DataError
from lab.records import Choice, Prediction, Scored, Text, Written
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.statistics import text_scores
from lab.statistics.comparing import compare
from lab.statistics.metrics import KINDS, summarise


def cases(name: str) -> list[dict]:
    path = SHARED / "vectors" / name
    return json.loads(path.read_text(encoding="utf-8"))["cases"] if path.exists() else []


def row(number: int, text: str, references: tuple[str, ...], votes: tuple[int, ...] = (), post: str = "none", log_p: float = -0.5) -> Prediction:
    said = Written(text, post, 2, True, log_p, -1.0, 2)
    return Prediction(f"q{number}", f"i{number // 3}", f"g{number}", None, Text(references, votes), said, (0,), (16,))


@pytest.mark.parametrize("case", cases("shown_postprocess.json"), ids=lambda case: case["id"])
def test_rules_give_the_golden_vectors(case) -> None:
    assert RULES[case["rule"]](case["in"]) == case["out"]


@pytest.mark.parametrize("case", cases("shown_short_answers.json"), ids=lambda case: case["id"])
def test_scores_give_the_golden_vectors(case) -> None:
    text, references = case["prediction"], [case["reference"]]
    for post, exact in (("none", "em_raw"), ("lower", "em_strip_lower"), ("squad", "em_squad")):
        assert predictions.table([row(0, text, tuple(references), post=post)]).correct[0] == bool(case[exact])
    assert (RULES["squad"](text), RULES["squad"](*references)) == (case["norm_prediction"], case["norm_reference"])
    assert text_scores.token_f1(text, references) == pytest.approx(case["f1_squad_v2"], abs=1e-6)
    assert text_scores.token_f1_squad1(text, references) == pytest.approx(case["f1_squad_v1"], abs=1e-6)
    assert text_scores.rouge_l(text, references) == pytest.approx(case["rougeL_f"], abs=1e-6)
    assert text_scores.rouge_l_stemmed(text, references) == pytest.approx(case["rougeL_f_stem"], abs=1e-6)


@pytest.mark.parametrize(
    ("text", "normal"),
    [("Two dogs.", "2 dogs"), ("the cat", "cat"), ("dont know", "don't know"), ("t-shirt", "t shirt"), ("1,000", "1000"), ("3.5", "3.5"), ("A", "")],
)
def test_the_rule_vqa_by_hand(text, normal) -> None:
    assert vqa(text) == normal


def test_a_vote_leaves_each_annotator_out() -> None:
    shares = [text_scores.vqa_accuracy("x", ["x", "y"], (n, 10 - n)) for n in range(5)]
    assert shares == pytest.approx([0, 0.3, 0.6, 0.9, 1])
    assert text_scores.vqa_accuracy("x", ["x"], ()) == 1.0
    assert text_scores.vqa_accuracy("2", ["2", "2"], (5, 5)) == 1.0, "references that a rule makes alike are one"


def test_an_option_is_read_from_the_whole_reply_alone() -> None:
    replies = ("C", " c.", "The answer is C because I see it", "I", "a cat")
    assert [choice.read(reply, ("A", "B", "C", "I")) for reply in replies] == [2, 2, None, 3, None]


def test_words_count_as_often_as_they_stand() -> None:
    assert text_scores.token_f1("Paris Paris Paris Paris Paris", ["Paris"]) == pytest.approx(1 / 3)


@pytest.mark.parametrize("post", sorted(RULES))
def test_one_rule_reads_both_sides(post) -> None:
    """Each reference is right against itself, and what the rule takes from references is counted."""
    golds = ["the cat", "A", "3.14", "t-shirt", "Black.", "black"]
    table = predictions.table([row(i, gold, (gold,), (10,), post) for i, gold in enumerate(golds)])
    scores = summarise(table)
    assert table.kind == "voted" and scores["vqa_accuracy"] == scores["exact_match"] == 1.0
    assert (scores["damaged_references"] > 0) == (post in ("squad", "vqa", "llava", "qwen"))


def test_the_mean_is_over_questions_and_intervals_over_pictures() -> None:
    rows = [row(i, "red" if i % 3 else "blue", ("red",), log_p=-0.1 * i) for i in range(30)]
    other = [row(i, "red" if i % 4 else "blue", ("red",)) for i in range(30)]
    first, second = predictions.table(rows), predictions.table(other)
    assert KINDS["text"].main.of(first) == 20 / 30
    found = compare(first, second)
    assert found.num_clusters == 10 and found.discordant == (5, 7)
    assert np.allclose(KINDS["text"].metrics["token_nll"].of(first), 0.5)
    assert np.allclose(first.confidence_per_token**2, first.confidence)
    collapsed = predictions.table([row(i, said, (gold,)) for i, (said, gold) in enumerate(zip(["red"] * 4 + [""], "abcde", strict=True))])
    assert summarise(collapsed)["commonest_answer"] == 0.8 and summarise(collapsed)["empty"] == 0.2


def test_the_file_keeps_what_was_written_and_reads_it_by_another_rule(tmp_path) -> None:
    path = tmp_path / "dev.parquet"
    predictions.write(path, [row(0, " Red. ", ("red",), post="none"), row(1, "", ("blue", "navy"), post="none")])
    assert predictions.read(path).text.tolist() == [" Red. ", ""] and not predictions.read(path).correct.any()
    predictions.rewrite(path, "post", "vqa")
    assert predictions.read(path).text.tolist() == [" Red. ", ""]
    assert predictions.read(path, KINDS["text"].main.needs).correct.tolist() == [True, False]


def written(skill: float, votes: tuple[int, ...]) -> list[Prediction]:
    generator, colours = np.random.default_rng(0), ("red", "blue", "green")
    said = [colours[i % 3] if generator.random() < skill else "red" for i in range(90)]
    return [row(i, said[i], (colours[i % 3], "grey")[: max(1, len(votes))], votes, log_p=-generator.random()) for i in range(90)]


@pytest.mark.parametrize(("votes", "headline"), [((), "exact match"), ((7, 3), "VQA accuracy")])
def test_a_report_compares_arms_in_the_headline_of_their_answers(votes, headline, tmp_path, request) -> None:
    if votes:  # their figures are drawn once
        request.getfixturevalue("blank_figures")
    for name, rank, skill in (("low", 2, 0.3), ("high", 8, 0.95)):
        write_run(tmp_path / "runs", name, {"lora.r": rank}, written(skill, votes), written(skill, votes), facts={"asked": {}})
    write_sweep(tmp_path / "runs", "ranks", ["low", "high"], ["lora.r"])
    page = (write_report(choose(tmp_path / "runs", "ranks"), tmp_path / "out") / "report.md").read_text()
    assert f"| {headline}, first - second, points [95 %] |" in page and "| `red` | 33.3 | 83.3 | 36.7 |" in page
    assert f"| always {'grey' if votes else 'red'} |" in page
    assert "ECE per token" in page and (tmp_path / "out" / "ranks" / "figures" / "reliability.png").exists()


@pytest.mark.usefixtures("blank_figures")
def test_three_options_have_no_p_true(tmp_path) -> None:
    """What only two options define is left out of the record and shown as a dash."""
    options, log_p = ("A", "B", "C"), (-0.5, -1.5, -2.0)
    rows = [replace(row(i, "", ("A",)), answer=Choice(i % 3, options), said=Scored(log_p, 0.9, 0)) for i in range(60)]
    scores = summarise(predictions.table(rows))
    assert "brier" not in scores and scores["nll"] == pytest.approx(np.logaddexp.reduce(log_p) - np.mean(log_p))
    write_run(tmp_path / "runs", "one", {"lora.r": 2}, rows, rows)
    page = (write_report(choose(tmp_path / "runs"), tmp_path / "out") / "report.md").read_text()
    assert "| always A |" in page


def test_an_impossible_table_is_refused() -> None:
    bad = {"at most 0": row(0, "x", ("x",), log_p=0.5), "no reference": row(0, "x", ()), "legal: none": row(0, "x", ("x",), post="mine")}
    for said, one in bad.items():
        with pytest.raises(DataError, match=said):
            predictions.table([one])


def test_confidence_in_written_answers_is_judged_as_of_any_answer() -> None:
    """AUROC and risk-coverage of four answers, the first and third right: 3 of 4 pairs in order, errors 0, 1/2, 1/3, 1/2."""
    said = [("a", 0.9), ("b", 0.8), ("a", 0.7), ("b", 0.6)]
    table = predictions.table([row(i, text, ("a",), log_p=float(np.log(p))) for i, (text, p) in enumerate(said)])
    scores = summarise(table)
    assert scores["auroc_confidence"] == pytest.approx(3 / 4) and scores["aurc"] == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert all(KINDS["text"].metrics[name].says == KINDS["choice"].metrics[name].says for name in ("auroc_confidence", "aurc"))
