"""`-cn two_stages` on an assembled model, with clips in the mixture: one command, and a killed second stage ends as a whole one."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import assembled_sources as made
import checkpoints
import pytest
from kills import campaign
from safetensors import safe_open

from lab import model
from lab.config import Experiment, identity
from lab.store import runs
from lab.sweeping.arms import SweepSource
from lab.sweeping.launcher import foreseen
from lab.sweeping.sweep import run_sweep

pytestmark = [pytest.mark.bar, pytest.mark.usefixtures("nominal_costs", "blank_figures")]


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, composer: Callable[..., Experiment]) -> tuple[str, ...]:
    """The keys of an assembled Qwen3-VL on conversations with clips; a fifth of these are about one."""
    root = tmp_path_factory.mktemp("stages")
    tower = checkpoints.save("qwen3_vl", root / "tower").path
    llm = made.language("qwen3", root / "llm", tie_word_embeddings=True)
    return (
        "model=assembled", f"model.vision_from={tower}", f"model.llm_from={llm}", "data=drawn_conversations",
        "data.source=clips", "data.num_train=10", "data.num_minival=5", "data.num_dev=5", "trainer.max_steps=2", "trainer.batch_size=5",
        "evaluation.latency_examples=0", "evaluation.verify=false", "evaluation.zero_shot=false", "evaluation.max_new_tokens=2",
        "evaluation.splits=[dev]", "tracking.enabled=false", f"tracking.runs_dir={root}/runs", f"tracking.cache_dir={root}/cache",
    )  # fmt: skip


@pytest.fixture(scope="module")
def stages(asked: tuple[str, ...]) -> list[Path]:
    """The folders of stage 1 and of stage 2 from it, trained by one sweep; the sweep's stage 2 alone is left out, for time."""
    arms = foreseen([*asked, "sweep.self_check=false"], "two_stages")[:2]
    assert run_sweep(arms, SweepSource("stages", "command", "two_stages", None, time.time())) == 0
    return [Path(arm.experiment.tracking.runs_dir) / identity(arm.experiment) for arm in arms]


def test_one_command_trains_both_stages_of_an_assembled_model(stages: list[Path]) -> None:
    """Projector alone, then projector and language model, and not a tensor more."""
    records = [runs.load(folder.parent, folder.name) for folder in stages]
    assert all(run is not None and run.status == "FINISHED" for run in records)
    family, changed = model.family("qwen3_vl"), []
    for folder in stages:
        with safe_open(folder / "adapter" / "trained.safetensors", "pt") as file:
            changed.append({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    parts = [{family.part_of(name) for name in state} for state in changed]
    assert parts == [{"projector"}, {"projector", "llm"}] and changed[1].keys() > changed[0].keys()
    assert any(not changed[1][name].equal(tensor) for name, tensor in changed[0].items())
    assert (stages[1] / "clips.jsonl").is_file()


def test_stage_2_killed_ten_times_ends_as_the_whole_one(asked, stages: list[Path], composer: Callable[..., Experiment], tmp_path: Path) -> None:
    """SIGKILL at random moments of the whole command, clips in the mixture: weights, predictions and curves are equal to the bit."""

    def make(*overrides: str) -> Experiment:
        own = [one for one in overrides if not re.match(r"lora\.|data\.", one)]
        return composer(*asked, "lora=stage2", "optim.lr=3e-5", f"model.start={stages[0]}", *own)

    said: list[str] = []
    assert campaign(make, tmp_path / "kills", 10, 27, said.append, (False,), (signal.SIGKILL,)) == 10, "\n".join(said)
    print("\n".join(said))
