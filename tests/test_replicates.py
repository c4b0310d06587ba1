"""`sweep.replicates=N`: every arm N times, differing in the seed only, each with the command that makes it alone."""

from __future__ import annotations

import dataclasses
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from lab import train
from lab.config import SweepSection, as_dict, identity
from lab.errors import ConfigError
from lab.sweeping import sweep as sweeping
from lab.sweeping.arms import Arm
from lab.sweeping.replicates import replicated


def arm(composer, *overrides: str) -> Arm:
    return Arm(composer(*overrides), overrides)


def test_replicates_differ_in_the_seed_only(composer) -> None:
    thrice = arm(composer, "lora.r=8", "seed=3", "sweep.replicates=3")
    made = replicated([thrice, arm(composer, "lora.r=4", "seed=3", "sweep.replicates=2")])
    assert [one.overrides for one in made] == [
        ("lora.r=8", "seed=3"), ("lora.r=8", "seed=4"), ("lora.r=8", "seed=5"), ("lora.r=4", "seed=3"), ("lora.r=4", "seed=4")
    ]  # fmt: skip
    assert len({identity(one.experiment) for one in made}) == 5
    for one in made:
        assert as_dict(one.experiment) == as_dict(composer(*one.overrides))  # its overrides make it alone
        assert as_dict(dataclasses.replace(one.experiment, seed=3)) == as_dict(composer(one.overrides[0], "seed=3"))


def test_without_replicates_nothing_changes(composer) -> None:
    plain = [arm(composer, "seed=0"), arm(composer, "seed=1")]
    assert replicated(plain) == plain and replicated([]) == []


def test_replicates_of_a_sweep_file_are_switched_off_in_each_arms_command(composer) -> None:
    x = dataclasses.replace(composer("lora.r=8"), sweep=SweepSection(replicates=2))
    assert [one.overrides for one in replicated([Arm(x, ("lora.r=8",))])] == [
        ("lora.r=8", "seed=0", "sweep.replicates=1"), ("lora.r=8", "seed=1", "sweep.replicates=1")
    ]  # fmt: skip


def test_seeds_cannot_be_made_and_given(composer) -> None:
    both = [arm(composer, f"seed={seed}", "sweep.replicates=2") for seed in (0, 4)]
    with pytest.raises(ConfigError, match=r"sweep.replicates=2: it makes the seeds.*\(seed=0,4\)"):
        replicated(both)


def test_fewer_than_one_is_refused(composer) -> None:
    with pytest.raises(ConfigError, match="sweep.replicates=0: it must be at least 1"):
        composer("sweep.replicates=0")


def test_the_door_makes_them(monkeypatch, composer, capsys) -> None:
    asked: list[Arm] = []

    def run_sweep(made, origin, *rest, **more):
        asked.extend(made)
        return 0

    def door(*arguments: str) -> int:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["lab.train", *arguments])
        with pytest.raises(SystemExit) as ended:
            train.main()
        return ended.value.code or 0

    monkeypatch.setattr(sweeping, "run_sweep", run_sweep)
    assert door("lora.r=2,4", "sweep.replicates=3", "-m") == 0
    assert [(one.experiment.lora.r, one.experiment.seed) for one in asked] == [(r, s) for r in (2, 4) for s in (0, 1, 2)]
    assert door("sweep.replicates=3") == 2
    assert "sweep.replicates=3: replicates are arms of a sweep, and this is one run. Add -m." in capsys.readouterr().err
