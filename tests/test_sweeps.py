"""Every sweep file composes, arm by arm; arms are named by what differs; groups are what they should be."""

from __future__ import annotations

import itertools
import shlex
from pathlib import Path

import pytest
import yaml

from lab import run as running
from lab.cli import sweep_question
from lab.config import identity
from lab.sweeping.arms import arm_name, differing, quoted

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps").glob("*.yaml"))


def arms_of(path: Path) -> list[list[str]]:
    """The overrides of every arm of a sweep file, as the sweeper makes them; of a search those at the ends of its ranges."""
    hydra = yaml.safe_load(path.read_text())["hydra"]
    params = hydra.get("sweeper", {}).get("params", {})
    if "n_trials" in hydra.get("sweeper", {}):
        from lab.sweeping.space import Space

        space = Space.read([f"{key}={value}" for key, value in params.items()])
        return [space.overrides(corner) for corner in space.corners()]
    grid = [[f"{key}={value}" for value in str(values).split(",")] for key, values in params.items()]
    listed = hydra.get("sweeper", {}).get("arms") or [""]
    return [[*point, *shlex.split(one)] for point in itertools.product(*grid) for one in listed]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.stem)
def test_every_arm_composes_and_is_another_experiment(path, composer) -> None:
    overrides = arms_of(path)
    experiments = [composer(*one, config_name=path.stem) for one in overrides]
    assert len({identity(x) for x in experiments}) == len(overrides) > 1
    dials = differing(experiments)
    names = [arm_name(x, dials) for x in experiments]
    assert len(set(names)) == len(names), names
    assert sweep_question(path.stem).endswith("?")


def test_the_question_goes_on_over_indented_lines() -> None:
    assert sweep_question("week1").startswith("what does LoRA") and sweep_question("week1").endswith("cost?")
    assert sweep_question("train") is None


def test_arms_share_a_base_unless_model_or_data_differ(composer) -> None:
    base = running.shared_key(composer())
    same = ["lora.r=8", "optim.lr=1e-5", "seed=3", "prompt=qa", "vision_tokens=pool", "conditioning=cross_attention"]
    assert {running.shared_key(composer(one)) for one in same} == {base}
    others = ["data.seed=1", "model.dtype=bfloat16", "lora=vision"]
    assert base not in {running.shared_key(composer(one)) for one in others}


def test_identity_knows_what_is_the_same(composer) -> None:
    assert identity(composer("lora.r=8", "seed=1")) == identity(composer("seed=1", "lora.r=8", "trainer.threads=2"))
    assert identity(composer("lora.r=8")) != identity(composer("lora.r=9"))
    assert identity(composer("tracking.runs_dir=elsewhere", "evaluation.batch_size=7")) == identity(composer())


def test_commands_survive_a_shell() -> None:
    assert quoted("lora.r=8") == "lora.r=8"
    assert shlex.split(quoted("evaluation.controls=[blank,text_only]")) == ["evaluation.controls=[blank,text_only]"]
    hard = "prompt.template='it is {statement}'; rm -rf $HOME"
    assert shlex.split(quoted(hard)) == [hard]


def test_the_last_arms_start_beside_those_before_once_these_take_steps() -> None:
    """Rounds of one arm a core as long as the arms fill the next; then all at once, as far as memory goes."""
    from lab.sweeping.groups import another

    assert another(3, [], 2, 3) and another(2, [0], 2, 3), "one arm a core, whatever the others do"
    assert not another(1, [5, 0], 2, 3) and another(1, [5, 1], 2, 3), "the first number is not put off"
    assert not another(2, [9, 9], 2, 3), "two that wait fill both cores"
    assert another(1, [9, 1, 1, 1], 4, 7) and not another(1, [9, 1, 1, 1], 4, 4), "no more than fit"
    assert not another(1, [9, 1], 2, 2) and not another(1, [9], 1, 1)
