"""Accuracy and consistency against the official rules, written anew here from their definition."""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import official_rules as official
import pytest
from prediction_tables import prediction

from lab.answers.predictions import table
from lab.errors import DataError, LabError
from lab.statistics import functional

SHARED = Path(__file__).parents[2] / "shared"
WORDS = ("True", "False", "true", "FALSE", "maybe", "")


def rows_of(labels, answers, image_set=lambda name: name, group=lambda name: name):
    return [
        prediction(name, label, np.log((0.7, 0.2) if answers[name] else (0.2, 0.7)), answers[name], 0.9, image_set(name), group(name))
        for name, label in labels.items()
    ]


def by_definition(labels, answers, group):
    """Share of right answers, and share of groups without a wrong one."""
    outcome = defaultdict(list)
    for name, label in labels.items():
        outcome[group(name)].append(answers[name].lower() == label.lower())
    flat = [right for rights in outcome.values() for right in rights]
    return sum(flat) / len(flat), sum(map(all, outcome.values())) / len(outcome)


def nlvr2_example(generator):
    labels = {}
    for image_set in range(generator.integers(1, 25)):
        for sentence in range(generator.integers(1, 3)):
            for pair in range(generator.integers(1, 5)):
                labels[f"dev-{image_set}-{pair}-{sentence}"] = str(generator.choice(["True", "False"]))
    return labels


def nlvr_example(generator):
    return {
        f"dev-{group}-{member}": str(generator.choice(["true", "false"]))
        for group in range(generator.integers(1, 12))
        for member in range(generator.integers(1, 5))
    }


def guess(generator, names, labels_by_name, skill):
    """Mostly right answers in any case, and now and then a word that is no answer."""
    made = {}
    for name in names:
        right = generator.uniform() < skill
        made[name] = labels_by_name[name].upper() if right else str(generator.choice(WORDS))
    return made


@pytest.mark.parametrize("seed", range(100))
def test_nlvr2_rule_on_random_files(seed):
    generator = np.random.default_rng(seed)
    labels = nlvr2_example(generator)
    answers = guess(generator, labels, labels, generator.uniform(0.3, 1))
    score = official.nlvr2(labels, answers)
    accuracy, consistency = by_definition(labels, answers, lambda name: (name.split("-")[1], name.split("-")[3]))
    assert (score.accuracy, score.consistency) == (accuracy, consistency)
    assert score.num_scored == len(labels)
    gone = dict(list(answers.items())[1:])
    with pytest.raises(DataError, match="1 predictions are missing and 0 belong"):
        official.nlvr2(labels, gone)
    more = {**answers, "dev-999-0-0": "True", "dev-999-1-0": "True"}
    with pytest.raises(DataError, match="0 predictions are missing and 2 belong"):
        official.nlvr2(labels, more)


@pytest.mark.parametrize("seed", range(100))
def test_nlvr_rule_on_random_files(seed):
    generator = np.random.default_rng(1000 + seed)
    labels = nlvr_example(generator)
    images = {f"{name}-{k}": label for name, label in labels.items() for k in range(6)}
    answers = guess(generator, images, images, generator.uniform(0.6, 1))
    written = {f"{name}.png" if seed % 2 else name: answer for name, answer in answers.items()}
    score = official.nlvr(labels, written)
    assert (score.accuracy, score.consistency) == by_definition(images, answers, lambda name: name.split("-")[1])
    assert score.num_scored == 6 * len(labels)
    gone = dict(list(answers.items())[2:])
    with pytest.raises(DataError, match="2 predictions are missing and 0 belong"):
        official.nlvr(labels, gone)
    with pytest.raises(DataError, match="0 predictions are missing and 1 belong"):
        official.nlvr(labels, {**answers, "dev-999-0-0": "true"})


def test_tables_score_as_files_do_and_as_our_metrics_do():
    generator = np.random.default_rng(0)
    labels = nlvr2_example(generator)
    truth = {name: label == "True" for name, label in labels.items()}
    answers = {name: bool(generator.uniform() < 0.8) == label for name, label in truth.items()}

    def group(name):
        split, image_set, _, sentence = name.split("-")
        return f"{split}-{image_set}--{sentence}"

    made = table(rows_of(truth, answers, lambda name: "-".join(name.split("-")[:2]), group))
    score = official.score("nlvr2", made)
    assert score == official.score("nlvr2", made, labels)
    assert score.accuracy == pytest.approx(functional.mean("correct", made.correct), abs=1e-15)
    assert score.consistency == pytest.approx(functional.consistency(made.correct, made.question_group), abs=1e-15)
    with pytest.raises(DataError, match="1 predictions are missing"):
        official.score("nlvr2", made.take(np.arange(1, len(made))), labels)


def test_nlvr_table_needs_all_six_permutations():
    generator = np.random.default_rng(1)
    truth = {f"{name}-{k}": label == "true" for name, label in nlvr_example(generator).items() for k in range(6)}
    answers = {name: bool(generator.uniform() < 0.9) == label for name, label in truth.items()}
    made = table(rows_of(truth, answers, group=lambda name: "-".join(name.split("-")[:2])))
    score = official.score("nlvr", made)
    assert score.consistency == pytest.approx(functional.consistency(made.correct, made.question_group), abs=1e-15)
    with pytest.raises(DataError, match="1 predictions are missing"):
        official.score("nlvr", made.take(np.arange(1, len(made))))
    mixed = made.right.copy()
    mixed[0] = 1 - mixed[0]
    with pytest.raises(DataError, match="different labels"):
        official.score("nlvr", made.replace(right=mixed))


def test_a_word_that_is_no_answer_is_wrong_and_counted():
    labels = {"dev-1-0-0": "True", "dev-1-1-0": "False"}
    score = official.nlvr2(labels, {"dev-1-0-0": "tRuE", "dev-1-1-0": "perhaps"})
    assert (score.accuracy, score.consistency, score.num_groups) == (0.5, 0.0, 1)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: official.nlvr2({"dev-1-0": "True"}, {"dev-1-0": "True"}), DataError, "not of the form"),
        (lambda: official.nlvr({"dev-1": "True"}, {}), DataError, "not of the form"),
        (lambda: official.nlvr2({"dev-1-0-0": "yes"}, {"dev-1-0-0": "yes"}), DataError, "label 'yes'"),
        (lambda: official.nlvr2({}, {}), DataError, "nothing to score"),
        (lambda: official.nlvr({}, {"a.png": "true", "a": "true"}), DataError, "1 images are answered twice"),
        (lambda: official.score("nvlr2", None), LabError, "Did you mean 'nlvr2'"),
    ],
)
def test_refusals(call, error, says):
    with pytest.raises(error, match=says):
        call()


def test_annotation_files(tmp_path):
    path = tmp_path / "dev.json"
    lines = [json.dumps({"identifier": f"7-{i}", "label": "true"}) for i in range(2)]
    path.write_text("\n".join(lines) + "\n")
    assert official.nlvr_labels(path, "dev") == {"dev-7-0": "true", "dev-7-1": "true"}
    path.write_text("\n".join([*lines, lines[0]]))
    with pytest.raises(DataError, match=r"dev.json:3: 'dev-7-0' occurs a second time"):
        official.nlvr_labels(path, "dev")
    path.write_text("{}\n")
    with pytest.raises(DataError, match="dev.json:1: not an annotated example"):
        official.nlvr2_labels(path)


@pytest.mark.skipif(not (SHARED / "nlvr2" / "dev.json").exists(), reason="the NLVR2 annotations are not on this machine")
def test_nlvr2_dev_counts():
    labels = official.nlvr2_labels(SHARED / "nlvr2" / "dev.json")
    group = np.array([f"{name.split('-')[1]}-{name.split('-')[3]}" for name in labels])
    always_true = official.nlvr2(labels, dict.fromkeys(labels, "true"))
    assert len(labels) == 6982 and always_true.num_groups == len(np.unique(group)) == 2018
    assert len({name.split("-")[1] for name in labels}) == 1054
    assert round(100 * functional.consistency_by_chance(group), 2) == 10.68
    assert round(100 * always_true.consistency, 2) == 3.87
    assert round(100 * always_true.accuracy, 2) == 50.86
    truth = np.array([label == "True" for label in labels.values()])
    assert functional.consistency(truth == (truth.mean() >= 0.5), group) == pytest.approx(always_true.consistency, abs=1e-15)


@pytest.mark.parametrize(
    ("split", "examples", "groups", "chance", "always_true"), [("dev", 989, 267, 8.52, 6.37), ("test", 990, 266, 8.44, 10.90)]
)
def test_nlvr_counts(split, examples, groups, chance, always_true):
    path = SHARED / "nlvr" / split / f"{split}.json"
    if not path.exists():
        pytest.skip("the NLVR annotations are not on this machine")
    labels = official.nlvr_labels(path, split)
    images = [f"{name}-{k}.png" for name in labels for k in range(6)]
    score = official.nlvr(labels, dict.fromkeys(images, "True"))
    assert (len(labels), score.num_scored, score.num_groups) == (examples, 6 * examples, groups)
    assert round(100 * score.consistency, 2) == always_true
    by_example = np.array([name.split("-")[1] for name in labels])
    assert round(100 * functional.consistency_by_chance(by_example), 2) == chance
