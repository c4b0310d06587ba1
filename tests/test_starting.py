"""`model.start`: an arm begins where another run ended, to the bit, and needs it no more once it has begun; stages of one sweep."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpoints import save

from lab import run as running
from lab.config import Experiment, identity
from lab.errors import ConfigError, ContractError, DataError
from lab.evaluation.scoring import answer_logits
from lab.model import Vlm
from lab.model.encoding import Encoder
from lab.run.assembly import attached, trained
from lab.run.sharing import Prepared
from lab.store import runs
from lab.store.runs import Run
from lab.sweeping import chaining
from lab.sweeping.arms import Arm
from lab.sweeping.launcher import foreseen
from lab.sweeping.replicates import replicated

pytestmark = pytest.mark.usefixtures("nominal_costs")

Compose = Callable[..., Experiment]
FIRST = {
    "projector": ["lora=stage1"], "adapter": ["lora=llm", "lora.r=2"], "projector and adapter": ["lora.r=2", "lora.full=[projector]"],
}  # fmt: skip
THEN = {"stage2": ["lora=stage2"], "adapter": ["lora=llm", "lora.r=2"], "another adapter": ["lora=mlp", "lora.r=4"]}


@pytest.fixture(scope="module")
def compose(composer: Compose, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Compose:
    home = tmp_path_factory.mktemp("starts")

    def make(*overrides: str) -> Experiment:
        return composer(
            f"model.path={tiny_folder}", "data.num_train=16", "data.num_minival=4", "data.num_dev=8", "trainer.max_steps=2",
            "trainer.batch_size=4", "optim.lr=0.02", "optim.warmup_fraction=0", "evaluation.latency_examples=0", "evaluation.verify=false",
            "evaluation.splits=[dev]", "tracking.enabled=false", f"tracking.runs_dir={home}/runs", f"tracking.cache_dir={home}/cache", *overrides,
        )  # fmt: skip

    return make


@pytest.fixture(scope="module")
def first(compose: Compose) -> Callable[[str], Run]:
    """Finished runs to go on from, each trained where it is asked for."""
    return functools.cache(lambda name: running.run_alone(compose(*FIRST[name]), "command", time.time()))


@pytest.fixture(scope="module")
def prepared(compose: Compose) -> Prepared:
    """One base for all of them."""
    return running.prepare(compose("lora=stage2"))


def folder(x: Experiment, run: Run) -> Path:
    return runs.folder(Path(x.tracking.runs_dir), run.identity)


def logits(vlm: Vlm, x: Experiment, prepared: Prepared) -> torch.Tensor:
    """Of the answers to the first training examples."""
    encoder = Encoder(vlm, x.prompt, x.seed, prepared.splits.answers)
    vlm.model.eval()
    with torch.inference_mode():
        return answer_logits(vlm, encoder.collate([encoder.example(prepared.splits.train[i]) for i in range(4)], with_answers=False)).clone()


TELLING = (("projector", "stage2"), ("projector", "adapter"), ("adapter", "adapter"), ("adapter", "another adapter"))


@pytest.mark.parametrize(
    ("before", "then"), [pytest.param(*pair, marks=() if pair in TELLING else pytest.mark.bar) for pair in itertools.product(FIRST, THEN)]
)
def test_an_arm_begins_with_the_model_that_the_run_before_it_ended_with(compose: Compose, prepared: Prepared, first, before: str, then: str) -> None:
    """To the bit, but where an adapter is merged; the shared base is as it was."""
    x, earlier = compose(*THEN[then], f"model.start='{first(before).identity[:6]}'"), compose(*FIRST[before])
    bare = logits(prepared.vlm.share(), x, prepared)
    with trained(earlier, prepared.vlm, folder(x, first(before))) as vlm:
        ended = logits(vlm, x, prepared)
    with attached(x, prepared.vlm) as vlm:
        begun = logits(vlm, x, prepared)
    merged = "adapter" in before and then != "adapter"
    assert torch.allclose(begun, ended, rtol=0, atol=2e-4 if merged else 0) and (begun - bare).abs().max() > 0.01
    assert torch.equal(logits(prepared.vlm.share(), x, prepared), bare)


def test_a_run_that_went_on_stands_by_itself(compose: Compose, first, tmp_path: Path) -> None:
    """What it began with lies in its own folder: the run before may go, and both are named in its identity and contract."""
    from lab.artifacts import adapter, contract

    there = compose(*FIRST["projector"])
    kept = tmp_path / "elsewhere" / first("projector").identity
    shutil.copytree(folder(there, first("projector")), kept)
    x = compose("lora=llm", "lora.r=2", f"model.start={kept}")
    assert x.model.start == str(kept) and identity(x) == identity(compose("lora=llm", "lora.r=2", f"model.start={kept.name}"))
    run = running.run_alone(x, "command", time.time())
    shutil.rmtree(kept)
    held = adapter.tensors(folder(x, run) / "adapter")
    assert {name.split(".")[2] for file, name, *_ in held if file == adapter.TRAINED} == {"merger"}
    assert contract.load(folder(x, run))["start"] == kept.name and run.facts["realised"]
    again = running.reload(x, folder(x, run))
    changed = again.base_model.get_parameter("model.visual.merger.mlp.0.weight")
    assert torch.equal(changed, again.full["model.visual.merger.mlp.0.weight"].master) and not changed.requires_grad


def test_the_name_says_which_run_and_no_earlier_name_changes(compose: Compose, first) -> None:
    alone = compose("lora=stage2")
    assert "model.start" not in str(identity(alone)) and alone.model.start is None
    names = {identity(compose("lora=stage2", f"model.start={run.identity}")) for run in map(first, ("projector", "adapter"))}
    assert len(names | {identity(alone)}) == 3


def test_what_cannot_be_gone_on_from_is_refused(compose: Compose, prepared: Prepared, first, tmp_path: Path) -> None:
    start = f"model.start={first('projector').identity}"
    with pytest.raises(ConfigError, match="model.start=nothing: there is no such run.* holds "):
        compose("model.start=nothing")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    with pytest.raises(DataError, match="broken/run.json: this is no run of this laboratory"):
        compose(f"model.start={tmp_path / 'broken'}")
    with pytest.raises(ConfigError, match="model.start=arm:1: it names an arm of a sweep's file"):
        running.check(compose("model.start=arm:1"))
    with pytest.raises(ConfigError, match="nothing trains here. Ask that run itself: lab evaluate"):
        running.check(compose(start, "lora=none", "trainer.max_steps=0"))
    other = compose("lora=stage2", start, f"model.path={save('qwen2_vl', tmp_path / 'other').path}")
    with pytest.raises(ContractError, match=r"over another base:\n  (.*\n)*  base.weights: trained with .*\nGive its model, or another run"):
        running.try_out(other, running.prepare(other))
    unfinished = compose("lora=stage1", "seed=7")
    runs.save(Path(unfinished.tracking.runs_dir), dataclasses.replace(running.new_run(unfinished, "command"), status=runs.FAILED))
    with pytest.raises(DataError, match="that run is failed, and only a finished one can be gone on from"):
        running.try_out(compose("lora=stage2", f"model.start={identity(unfinished)}"), prepared)


def arm(x: Experiment, *overrides: str) -> Arm:
    return Arm(x, overrides)


def test_arms_of_a_sweep_start_from_arms_before_them_at_the_same_point_and_seed(compose: Compose) -> None:
    def point(rate: str, *, seed: int = 0) -> list[Arm]:
        keys = (f"optim.lr={rate}", f"seed={seed}")
        made = (("lora=stage1",), ("lora=stage2", "model.start=arm:1"), ("lora=stage2",))
        return [arm(compose(*own, *keys, "sweep.replicates=2"), *own, *keys) for own in made]

    arms = replicated(chaining.linked([*point("0.1"), *point("0.2")], 3))
    starts = [one for one in arms if one.start is not None]
    assert len(arms) == 12 and len(starts) == 4
    for one in starts:
        assert one.start is not None
        assert one.experiment.model.start == identity(one.start.experiment) and f"model.start={identity(one.start.experiment)}" in one.overrides
        assert (one.experiment.seed, one.experiment.optim.lr) == (one.start.experiment.seed, one.start.experiment.optim.lr)
    first, second = chaining.batches(arms)
    assert len({identity(one.experiment) for one in arms}) == 12 and {id(one) for one in second} == {id(one) for one in starts}
    with pytest.raises(ConfigError, match="model.start=arm:2: this is arm 2 of those that the sweep lists.* arm:1 to arm:1"):
        chaining.linked([arm(compose("seed=1")), arm(compose("model.start=arm:2"))], 2)


def test_the_two_stages_that_are_shipped(composer: Compose) -> None:
    stage1, after, alone = foreseen([], "two_stages")
    assert after.experiment.model.start == identity(stage1.experiment) and alone.experiment.model.start is None
    assert dataclasses.replace(after.experiment.model, start=None) == alone.experiment.model and after.experiment.lora == alone.experiment.lora
    assert (stage1.experiment.lora.full, after.experiment.lora.full) == (["projector"], ["projector", "llm"])


@pytest.mark.bar
def test_a_first_stage_on_shuffled_pictures_is_not_said_to_have_paid(composer: Compose, tmp_path: Path, blank_figures: None) -> None:
    """One sweep on the shipped base, run by one call: the arm that starts from another waits for it; the report compares the two stage 2."""
    from PIL import Image

    from lab.report import stages
    from lab.report.findings import study
    from lab.report.select_runs import choose
    from lab.sweeping.arms import SweepSource
    from lab.sweeping.sweep import run_sweep

    colours = ("red", "green", "blue")
    names = [f"{number}.png" for number in range(120)]
    for number, name in enumerate(names):
        shade = [40 + number] * 3
        shade[number % 3] = 255 - number
        Image.new("RGB", (56, 56), tuple(shade)).save(tmp_path / name)
    for file, shown in (("true.csv", names), ("shuffled.csv", random.Random(0).sample(names, len(names)))):
        rows = [f"{name},What colour is it?,{colours[number % 3]},red|green|blue" for number, name in enumerate(shown)]
        (tmp_path / file).write_text("\n".join(["image,question,answer,choices", *rows]) + "\n")
    keys = ("data=questions", "trainer.max_steps=60", "evaluation.latency_examples=0", "evaluation.verify=false", "sweep.self_check=false",
            "tracking.enabled=false", f"tracking.runs_dir={tmp_path}/runs", f"tracking.cache_dir={tmp_path}/cache")  # fmt: skip
    listed = (
        ("lora=stage1", "optim.lr=1e-3", f"data.path={tmp_path}/shuffled.csv"),
        ("lora=stage2", "optim.lr=3e-4", f"data.path={tmp_path}/true.csv", "model.start=arm:1"),
        ("lora=stage2", "optim.lr=3e-4", f"data.path={tmp_path}/true.csv"),
    )
    arms = chaining.linked([arm(composer(*keys, *own), *own) for own in listed], len(listed))
    assert run_sweep(arms, SweepSource("stages", "command", "train", None, time.time())) == 0
    (sentence,) = stages.sentences(study(choose(tmp_path / "runs", "stages")))
    assert " paid: " not in sentence, sentence
