"""`sweep.clone=RUN`: another run's config with the keys changed that the command gives, on every way to an experiment."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from lab import run as running
from lab.config import Experiment, identity
from lab.errors import ConfigError
from lab.store import runs

pytestmark = pytest.mark.usefixtures("nominal_costs")

BEFORE = ("lora=attention", "lora.r=4", "optim.lr=0.01", "vision_tokens=pool", "vision_tokens.budget=4", "evaluation.swap=true", "seed=3")


@pytest.fixture
def recorded(composer, tmp_path) -> Callable[..., tuple[str, str]]:
    """A run that is there: `sweep.clone=` it, and where to look for it."""

    def make(*overrides: str) -> tuple[str, str]:
        where = f"tracking.runs_dir={tmp_path}/runs"
        record = running.new_run(composer(*overrides, where), "command")
        record.started = runs.now()
        runs.save(tmp_path / "runs", record)
        return f"sweep.clone={record.identity}", where

    return make


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("lora.r=32",), "lora.r 4 -> 32"),
        (("lora=mlp",), "lora.name attention -> mlp"),
        (("lora=mlp", "lora.r=2", "trainer.max_steps=7"), "trainer.max_steps 400 -> 7"),
        (("vision_tokens=native", "vision_tokens.budget=null"), "vision_tokens.name pool -> native"),
        ((), "nothing differs, so it is that run"),
    ],
)
def test_what_the_command_gives_wins_and_all_else_is_the_runs(composer, recorded, caplog, changed, said) -> None:
    clone, where = recorded(*BEFORE)
    with caplog.at_level(logging.INFO):
        x = composer(clone, where, *changed)
    whole = [one for one in BEFORE if not any(one.startswith(f"{key.partition('=')[0]}") for key in changed if "." not in key.partition("=")[0])]
    assert identity(x) == identity(composer(*whole, *changed)) and x.evaluation.swap
    assert (identity(x) == clone.partition("=")[2]) is (not changed)
    assert said in caplog.text


def test_where_results_go_and_whose_code_runs_are_the_commands(composer, recorded, tmp_path) -> None:
    clone, where = recorded(*BEFORE, "tracking.experiment=old", "tracking.cache_dir=elsewhere")
    x = composer(clone, where, "tracking.experiment=new", "lora.r=2")
    assert (x.tracking.experiment, x.tracking.cache_dir, x.tracking.runs_dir) == ("new", "cache", f"{tmp_path}/runs")
    assert x.sweep.clone == clone.partition("=")[2]


def test_a_clone_is_an_arm_of_a_sweep(composer, recorded, monkeypatch) -> None:
    """`sweep.clone=RUN lora.r=8,16 -m`: as many runs as values, each the run with that value."""
    import sys

    from hydra.core.global_hydra import GlobalHydra

    from lab import train
    from lab.sweeping import sweep

    arms: list[Experiment] = []
    monkeypatch.setattr(sweep, "run_sweep", lambda given, *rest: arms.extend(arm.experiment for arm in given) or 0)
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["lab.train", *recorded(*BEFORE), "lora.r=8,16", "-m"])
    with pytest.raises(SystemExit):
        train.main()
    assert [identity(x) for x in arms] == [identity(composer(*BEFORE, f"lora.r={r}")) for r in (8, 16)]


def test_what_cannot_be_cloned_is_said(composer, recorded, tmp_path) -> None:
    clone, where = recorded(*BEFORE)
    with pytest.raises(ConfigError, match=rf"{clone[:-1]}: .* holds no such run. Did you mean '{clone.partition('=')[2]}'"):
        composer(clone[:-1], where)
    with pytest.raises(ConfigError, match="the keys of -cn week1 would be lost"):
        composer(clone, where, config_name="week1")
    record = runs.load(tmp_path / "runs", clone.partition("=")[2])
    record.config["data"]["root"] = "https://***@host/data"
    runs.save(tmp_path / "runs", record)
    with pytest.raises(ConfigError, match="data.root: the record of run .* keeps no password"):
        composer(clone, where)
    assert composer(clone, where, f"data.root={Path('/data')}").data.root == "/data"
    record.config["evaluation"]["generate"] = False  # as runs of 662f32b have it
    runs.save(tmp_path / "runs", record)
    with pytest.raises(ConfigError, match="sweep.clone=.*: its config is none of this version of the laboratory.*The version that wrote it reads it"):
        composer(clone, where, "data.root=/data")
