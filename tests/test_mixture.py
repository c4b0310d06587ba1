"""`data=mixture`: conversations' words, statements about two pictures and boxes in one training, each framed, answered and scored as its kind."""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import drawn_kinds
import pytest
import torch
from kills import require_cut_ends_as

from lab import data
from lab import run as running
from lab.answers import predictions
from lab.artifacts import contract
from lab.config import identity
from lab.errors import ConfigError, DataError
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.run.assembly import attached
from lab.run.realised import realised as realised_of
from lab.store import runs
from lab.training.datamodule import DataModule
from lab.training.learner import Learner
from lab.training.mixed import sources_of
from lab.training.ordering import realised

pytestmark = pytest.mark.usefixtures("nominal_costs")

SMALL = (
    "trainer.max_steps=4", "trainer.batch_size=4", "trainer.save_every=1", "trainer.val_every=2", "evaluation.verify=false",
    "evaluation.latency_examples=0", "tracking.enabled=false",
)  # fmt: skip
PAIRS = "pairs num_train=8 num_minival=4 num_dev=8"


@pytest.fixture(scope="module")
def few_tokens():
    """Boxes of a model with random weights do not end by themselves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lab.config.evaluation.MOST_TOKENS", {"text": 4, "regions": 8})
        yield


@pytest.fixture(scope="module")
def compose(composer, tiny_folder, tmp_path_factory, few_tokens):
    """Experiments on a mixture of words, statements about two pictures, and boxes; where: the name of their folder of runs."""
    folder = tmp_path_factory.mktemp("mixture")
    words, boxes = drawn_kinds.words(folder), drawn_kinds.boxes(folder)

    def make(*overrides: str, parts: tuple[str, ...] = ("questions path={words}", PAIRS, "boxes path={boxes} as=tables"), where: str = "runs"):
        spelled = json.dumps([part.format(words=words, boxes=boxes) for part in parts])
        places = (f"model.path={tiny_folder}", f"tracking.runs_dir={folder / where}", f"tracking.cache_dir={folder / 'cache'}")
        return composer("data=mixture", f"data.parts={spelled}", *places, *SMALL, *overrides)

    return make


@pytest.fixture(scope="module")
def trained(compose):
    """An arm, its record, and what it was trained over."""
    x = compose("evaluation.zero_shot=true")
    prepared = running.prepare(x)
    return x, running.run_arm(x, prepared, running.new_run(x, "command"), time.time()), prepared


def folder_of(x) -> Path:
    return runs.folder(Path(x.tracking.runs_dir), identity(x))


def test_each_part_is_answered_and_scored_as_its_kind(trained) -> None:
    x, run, _ = trained
    files = {"mixture": "text", "pairs": "choice", "tables": "regions"}
    for split in ("dev", "minival"):
        kinds = {name: predictions.read(folder_of(x) / "predictions" / f"{name}.{split}.parquet").kind for name in files}
        assert kinds == files
    names = ("dev/exact_match", "pairs/dev/accuracy", "pairs/minival/accuracy", "tables/dev/mean_iou", "tables/zero_shot/mean_iou", "zero_shot/ece")
    assert {*names} <= run.metrics.keys()
    assert run.facts["data"]["parts"] == ["questions", "pairs", "tables"]


def test_each_sample_is_framed_by_its_parts_prompt(trained) -> None:
    x, _, prepared = trained
    train = prepared.encoded(x)["train"]
    starts = {"questions": "word or a short phrase", "pairs": "Statement:", "tables": "Detect all objects"}
    for i, name in enumerate(train.split.sample_ids):
        text = train.encoder.tokenizer.decode(train.text(i).prompt_ids)
        assert [part for part, said in starts.items() if said in text] == [name.partition("/")[0]], text
    assert contract.load(folder_of(x))["mixture"].keys() == starts.keys()


def test_what_is_seen_is_the_order_that_is_recorded(trained) -> None:
    """Counted in the order itself: 16 of an epoch of 22 samples."""
    x, run, prepared = trained
    encoded = prepared.encoded(x)
    data_module = DataModule(encoded["train"], encoded["minival"], x.trainer, (4, 1), x.seed, 4)
    seen = Counter(encoded["train"].split.sample_ids[i].partition("/")[0] for i in list(data_module.order)[:16])
    assert {row["name"]: row["seen"] for row in run.facts["data"]["sources"]} == seen
    assert sum(row["share"] for row in run.facts["data"]["sources"]) == pytest.approx(1.0)
    assert any("source pairs: 8 samples are 36.4% of what is learned from" in note for note in run.facts["data"]["notes"])


def test_the_loss_of_a_mixed_batch_is_the_mean_over_all_its_answer_tokens(trained, compose) -> None:
    """Whatever kinds a forward holds: 1 x 8 and 8 x 1 samples give one gradient, in float32's rounding."""
    x, _, prepared = trained
    encoded = prepared.encoded(x)

    def gradients(micro: tuple[int, int]) -> torch.Tensor:
        module = DataModule(encoded["train"], encoded["minival"], replace(x.trainer, batch_size=8), micro, x.seed, 1)
        with attached(x, prepared.vlm) as vlm:
            learner = Learner(vlm, x.optim, encoded["dev"].encoder.readout, 1)
            vlm.model.train()
            batches = iter(module.train_dataloader())
            for _ in range(micro[1]):
                batch = next(batches)
                (learner.loss(batch) * module.weight(batch, 0) / micro[1]).backward()
            return torch.cat([p.grad.flatten() for p in vlm.model.parameters() if p.grad is not None])

    whole, apart = gradients((8, 1)), gradients((1, 8))
    assert whole.abs().max() > 0 and (whole - apart).abs().max() <= 1e-5 * whole.abs().max()


def test_cut_in_the_middle_it_ends_as_if_it_had_not_been(compose, trained, monkeypatch) -> None:
    require_cut_ends_as(trained[0], compose("evaluation.zero_shot=true", where="cut"), monkeypatch, step=2)


def test_one_part_alone_is_that_data(compose, trained) -> None:
    """Order and what is encoded are to the bit those of the data without a mixture."""
    mixed = compose("prompt=declarative", parts=(PAIRS,))
    plain = replace(mixed, data=data.option(PAIRS).dial)
    orders, texts = [], []
    for x in (mixed, plain):
        train = running.Prepared(trained[2].vlm, data.load(x.data, Path(x.tracking.cache_dir))).encoded(x)["train"]
        orders.append(list(DataModule(train, train, x.trainer, (4, 1), x.seed, 6).order))
        texts.append([train.text(i).prompt_ids.tolist() for i in range(len(train))])
    assert orders[0] == orders[1] and texts[0] == texts[1]


def test_weights_epochs_and_caps(compose, trained, tmp_path: Path) -> None:
    def seen(*parts: str) -> dict[str, tuple[int, float]]:
        parts_of = data.parts_of(compose(parts=parts).data)
        sources = tuple(sources_of([option.load(tmp_path) for option in parts_of]))
        return {one.name: (one.places, one.times) for one in realised(sources)}

    words = "questions path={words}"
    assert seen(f"{words} weight=3", f"{PAIRS} weight=1") == {"questions": (12, 1.5), "pairs": (4, 0.5)}
    assert seen(f"{words} weight=3 epochs=1", f"{PAIRS} weight=1") == {"questions": (8, 1.0), "pairs": (4, 0.5)}
    assert seen(f"{words} weight=900", f"{PAIRS} weight=1")["pairs"] == (0, 0.0)
    unseen = compose(parts=(f"{words} weight=900", f"{PAIRS} weight=1"))
    with pytest.raises(DataError, match="an epoch would take no sample of pairs"):
        running.Prepared(trained[2].vlm, data.load(unseen.data, tmp_path)).encoded(unseen)
    assert seen(f"{words} epochs=2", f"{PAIRS} cap=2") == {"questions": (16, 2.0), "pairs": (2, 0.25)}


def test_what_cannot_be_mixed_is_refused(compose) -> None:
    words = "questions path={words}"
    wrong = {
        (): "data.parts: no value is given",
        (words, words): "two parts are called questions.*as=other", (f"{words} weight=1", PAIRS): "pairs lacks one",
        (f"{words} weight=0",): "weight=0 is no number above 0", (f"{words} cap=1.5",): "cap=1.5 is no whole number",
        (f"{words} prompt=question",): "Give prompt=question", ("boxes path={boxes} augment.flip=0.5",): "changes no picture in a mixture",
        (PAIRS, words): "prompt=question: it frames a question, and data=pairs has statements", ("mixture",): "other than mixture",
        (words, "winoground root=/x"): "data=winoground: it is diagnostic only", (words, "pars"): "Did you mean 'pairs'",
    }  # fmt: skip
    for parts, message in wrong.items():
        with pytest.raises(ConfigError, match=message):
            running.check(compose(parts=parts))
    with pytest.raises(ConfigError, match="data.num_dev=8: each part of a mixture has its own.*pairs num_dev=8"):
        running.check(compose("data.num_dev=8"))
    with pytest.raises(ConfigError, match="data=pairs does not read it"):
        running.check(compose("data=pairs", "+data.parts=[nlvr]"))


def test_other_weights_are_another_experiment(compose, trained) -> None:
    """Of equal samples, prompts and steps: what reaches the model is another mixture of them."""
    x, run, prepared = trained
    weighed = compose(parts=("questions path={words} weight=1", f"{PAIRS} weight=1", "boxes path={boxes} as=tables weight=1"))
    weighed = replace(weighed, evaluation=x.evaluation)
    again = running.Prepared(prepared.vlm, data.load(weighed.data, Path(x.tracking.cache_dir)))
    one, other = run.facts["realised"]["parts"], realised_of(weighed, again)["parts"]
    assert {key for key in one if one[key] != other[key]} == {"steps"}


def test_a_changed_file_is_another_run(compose, tmp_path: Path) -> None:
    path = drawn_kinds.words(tmp_path)
    before = compose(parts=(f"questions path={path}",))
    path.write_text(path.read_text() + "words/1.png,what colour is it?,green,train\n")
    assert identity(compose(parts=(f"questions path={path}",))) != identity(before)
    with pytest.raises(DataError, match="the file has changed"):
        running.prepare(before)


def test_arms_of_other_mixtures_are_told_apart(trained, blank_figures, tmp_path: Path) -> None:
    x, run, _ = trained
    shutil.copytree(Path(x.tracking.runs_dir), tmp_path / "runs")
    shutil.copytree(folder_of(x), tmp_path / "runs" / "other")
    other = deepcopy(replace(run, identity="other", name="other"))
    other.config["data"]["parts"][1] += " weight=9"
    other.facts["data"]["sources"][1]["places"] += 1
    runs.save(tmp_path / "runs", other)
    page = (write_report(choose(tmp_path / "runs"), tmp_path) / "report.md").read_text()
    assert "not trained on the same mixture of sources" in page and "`data.parts.pairs=pairs num_train=8 num_minival=4 num_dev=8 weight=9`" in page
    chapter = page.partition("## By source")[2].partition("\n## ")[0]
    for told in ("| `questions` |", "| `pairs` |", "| `tables` |", "exact match", "accuracy", "F1 by picture", "times each", "Mixture of"):
        assert told in chapter, chapter
    assert "Part of the mixture: pairs" in page and "Part of the mixture: tables" in page
    assert "minival and dev those of questions" in page


def test_an_option_with_bad_records_says_how_its_own_keys_are_given(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text("image,question,answer\nlost.png,What is it?,red\n", encoding="utf-8")
    spelled = f"questions path={tmp_path}/q.csv kind=text"
    with pytest.raises(DataError, match="bad records and images: 1") as raised:
        data.option(spelled).load(tmp_path)
    assert str(raised.value).endswith(f"as in '{spelled} on_bad=skip'.")
