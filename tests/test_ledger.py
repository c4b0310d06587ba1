"""Arms can be matched in size, the ledger says in what they are, and a sweep that breaks its own requirement stops."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_runs import Questions, answers, write_run, write_sweep

from lab import lora, model
from lab import run as running
from lab.config import Experiment, MatchOn, asked, identity
from lab.errors import ConfigError
from lab.freezing import from_dict
from lab.report import matching
from lab.report.matching import Account
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.run.assembly import attached
from lab.run.sharing import Prepared
from lab.store import runs
from lab.sweeping import arms, ledger
from lab.sweeping.sweep import run_sweep

ARM = Account("a", "x", 0, True, {"train": "t", "minival": "m", "dev": "d"}, 64, (), (16.0, 16, 16), 1000.0, 2e9)
ALL = tuple(MatchOn)


def other(**changes) -> Account:
    return dataclasses.replace(ARM, **{"label": "b", "experiment": "y", **changes})


# ------------------------------------------------------------------------------------------------ a number instead of a rank


@pytest.fixture(scope="module")
def base(composer, tiny_folder):
    return model.load(composer(f"model.path={tiny_folder}").model)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("lora=all",),
        ("lora.use_dora=true",),
        ("lora.init_lora_weights=mica",),
        ("lora.init_lora_weights=orthogonal",),
        ("lora.init_lora_weights=pissa", "lora=attention"),
        ("conditioning=cross_attention", "conditioning.width=8", "conditioning.heads=2"),
        ("vision_tokens=resampler", "vision_tokens.budget=4", "vision_tokens.width=8", "vision_tokens.heads=1"),
    ],
    ids=lambda overrides: " ".join(overrides) or "plain",
)
def test_the_largest_rank_that_keeps_to_the_number(base, composer, overrides) -> None:
    wanted = 100_000
    x = composer(f"lora.trainable_parameters={wanted}", *overrides)
    assembled = running.assemble(x, base)
    dial = lora.sized(assembled, x.lora)
    more = dataclasses.replace(dial, r=dial.r + (2 if "lora.init_lora_weights=orthogonal" in overrides else 1))
    fits, exceeds = (lora.added_parameters(assembled, one) + lora.adapter_parameters(assembled, one) for one in (dial, more))
    assert fits <= wanted < exceeds
    with attached(x, base) as vlm:
        assert vlm.model.peft_config["default"].r == dial.r
        assert sum(row.trainable for row in lora.ledger(vlm)) == fits


def test_too_few_parameters_say_what_the_fewest_are(base, composer) -> None:
    x = composer("lora.trainable_parameters=100000", "conditioning=cross_attention", "conditioning.width=128")
    vlm = running.assemble(x, base)
    added = lora.added_parameters(vlm, x.lora)
    fewest = added + lora.adapter_parameters(vlm, dataclasses.replace(x.lora, r=1))
    with pytest.raises(ConfigError, match=rf"lora.trainable_parameters=100000: .*Give at least {fewest}, .*") as refused:
        lora.verify(vlm, x.lora)
    assert f"{added:,} of them in what trains beside adapters" in str(refused.value)
    with pytest.raises(ConfigError, match="attaches no adapter"):
        composer("lora=none", "lora.trainable_parameters=100", "trainer.max_steps=0")


@pytest.mark.parametrize("require", ["[]", "[parameters]"])
def test_too_few_parameters_are_refused_before_features_are_computed(small, monkeypatch, require) -> None:
    made = [small(f"lora.trainable_parameters={number}", f"sweep.require={require}", "tracking.enabled=false") for number in (50_000, 5)]
    monkeypatch.setattr(Prepared, "encoded", lambda *_: pytest.fail("features are asked for"))
    origin = arms.SweepSource("test", "python -m lab.train ... -m", "train", None, time.time())
    for act in (lambda: running.run_alone(made[1], "test", time.time()), lambda: run_sweep([arms.Arm(x, ()) for x in made], origin)):
        with pytest.raises(ConfigError, match="lora.trainable_parameters=5: the smallest adapter here makes"):
            act()


def test_the_number_alone_names_the_experiment(composer) -> None:
    asked = composer("lora.trainable_parameters=100000")
    assert identity(asked) == identity(composer("lora.trainable_parameters=100000", "lora.r=3"))
    assert len({identity(x) for x in (asked, composer(), composer("lora.trainable_parameters=100001"))}) == 3
    assert identity(composer("sweep.require=[samples]")) == identity(composer())


def test_the_rank_is_recorded_and_costs_are_as_foreseen(small) -> None:
    x = small("lora.trainable_parameters=50000", "conditioning=cross_attention", "conditioning.width=16", "evaluation.verify=false")
    prepared = running.prepare(x)
    foreseen = running.foresee(x, prepared)
    run = running.run_arm(x, prepared, running.new_run(x, "test"), time.time())
    assert {key: run.metrics[key] for key in foreseen} == foreseen and len(foreseen) == 6
    assert foreseen["parameters/trainable"] <= 50_000
    assert run.metrics["flops/forward_per_example"] > run.metrics["flops/added_per_example"] > 0
    folder = runs.folder(Path(x.tracking.runs_dir), run.identity)
    rank = json.loads((folder / "adapter" / "adapter_config.json").read_text())["r"]
    stored = runs.load(Path(x.tracking.runs_dir), identity(x))
    contract = json.loads((folder / "contract.json").read_text())
    assert stored.config["lora"]["r"] == contract["lora"]["r"] == rank != x.lora.r
    assert identity(from_dict(stored.config)) == identity(x)


# ------------------------------------------------------------------------------------------------ the ledger


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, set()),
        ({"samples": {**ARM.samples, "train": "z"}}, {MatchOn.samples, MatchOn.order}),
        ({"samples": {**ARM.samples, "dev": "z"}}, {MatchOn.samples}),
        ({"examples_seen": 32}, {MatchOn.order}),
        ({"seed": 1}, {MatchOn.order}),
        ({"tokens": (15.9, 12, 16)}, {MatchOn.tokens}),
        ({"parameters": 1050.0}, set()),
        ({"parameters": 1051.0}, {MatchOn.parameters}),
        ({"flops": 3e9}, {MatchOn.flops}),
        ({"parameters": None, "flops": None, "tokens": None}, set()),
        ({"trains": False, "samples": {"dev": "d"}, "parameters": 0.0, "flops": 1e9, "examples_seen": 0}, set()),
        ({"trains": False, "samples": {"dev": "e"}}, {MatchOn.samples}),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "+".join(sorted(str(one.value) for one in value)) or "nothing",
)
def test_each_respect_sees_its_own_difference(changes: dict, broken: set[MatchOn]) -> None:
    both = [ARM, other(**changes)]
    assert {respect for respect in ALL if matching.differs(both, respect)} == broken
    told = matching.breaches(both, ALL)
    assert len(told) == len(broken) and all("\n  a  " in one and "\n  b  " in one for one in told)
    assert not matching.breaches(both, ())


def test_seeds_are_replicates_as_long_as_all_have_the_same() -> None:
    replicated = [dataclasses.replace(one, seed=seed) for one in (ARM, other()) for seed in (0, 1)]
    assert not matching.breaches(replicated, ALL)
    assert not matching.breaches([ARM, dataclasses.replace(ARM, label="again", seed=1)], ALL)
    assert matching.differs(replicated[:-1], MatchOn.order)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"parameters": 1020.0, "flops": 2e9}, "matched in trainable parameters (1,000 to 1,020, within 2.0 %) and in forward FLOPs (2.00 GFLOP"),
        ({"flops": 3e9}, "matched in trainable parameters (1,000, within 0.0 %). They are not matched in forward FLOPs, by a factor of 1.50"),
        ({"parameters": 500.0}, "matched in forward FLOPs (2.00 GFLOP an example, within 0.0 %). They are not matched in trainable"),
        ({"parameters": 500.0, "flops": 3e9}, "not matched in trainable parameters, by a factor of 2.00 (a: 1,000; b: 500), nor in forward"),
        ({"flops": None}, "(1,000, within 0.0 %). Forward FLOPs were not recorded for every arm."),
    ],
)
def test_the_sentence_names_what_is_matched(changes: dict, said: str) -> None:
    assert said in matching.matched([ARM, other(**changes)])


def test_a_baseline_needs_no_match() -> None:
    baseline = other(trains=False, parameters=0.0, flops=1e9)
    assert matching.matched([ARM, baseline]) == ""
    assert "within 0.0 %" in matching.matched([ARM, baseline, other(label="c")])


@pytest.mark.usefixtures("blank_figures")
def test_the_report_shows_the_ledger_and_the_broken_requirement(tmp_path: Path) -> None:
    runs_dir, dev = tmp_path / "runs", Questions.draw("dev", 140)
    names = []
    for rank, cost in ((8, 1e9), (16, 1.3e9)):
        run = write_run(runs_dir, f"r{rank}", {"lora.r": rank}, answers(dev, 0.5, seed=rank), curve=False)
        run.metrics["flops/forward_per_example"] = cost
        run.config["sweep"] = {"require": ["order", "parameters"]}
        runs.save(runs_dir, run)
        names.append(run.identity)
    write_sweep(runs_dir, "s", names, ["lora.r"])
    page = (write_report(choose(runs_dir), tmp_path / "out") / "report.md").read_text()
    assert "sweep.require=parameters: the arms differ in trainable parameters, by a factor of 2.00" in page
    assert "not matched in trainable parameters, by a factor of 2.00" in page and "by a factor of 1.30" in page
    row = next(line for line in page.splitlines() if line.startswith("| `lora.r=16` | 4,800, seed 0"))
    assert "| 98,304 | 1.30 |" in row and "train aaaaaaaa" in row


# ------------------------------------------------------------------------------------------------ a sweep held to its word


@pytest.fixture
def sweep(small) -> Callable[..., tuple[Callable[[], int], list[Experiment]]]:
    """A sweep over overrides, not yet run, with its experiments."""

    def make(require: str, *overrides: tuple[str, ...]):
        short = ("trainer.max_steps=2", "data.num_dev=8", "data.num_minival=4", "data.num_train=8", "tracking.enabled=false")
        made = [small(f"sweep.require=[{require}]", *short, *one) for one in overrides]
        origin = arms.SweepSource("test", "python -m lab.train ... -m", "train", None, time.time())
        return (lambda: run_sweep([arms.Arm(x, ()) for x in made], origin, max_arms=2)), made

    return make


@pytest.mark.parametrize(
    ("require", "one", "two", "said"),
    [
        ("parameters", ("lora.r=2",), ("lora.r=4",), r"by a factor of 2.00 \(lora.r=4: 17,920; lora.r=2: 8,960\)(?s:.*)\n  lora.r=2  8,960"),
        ("samples", ("data.seed=0",), ("data.seed=1",), "the samples of train, minival, dev"),
        ("order", ("trainer.batch_size=2",), ("trainer.batch_size=4",), r"in which order(?s:.*) 4, seed 0\n(?s:.*) 8, seed 0"),
        ("tokens", ("vision_tokens=native",), ("vision_tokens=pool", "vision_tokens.budget=4"), "visual tokens of an image"),
        ("flops", ("vision_tokens=native",), ("vision_tokens=resize", "vision_tokens.budget=4"), "forward FLOPs, by a factor of"),
    ],
)
def test_a_sweep_that_breaks_its_requirement_stops_before_training(sweep, require, one, two, said) -> None:
    run, made = sweep(require, one, two)
    with pytest.raises(ConfigError, match=rf"sweep.require={require}: the arms differ in .*{said}") as refused:
        run()
    assert "Nothing was trained." in str(refused.value)
    assert not list(Path(made[0].tracking.runs_dir).rglob("*.json"))


def test_a_sweep_that_keeps_it_runs_with_seeds_as_replicates(sweep) -> None:
    run, made = sweep("samples,order,tokens,parameters,flops", ("lora.r=2", "seed=0"), ("lora.r=2", "seed=1"))
    assert run() == 0
    finished = [runs.load(Path(x.tracking.runs_dir), identity(x)) for x in made]
    assert all(record.status == runs.FINISHED for record in finished)


def test_what_shows_only_at_the_end_fails_then(sweep, capsys, caplog) -> None:
    """Without cached features not every image is decoded beforehand: the exit code says it once the arms have finished."""
    uncached = ("trainer.feature_cache=false", "data.num_dev=20")
    run, made = sweep("tokens", uncached, (*uncached, "vision_tokens=pool", "vision_tokens.budget=9"))
    runs_dir = Path(made[0].tracking.runs_dir)
    named = [(x.vision_tokens.name, x) for x in made]
    with caplog.at_level("WARNING"):
        assert len(ledger.before(named, runs_dir)) == 1
    assert "not known before training for native, pool" in caplog.text
    for x, tokens in zip(made, (16.0, 9.0), strict=True):
        record = running.new_run(x, "test")
        record.status, record.facts["asked"] = runs.FINISHED, asked(x)
        record.metrics = {f"visual_tokens/{key}": tokens for key in ("mean", "min", "max")}
        runs.save(runs_dir, record)
    capsys.readouterr()
    assert run() == 1
    assert "sweep.require=tokens: the arms differ in visual tokens of an image" in capsys.readouterr().err
