"""Arms whose keys differ and whose realised inputs do not: told before they train, with the reason, and not compared afterwards."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic_runs import Questions, answers, write_run

from lab import run as running
from lab.config import Experiment, as_dict
from lab.report import checks, compare, select_runs
from lab.report.alike import Realised, alike, describe
from lab.report.measure import Measured, measure_all
from lab.run import Prepared
from lab.sweeping import arms
from lab.sweeping.sweep import run_sweep

SAME = {
    "a budget that never binds": (["vision_tokens=prune", "vision_tokens.budget=16"], ["vision_tokens=native"], "at most 16 tokens"),
    "budgets that never bind": (
        ["vision_tokens=merge", "vision_tokens.budget=16"],
        ["vision_tokens=merge", "vision_tokens.budget=64"],
        "vision_tokens.budget: every image",
    ),
    "a rule that never acts": (
        ["vision_tokens=prune", "vision_tokens.budget=20", "vision_tokens.rule=norm"],
        ["vision_tokens=prune", "vision_tokens.budget=20", "vision_tokens.rule=diverse"],
        "vision_tokens.rule",
    ),
    "a resize that enlarges nothing": (["vision_tokens=resize", "vision_tokens.budget=16"], ["vision_tokens=native"], "vision_tokens:"),
    "one pooled grid": (["vision_tokens=pool", "vision_tokens.budget=9"], ["vision_tokens=pool", "vision_tokens.budget=10"], "the same tokens"),
    "the default written out": (["lora.lora_alpha=32"], ["lora.lora_alpha=null"], "the same layers get the same adapters"),
    "all blocks by number": (["lora.top_k_blocks=2"], [], "the same layers get the same adapters"),
    "a rate of a part without adapters": (["optim.lr_vision=1e-5"], [], "every step has the same learning rates"),
    "a warm-up of less than a step": (["optim.warmup_fraction=0"], ["optim.warmup_fraction=0.05"], "the same learning rates"),
    "as many steps in epochs": (["trainer.max_steps=4"], ["trainer.max_steps=null", "trainer.max_epochs=0.25"], "the same steps are taken"),
    "no step, another rate": (["trainer.max_steps=0"], ["trainer.max_steps=0", "optim.lr=1"], "no step is taken"),
    "no step, another seed": (["trainer.max_steps=0", "lora=none"], ["trainer.max_steps=0", "lora=none", "seed=1"], "nothing is drawn"),
    "no step, another rank": (["trainer.max_steps=0", "lora.r=2"], ["trainer.max_steps=0", "lora.r=4"], "a fresh adapter computes nothing"),
    "the prompt's version": (["prompt.version=2"], [], "token for token"),
}  # fmt: skip
DIFFERENT = {
    "method": (["vision_tokens=prune", "vision_tokens.budget=9"], ["vision_tokens=merge", "vision_tokens.budget=9"]),
    "budget": (["vision_tokens=pool", "vision_tokens.budget=9"], ["vision_tokens=pool", "vision_tokens.budget=4"]),
    "rule": (
        ["vision_tokens=prune", "vision_tokens.budget=9", "vision_tokens.rule=norm"],
        ["vision_tokens=prune", "vision_tokens.budget=9", "vision_tokens.rule=deviation"],
    ),
    "resize": (["vision_tokens=resize", "vision_tokens.budget=9"], ["vision_tokens=native"]),
    "resampler": (["vision_tokens=resampler", "vision_tokens.budget=16"], ["vision_tokens=native"]),
    "resampler, no step, seed": (
        ["vision_tokens=resampler", "vision_tokens.budget=16", "trainer.max_steps=0"],
        ["vision_tokens=resampler", "vision_tokens.budget=16", "trainer.max_steps=0", "seed=1"],
    ),
    "conditioning": (["conditioning=cross_attention"], []),
    "prompt": (["prompt=qa"], []),
    "image order": (["prompt.image_order=swap"], []),
    "seed": (["seed=1"], []),
    "rank": (["lora.r=8"], []),
    "scaling": (["lora.use_rslora=true"], []),
    "dropout": (["lora.lora_dropout=0.1"], []),
    "initialisation": (["lora.init_lora_weights=gaussian"], []),
    "initialisation, no step": (["lora.init_lora_weights=orthogonal", "trainer.max_steps=0"], ["trainer.max_steps=0"]),
    "layers": (["lora=attention"], ["lora=mlp"]),
    "rate": (["optim.lr=1e-3"], []),
    "rate of B": (["optim.lr_b_ratio=16"], []),
    "schedule": (["optim.schedule=linear"], []),
    "decay": (["optim.weight_decay=0.1"], []),
    "steps": (["trainer.max_steps=3"], []),
    "samples a step": (["trainer.batch_size=8"], []),
    "clipping": (["trainer.gradient_clip_val=0.5"], []),
}


@pytest.fixture(scope="module")
def composed(composer: Callable[..., Experiment], tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("alike")

    def make(*overrides: str) -> Experiment:
        sizes = [f"data.num_{name}={size}" for name, size in {"train": 64, "minival": 16, "dev": 32}.items()]
        steps = [] if any(one.startswith("trainer.max_steps") for one in overrides) else ["trainer.max_steps=4"]
        batch = [] if any(one.startswith("trainer.batch_size") for one in overrides) else ["trainer.batch_size=4"]
        return composer(f"model.path={tiny_folder}", f"tracking.cache_dir={path}", *sizes, *steps, *batch, *overrides)

    return make


@pytest.fixture(scope="module")
def prepared(composed: Callable[..., Experiment]) -> Prepared:
    return running.prepare(composed())


def groups(prepared: Prepared, *experiments: Experiment) -> list[list[Realised]]:
    return alike([Realised(f"arm {i}", as_dict(x), running.realised(x, prepared)) for i, x in enumerate(experiments)])


@pytest.mark.parametrize("name", SAME)
def test_arms_that_come_to_the_same_are_told_with_the_reason(name: str, composed, prepared: Prepared) -> None:
    one, other, reason = SAME[name]
    (members,) = groups(prepared, composed(*one), composed(*other))
    assert [member.label for member in members] == ["arm 0", "arm 1"]
    assert reason in describe(members)


@pytest.mark.parametrize("name", DIFFERENT)
def test_arms_that_differ_are_not_told(name: str, composed, prepared: Prepared) -> None:
    one, other = DIFFERENT[name]
    assert groups(prepared, composed(*one), composed(*other)) == []


def test_what_is_not_known_is_not_told(composed) -> None:
    """Without features on disk nobody knows what every image costs: budgets then count as different."""
    two = [composed("trainer.feature_cache=false", "vision_tokens=merge", f"vision_tokens.budget={n}") for n in (16, 32)]
    prepared = running.prepare(two[0])
    assert groups(prepared, *two) == [] and "image_tokens" not in running.realised(two[0], prepared)
    assert len(groups(prepared, two[0], two[0])) == 1


def test_a_sweep_says_so_before_it_trains_and_the_report_does_not_compare_them(composed, tmp_path: Path, caplog) -> None:
    cheap = ["lora=none", "trainer.max_steps=0", "evaluation.verify=false", "evaluation.latency_examples=0", "sweep.self_check=false"]
    cheap += ["tracking.enabled=false", f"tracking.runs_dir={tmp_path}/runs"]
    made = [composed(*cheap)] + [composed(*cheap, "vision_tokens=pool", f"vision_tokens.budget={n}") for n in (16, 4)]
    origin = arms.SweepSource("test", "python -m lab.train ... -m", "train", None, time.time())
    with caplog.at_level(logging.WARNING):
        assert run_sweep([arms.Arm(x, ()) for x in made], origin, max_arms=1) == 0
    (line,) = [record.getMessage() for record in caplog.records if "One experiment" in record.getMessage()]
    assert "2 names" in line and "at most 16 tokens" in line and "budget=16" in line and "budget=4" not in line
    compared = compare.compare_all(measure_all(select_runs.choose(tmp_path / "runs").arms))
    assert len(compared.groups) == 3 and len(compared.pairs) == 1
    (note,) = [note for note in compared.notes if "not compared with each other" in note]
    assert "at most 16 tokens" in note and "stands for them" in note


def recorded(runs_dir: Path, *arms: tuple[dict[str, int], dict[str, str]]) -> list[Measured]:
    """Finished runs with these settings and realised parts, measured."""
    questions = Questions.draw("dev", 140)
    for i, (overrides, parts) in enumerate(arms):
        write_run(runs_dir, f"run{i}", overrides, answers(questions, 0.4, seed=i), facts={"realised": {"parts": parts}})
    return measure_all(select_runs.choose(runs_dir).arms)


def test_a_seed_that_touches_nothing_makes_no_noise_floor(tmp_path: Path) -> None:
    seeds = [({"lora.r": 2, "seed": seed}, {"base": "a", "seed": str(seed)}) for seed in (0, 1)]
    baseline = [({"lora.r": 0, "seed": seed}, {"base": "a", "seed": "none"}) for seed in (0, 1)]
    compared = compare.compare_all(recorded(tmp_path / "runs", *seeds, *baseline))
    assert compared.floor is not None and compared.floor.freedom == 1, "two degrees would count the baseline"
    assert len(compared.pairs) == 1


def test_experiments_of_several_seeds_are_alike_only_under_the_same_seeds(tmp_path: Path) -> None:
    def arm(alpha: int, seed: int) -> tuple[dict[str, int], dict[str, str]]:
        return {"lora.r": 2, "lora.lora_alpha": alpha, "seed": seed}, {"base": "a", "seed": str(seed)}

    assert not compare.compare_all(recorded(tmp_path / "same", *(arm(a, s) for a in (4, 8) for s in (0, 1)))).pairs
    other = [arm(4, 0), arm(4, 1), arm(8, 0), arm(8, 2)]
    assert len(compare.compare_all(recorded(tmp_path / "other", *other)).pairs) == 1


def test_a_base_that_has_changed_between_arms_is_told(tmp_path: Path) -> None:
    measured = recorded(tmp_path / "runs", ({"lora.r": 2}, {"base": "a"}), ({"lora.r": 4}, {"base": "b"}))
    (remark,) = checks.different_base(measured)
    assert "held another checkpoint when some arms ran: lora.r=2 against lora.r=4" in remark
    assert checks.different_base(recorded(tmp_path / "one", ({"lora.r": 2}, {"base": "a"}), ({"lora.r": 4}, {"base": "a"}))) == []
