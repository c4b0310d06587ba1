"""easy-VQA as its package holds it, and what can be scored of it without an image."""

from __future__ import annotations

import pytest

from lab.config import DataDial
from lab.data import load
from lab.data.question_only import question_only
from lab.data.sets import easy_vqa
from lab.data.splits import Records
from lab.errors import ConfigError
from lab.records import Choice, Sample, Text


def ids(split) -> set[str]:
    return {split.index(i).image_set for i in range(len(split))}


def test_official_counts_and_the_published_baseline() -> None:
    faults = []
    train, test = (easy_vqa.read(easy_vqa.folder() / split, faults) for split in ("train", "test"))
    assert not faults and (len(train), len(test)) == (38575, 9673)
    assert (len(ids(Records(train))), len(ids(Records(test)))) == (4000, 1000)
    assert len({sample.answer.text for sample in train}) == 13
    assert round(question_only(Records(train), Records(test)), 4) == 0.6700
    answers = {kind: {one.answer.text for one in train if one.subset == kind} for kind in ("shape", "colour", "yes/no")}
    assert answers["yes/no"] == {"yes", "no"} and answers["shape"] == {"circle", "rectangle", "triangle"} and len(answers["colour"]) == 8


def test_minival_is_held_out_by_picture_and_smaller_choices_are_prefixes(tmp_path) -> None:
    few, more = (load(DataDial(name="easy_vqa", num_train=n, num_minival=20, num_dev=30, seed=3), tmp_path) for n in (40, 60))
    assert not ids(more.train) & ids(more.minival) and not few.notes
    assert set(few.train.sample_ids) < set(more.train.sample_ids) and (len(few.train), len(few.dev)) == (40, 30)
    assert few.train[0].answer.kind == "text" and few.dev.index(0).image_set.startswith("test-")


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install easy-vqa"):
        load(DataDial(name="easy_vqa"), tmp_path)


def test_question_only_takes_any_reference_and_falls_back_to_the_commonest() -> None:
    def samples(*rows) -> Records:
        return Records([Sample(str(at), text, (), answer, str(at), str(at)) for at, (text, answer) in enumerate(rows)])

    learned = samples(("a", Text(("x",))), ("a", Text(("x",))), ("a", Text(("y",))), ("b", Text(("y",))))
    assert question_only(learned, samples(("a", Text(("z", "x"))), ("b", Text(("x",))), ("c", Text(("x",))), ("a", Choice(1, ("y", "x"))))) == 3 / 4
    assert question_only(learned, samples(("a", Text(("x", "y"), (2, 8))))) == pytest.approx((2 * 1 / 3 + 8 * 2 / 3) / 10)
    assert question_only(samples(), learned) is None
