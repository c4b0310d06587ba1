"""Whether the stage before paid: said where the paired comparison carries it, and not otherwise."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from synthetic_runs import Questions, answers, write_run, write_sweep

from lab.report import stages
from lab.report.findings import study
from lab.report.select_runs import choose
from lab.report.write import write_report

pytestmark = pytest.mark.usefixtures("blank_figures")

STAGE2 = {"lora.name": "stage2", "lora.r": 0}


def stage_runs(runs_dir: Path, after: float, alone: float, seeds: tuple[int, ...] = (0,)) -> None:
    """Stage 1, stage 2 from it and stage 2 without it, that answer with such skill."""
    dev = Questions.draw("dev", 700)
    arms = []
    for seed in seeds:
        kinds = (
            (f"first{seed}", {"lora.name": "stage1", "lora.r": 0}, 0.1),
            (f"after{seed}", {**STAGE2, "model.start": f"first{seed}"}, after),
            (f"alone{seed}", STAGE2, alone),
        )
        for number, (name, keys, skill) in enumerate(kinds):
            write_run(runs_dir, name, {**keys, "seed": seed}, answers(dev, skill, seed=10 * seed + number), curve=False)
            arms.append(name)
    write_sweep(runs_dir, "stages", arms, ["lora.name", "model.start"])


@pytest.mark.parametrize(
    ("after", "alone", "said"),
    [
        (0.95, 0.3, r"lora=stage1 paid: model.start=\(stage1\) beats lora=stage2 by "),
        (0.6, 0.6, "That lora=stage1 paid is not shown: .*: no claim."),
        (0.3, 0.95, r"lora=stage1 did harm: lora=stage2 beats model.start=\(stage1\) by "),
    ],
)
def test_a_stage_is_said_to_have_paid_only_where_the_data_carry_it(tmp_path: Path, after: float, alone: float, said: str) -> None:
    stage_runs(tmp_path / "runs", after, alone)
    selection = choose(tmp_path / "runs", "stages")
    (sentence,) = stages.sentences(study(selection))
    assert re.search(said, sentence) and "95 % interval" in sentence
    page = (write_report(selection, tmp_path / "out") / "report.md").read_text()
    assert sentence.partition(":")[0] in page


def test_arms_that_went_on_from_replicates_of_one_arm_are_replicates(tmp_path: Path) -> None:
    stage_runs(tmp_path / "runs", 0.95, 0.3, seeds=(0, 1, 2))
    findings = study(choose(tmp_path / "runs", "stages"))
    assert {len(group.members) for group in findings.compared.groups} == {3} and len(findings.compared.groups) == 3
    (sentence,) = stages.sentences(findings)
    assert "paid" in sentence
