"""Arms that answer in words: trained, asked, verified, kept. Two arms of the smallest size serve most of what is said here."""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import torch
from kills import require_cut_ends_as
from PIL import Image

from lab import run as running
from lab.answers import predictions
from lab.artifacts import contract
from lab.config import asked, identity
from lab.data.faults import BadRecord
from lab.errors import ConfigError
from lab.evaluation import asking, generation, writing
from lab.host.stopping import Stopped
from lab.model.answers import TextReadout
from lab.model.families import qwen2_vl
from lab.records import AnswerSpace, Choice, Text
from lab.run import zero_shot
from lab.run.assembly import attached
from lab.store import curve_files, runs
from lab.training import devices
from lab.training.datamodule import DataModule
from lab.training.examples import Examples
from lab.training.learner import Learner
from lab.training.objective import objective

pytestmark = pytest.mark.usefixtures("nominal_costs")

COLOURS = ("red", "green", "dark blue")
SMALL = (
    "trainer.max_steps=4", "trainer.batch_size=4", "trainer.val_every=2", "trainer.save_every=1", "evaluation.latency_examples=1",
    "evaluation.latency_warmup=0", "evaluation.probe_examples=4", "tracking.enabled=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def compose(composer, tiny_folder, tmp_path_factory):
    """Experiments on a file of questions about pictures of one colour; where: the name of their folder of runs."""
    root = tmp_path_factory.mktemp("text")
    rows = ["image,question,answer,split"]
    for i in range(24):
        colour = COLOURS[i % 3]
        Image.new("RGB", (56, 56 + i), colour.split()[-1]).save(root / f"{i}.png")
        rows.append(f"{i}.png,what colour is picture {i}?,{colour},{'train' if i < 12 else 'minival' if i < 17 else 'dev'}")
    (root / "q.csv").write_text("\n".join(rows) + "\n")
    yes = [f"{i}.png,is it red?,{'no' if i % 3 else 'yes'},{'train' if i < 9 else 'dev'}" for i in range(18)]
    (root / "yes.csv").write_text("\n".join([rows[0], *yes]) + "\n")

    def make(*overrides: str, file: str = "q.csv", where: str = "shared"):
        places = (f"data.path={root / file}", f"tracking.runs_dir={root / where}", f"tracking.cache_dir={root / 'cache'}")
        return composer("data=questions", f"model.path={tiny_folder}", *places, *SMALL, *overrides)

    return make


@pytest.fixture(scope="module")
def shared(compose):
    """Two arms over one base, their records, and what they share."""
    arms = [compose("lora.r=2"), compose("lora.r=4")]
    prepared = running.prepare(arms[0])
    return arms, [running.run_arm(x, prepared, running.new_run(x, "command"), time.time()) for x in arms], prepared


def folder(x) -> Path:
    return runs.folder(Path(x.tracking.runs_dir), identity(x))


def test_an_arm_learns_answers_and_passes_the_gate(shared) -> None:
    arms, records, prepared = shared
    for x, run in zip(arms, records, strict=True):
        checks = {check["name"]: check for check in run.facts["verify"]}
        assert len(checks) == 5 and all(check["passed"] for check in checks.values()), checks
        assert {"dev/exact_match", "dev/token_nll", "dev/ece", "dev/cut_off", "latency/tokens_per_second"} <= run.metrics.keys()
        curve = list(curve_files.read(folder(x)))
        assert {"minival/token_nll", "minival/exact_match", "train_slice/token_nll"} <= {key for row in curve for key in row}
        table = predictions.read(runs.predictions_file(folder(x), "questions", "minival"))
        last = [row["minival/token_nll"] for row in curve if "minival/token_nll" in row][-1]
        assert last == pytest.approx(run.metrics["minival/token_nll"], abs=1e-5) and table.post.tolist() == ["vqa"] * 5
    assert contract.load(folder(arms[0]))["answers"] == {"kind": "text", "post": "vqa", "max_new_tokens": 16}
    x = arms[0]
    assert running.stored_probe(folder(x), TextReadout("vqa")).numbers.shape[0] == 4
    assert prepared.splits.answers == AnswerSpace("text", ()) and next(iter(prepared.splits.baselines.values())) > 0


def test_an_arm_alone_and_cut_off_ends_as_the_shared_one(shared, compose, monkeypatch) -> None:
    x = compose("lora.r=4", where="alone")
    require_cut_ends_as(shared[0][1], x, monkeypatch, 3)


def test_answers_are_read_otherwise_or_longer_without_a_step(shared, compose, monkeypatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("a step was taken"))
    first = shared[0][0]
    path = runs.predictions_file(folder(first), "questions", "dev")
    written = predictions.read(path).text.tolist()
    with monkeypatch.context() as patch:
        patch.setattr(writing, "answer", lambda *_: pytest.fail("the model was asked"))
        x = compose("lora.r=2", "prompt.post=none")
        assert identity(x) == identity(first) and asked(x) != asked(first)
        run = running.run_alone(x, "command", time.time())
    table = predictions.read(path)
    assert set(table.post) == {"none"} and table.text.tolist() == written and run.config["prompt"]["post"] == "none"
    longer = compose("lora.r=2", "prompt.post=none", "evaluation.max_new_tokens=2")
    assert running.run_alone(longer, "command", time.time()).metrics["dev/cut_off"] == (predictions.read(path).ended == 0).mean()
    assert predictions.read(path).tokens.max() <= 2 and not running.unasked(longer, runs.load(Path(x.tracking.runs_dir), identity(x)))


def test_the_base_answers_once_for_all_arms_and_stands_below_them(shared, compose, monkeypatch) -> None:
    """Without a step; read by another rule it is not asked again, and a data set may want it unless told otherwise."""
    arms, _, prepared = shared
    dev = prepared.encoded(arms[0])["dev"]
    bare = {row.sample_id: row.said.text for row in asking.ask(prepared.vlm, dev, dev.encoder.readout, arms[0].evaluation, "dev")}
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("a step was taken"))
    calls = []
    monkeypatch.setattr(zero_shot.asking, "ask", lambda *given, ask=asking.ask, **part: (calls.append(given[4]), ask(*given, **part))[1])
    asked_of = [compose(f"lora.r={r}", "evaluation.zero_shot=true", f"prompt.post={post}") for r, post in ((4, "vqa"), (2, "vqa"), (4, "none"))]
    records = [running.run_arm(x, prepared, running.new_run(x, "command"), time.time()) for x in asked_of]
    assert calls.count("dev, zero-shot") == 1
    (path,) = (Path(arms[0].tracking.runs_dir) / "zero_shot").glob("*/dev.parquet")
    table = predictions.read(path)
    assert dict(zip(table.sample_id.tolist(), table.text.tolist(), strict=True)) == bare and set(table.post) == {"none"}
    for run in records:
        shown = [share for name, share in run.facts["data"]["baselines"].items() if name.startswith("zero-shot: the base with prompt=question")]
        assert shown == [run.metrics["zero_shot/exact_match"]] and "zero_shot/ece" in run.metrics
    alone = compose("trainer.max_steps=0", "lora=none", "evaluation.zero_shot=true")
    assert not zero_shot.wanted(arms[0]) and zero_shot.wanted(asked_of[0]) and not zero_shot.wanted(alone)
    easy = replace(arms[0], data=replace(arms[0].data, name="easy_vqa"))
    assert zero_shot.wanted(easy) and not zero_shot.wanted(replace(easy, evaluation=replace(easy.evaluation, zero_shot=False)))


def test_what_is_written_is_what_generation_writes_in_any_batch(shared) -> None:
    """Also where it is the reference, which one forward tells; and the mean is the same over batches of 1, 3 and 7."""
    arms, _, prepared = shared
    examples = prepared.encoded(arms[0])["dev"]
    section = arms[0].evaluation
    readout = examples.encoder.readout
    rows = writing.answer(prepared.vlm, examples, readout, replace(section, batch_size=7), "dev")
    for size in (1, 3):
        other = writing.answer(prepared.vlm, examples, readout, replace(section, batch_size=size), "dev")
        assert [row.said.text for row in other] == [row.said.text for row in rows]
        assert [row.said.log_p for row in other] == pytest.approx([row.said.log_p for row in rows], abs=1e-4)

    class Taught:
        sample_ids = examples.split.sample_ids

        def __len__(self) -> int:
            return len(rows)

        def index(self, index: int):
            return replace(examples.split[index], answer=Text((rows[index].said.text,)))

        __getitem__ = index

    as_taught = writing.answer(prepared.vlm, Examples(Taught(), examples.encoder), readout, section, "dev")
    assert [row.said.text for row in as_taught] == [row.said.text for row in rows]
    ended = [i for i, row in enumerate(rows) if row.said.ended]
    assert [as_taught[i].said.log_p for i in ended] == pytest.approx([rows[i].said.log_p for i in ended], abs=1e-3)


def test_an_answer_trains_its_end_and_no_special_token(shared) -> None:
    arms, _, prepared = shared
    encoder = prepared.encoded(arms[0])["train"].encoder
    sample = prepared.splits.train[2]
    text = encoder.text(sample)
    assert encoder.tokenizer.decode(text.answer_ids, skip_special_tokens=True) == sample.answer.text == "dark blue"
    assert text.answer_ids[-1] in generation.end_ids(prepared.vlm)
    with pytest.raises(BadRecord, match="its answer '<|im_end|>red' must not hold special tokens"):
        encoder.text(replace(sample, answer=Text(("<|im_end|>red",))))


@pytest.mark.parametrize(("forwards", "ranks"), [(4, 1), (2, 2)])
def test_forwards_of_one_step_count_by_their_answer_tokens(shared, monkeypatch, forwards: int, ranks: int) -> None:
    """The mean of what they minimise, over ranks too, is the mean over all tokens, as of one forward; a mean of means is another."""
    (x, _), _, prepared = shared
    train = prepared.encoded(x)["train"]
    accumulate = forwards // ranks
    whole, cut_up = (DataModule(train, train, x.trainer, micro, x.seed, 3, done=1) for micro in ((4, 1), (4 // accumulate, accumulate)))
    with attached(x, prepared.vlm) as vlm, torch.no_grad():
        learner = Learner(vlm, x.optim, train.encoder.readout, 3)
        one = learner.loss(next(iter(whole.train_dataloader())))
        batches = []
        monkeypatch.setattr(devices, "world", lambda: ranks)
        for rank in range(ranks):
            monkeypatch.setattr(devices, "rank", lambda rank=rank: rank)
            batches += list(islice(cut_up.train_dataloader(), accumulate))
        losses = torch.stack([learner.loss(batch) for batch in batches])
        weights = torch.tensor([cut_up.weight(batch, 1) for batch in batches])
    assert len(batches) == forwards and torch.isclose((losses * weights).mean(), one, atol=1e-6) and not torch.isclose(losses.mean(), one, atol=1e-4)


def test_the_watched_number_is_the_mean_over_tokens() -> None:
    logits, labels = torch.randn(6, 3, 11), torch.randint(0, 11, (6, 3))
    labels[:2, 0] = labels[2:4, :2] = -100
    whole, parts = objective(TextReadout("none")), objective(TextReadout("none"))
    whole.score("minival", logits, labels)
    for at in range(6):
        found = parts.score("minival", logits[at : at + 1], labels[at : at + 1])
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert found["token_nll"].compute() == pytest.approx(expected.item())
    assert whole.metrics["minival"]["token_nll"].compute() == pytest.approx(expected.item())


def test_what_words_cannot_be_asked_is_refused(compose) -> None:
    for override in ("evaluation.swap=true", "evaluation.ask=[score,generate]"):
        with pytest.raises(ConfigError, match="data=mine is answered in words"):
            asking.check(Text.kind, "mine", qwen2_vl.FAMILY, compose(override).evaluation)
        asking.check(Choice.kind, "mine", qwen2_vl.FAMILY, compose(override).evaluation)


def test_two_distinct_answers_are_options_in_their_own_words(compose) -> None:
    x = compose("lora=none", "trainer.max_steps=0", "trainer.val_every=null", "evaluation.ask=[score,generate]", file="yes.csv")
    run = running.run_alone(x, "command", time.time())
    table = predictions.read(runs.predictions_file(folder(x), "questions", "dev"))
    assert set(table.options) == {("yes", "no")} or set(table.options) == {("no", "yes")}
    assert all(check["passed"] for check in run.facts["verify"]) and 0 <= run.metrics["dev/accuracy"] <= 1
    assert contract.load(folder(x))["answers"]["kind"] == "choice"


def test_an_arm_stopped_among_its_answers_goes_on_after_them(shared, compose, monkeypatch) -> None:
    """Without a step or a question twice, and as if it had not been stopped."""
    x = compose("lora.r=4", "evaluation.batch_size=2", where="stopped")
    whole, asked_again, answers = shared[0][1], [], writing.answers

    def stopped(vlm, encoder, items, *others):
        asked_again.append([item.sample_id for item in items])
        if len(asked_again) == 3:
            raise Stopped("stopped by trainer.max_time=11:45:00")
        return answers(vlm, encoder, items, *others)

    monkeypatch.setattr(writing, "answers", stopped)
    with pytest.raises(Stopped):
        running.run_alone(x, "command", time.time())
    (part,) = (folder(x) / "predictions").glob(".*.part")
    given = [row.sample_id for row in predictions.rows(part)]
    assert len(given) == 4 and runs.load(Path(x.tracking.runs_dir), identity(x)).status == runs.KILLED
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda *_: pytest.fail("a step was taken"))
    running.run_alone(x, "command", time.time())
    assert not part.exists() and asked_again[3] == asked_again[2] and not {*given} & {*asked_again[3]}
    one, other = (predictions.read(runs.predictions_file(folder(each), "questions", "minival")) for each in (x, whole))
    assert one.text.tolist() == other.text.tolist() and one.sample_id.tolist() == other.sample_id.tolist()
