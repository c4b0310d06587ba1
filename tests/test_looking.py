"""Is the model looking? Controls take the images away, the swap test turns them round, generation must say what scoring says."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from prediction_tables import prediction

from lab import data
from lab import run as running
from lab.answers import predictions
from lab.answers.choice import read
from lab.data.controls import ControlSplit
from lab.data.images import decode
from lab.errors import ConfigError
from lab.evaluation import swap
from lab.evaluation.generation import Generated, compare
from lab.records import Choice, Picture, Prediction, Sample
from lab.store import runs

pytestmark = pytest.mark.usefixtures("nominal_costs")


@pytest.fixture(scope="module")
def dev(composer, tmp_path_factory):
    return data.load(composer("data.num_train=8", "data.num_minival=8", "data.num_dev=32").data, tmp_path_factory.mktemp("c")).dev


def test_blank_images_are_grey_and_of_the_same_size(dev) -> None:
    control = ControlSplit(dev, "blank")
    for index in range(3):
        for before, after in zip(dev[index].images, control[index].images, strict=True):
            image = decode(after)
            assert image.size == decode(before).size
            assert image.getcolors() == [(image.width * image.height, (128, 128, 128))]
        assert control[index].answer == dev[index].answer and control[index].text == dev[index].text


def test_shuffled_images_come_from_another_set(dev) -> None:
    control = ControlSplit(dev, "shuffled", seed=3)
    owners = {picture: dev[i].image_set for i in range(len(dev)) for picture in dev[i].images}
    for index in range(len(dev)):
        assert all(owners[picture] != dev[index].image_set for picture in control[index].images)
    again = ControlSplit(dev, "shuffled", seed=3)
    assert [control[i].images for i in range(len(dev))] == [again[i].images for i in range(len(dev))]


def test_an_unknown_control_is_refused(dev) -> None:
    with pytest.raises(ConfigError, match="evaluation.controls: 'blanc'.*'blank'"):
        ControlSplit(dev, "blanc")


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("The left image shows a cat.", "The right image shows a cat."),
        ("LEFT of Right", "RIGHT of Left"),
        ("the rightmost dog is left alone", "the leftmost dog is right alone"),
        ("a bright, leftover cake", "a bright, leftover cake"),
    ],
)
def test_side_words(text, swapped) -> None:
    assert swap.swap_words(text) == swapped
    assert swap.swap_words(swapped) == text
    assert swap.names_a_side(text) == (text != swapped)


def predicted(name: str, answer: bool, label: bool = True) -> Prediction:
    return prediction(name, label, answer=answer)


class Two:
    """Two sentences, the second of which names a side."""

    sample_ids = ("a", "b")

    def __len__(self) -> int:
        return 2

    def index(self, index: int) -> Sample:
        return self[index]

    def __getitem__(self, index: int) -> Sample:
        text = ("Both are red.", "The left one is red.")[index]
        return Sample("ab"[index], text, (Picture("1"), Picture("2")), Choice.truth(True), "set", text)


def test_swap_groups_are_reported_apart() -> None:
    rows = swap.sided(Two())
    assert rows == [1]
    original = [predicted("a", True), predicted("b", True)]
    renamed = [predicted("a", False), predicted("b", True)]
    out = swap.summarise(predictions.table(original), swap.by_group(rows, renamed, [predicted("b", False)]))
    assert out["swap/neutral_agreement"] == 0.0 and out["swap/neutral_examples"] == 1
    assert out["swap/renamed_agreement"] == 1.0 and out["swap/renamed_accuracy"] == 1.0
    assert out["swap/contradicted_agreement"] == 0.0 and "swap/contradicted_accuracy" not in out


def test_a_sentence_that_names_no_side_is_asked_once() -> None:
    """With and without renaming it is the same question."""
    kept = swap.SwappedSplit(Two(), rename=False, rows=swap.sided(Two()))
    assert kept.sample_ids == ["b"] and len(kept) == 1
    assert kept[0].text == "The left one is red." and kept[0].images[0].source == "2"
    both = swap.SwappedSplit(Two(), rename=True)
    assert [both[i].text for i in range(len(both))] == ["Both are red.", "The right one is red."]


def test_a_symmetric_split_swapped_twice_is_itself(dev) -> None:
    twice = swap.SwappedSplit(swap.SwappedSplit(dev, rename=True), rename=True)
    assert [twice[i] for i in range(len(dev))] == [dev[i] for i in range(len(dev))]


def test_reading_generated_text(composer) -> None:
    words = tuple(composer().prompt.words.values())
    assert read(" True.", words) == 0 and read("FALSE", words) == 1
    assert read("True enough", words) is None and read("", words) is None


def test_generation_against_scoring() -> None:
    scored = [predicted("a", True), predicted("b", False), predicted("c", True, label=False)]
    texts = [Generated("a", "True", 0), Generated("b", "maybe", None), Generated("c", "False", 1)]
    out = compare(texts, predictions.table(scored))
    assert out == {"generate_accuracy": 2 / 3, "generate_neither": 1 / 3, "generate_disagreement": 2 / 3}


def test_all_of_it_in_one_run(small) -> None:
    x = small("evaluation.controls=[blank,shuffled,text_only]", "evaluation.swap=true", "evaluation.ask=[score,generate]", "evaluation.verify=false")
    run = running.run_alone(x, "command", time.time())
    folder = runs.folder(Path(x.tracking.runs_dir), run.identity) / "predictions"
    for name in ("dev_blank", "dev_shuffled", "dev_text_only", ):
        assert len(predictions.read(folder / f"pairs.{name}.parquet").label) == 16
    turned = [len(predictions.read(folder / f"pairs.dev_swap_{group}.parquet").label) for group in ("neutral", "renamed", "contradicted")]
    assert turned[0] + turned[1] == 16 and turned[1] == turned[2]
    assert predictions.read(folder / "pairs.dev_text_only.parquet").visual_tokens[0] == ()
    for key in ("dev_blank/accuracy", "dev_text_only/nll", "swap/renamed_agreement", "dev/generate_disagreement"):
        assert key in run.metrics
