"""Several processes train one arm: the losses and weights of one process at the same global batch, written by one of them."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lab import run as running
from lab.config import Experiment, identity
from lab.errors import ConfigError, ModelError, TrainingError
from lab.run import ranks
from lab.store import curve_files, runs
from lab.training import devices
from lab.training.ordering import SeededOrder

STEPS = 20


def trained(x: Experiment) -> tuple[runs.Run, dict[int, float], dict[str, torch.Tensor]]:
    """The record, the training curve and the adapter of an experiment."""
    run = running.run_alone(x, "command", time.time())
    folder = runs.folder(Path(x.tracking.runs_dir), run.identity)
    rows = [row for row in curve_files.read(folder) if "train/loss" in row]
    curve = {row["step"]: row["train/loss"] for row in rows}
    assert len(curve) == len(rows), "a step was written twice"
    return run, curve, load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.mark.usefixtures("nominal_costs")
def test_two_processes_are_as_one_at_the_same_global_batch(small, tmp_path, fast_python) -> None:
    """Losses to 1e-5 after 20 steps, accumulation and a minival look included; the identity is the same, so is every answer.

    Of trees each process has those of its own samples, whole; questions of one picture that two processes have are two trees.
    """
    options = [
        f"trainer.max_steps={STEPS}", "optim.lr=0.01", "trainer.accumulate_grad_batches=2", "trainer.val_every=10",
        "evaluation.verify=false", "data.order=by_image",
    ]
    run_of_one, curve, weights = trained(one := small(*options))
    for layout in ("rows", "trees"):
        two = small(*options, "trainer.devices=2", f"trainer.layout={layout}", f"tracking.runs_dir={tmp_path}/{layout}")
        assert identity(one) == identity(two)
        run_of_two, curve_of_two, weights_of_two = trained(two)
        assert list(curve) == list(curve_of_two) == [9, 19]
        largest = max(abs(curve[step] - curve_of_two[step]) for step in curve)
        print(f"{layout}: largest difference of a loss after {STEPS} steps: {largest:.2e}")
        assert largest < 1e-5
        for name, tensor in weights.items():
            assert torch.allclose(tensor, weights_of_two[name], atol=1e-3), name  # AdamW makes steps of gradients near 0 too
        assert run_of_two.status == runs.FINISHED and run_of_two.facts["data"] == run_of_one.facts["data"]
        assert run_of_two.facts.get("layout", {"used": "rows"})["used"] == layout
        for key in ("dev/accuracy", "train/steps"):
            assert run_of_two.metrics[key] == run_of_one.metrics[key]
        assert run_of_two.metrics["minival/nll"] == pytest.approx(run_of_one.metrics["minival/nll"], abs=1e-4)
    assert "LOCAL_RANK" not in os.environ and not torch.distributed.is_initialized()


def test_a_rank_that_cannot_start_ends_the_run(small, monkeypatch, fast_python) -> None:
    monkeypatch.setattr(ranks, "as_dict", lambda x: {"no": "config"})
    x = small("trainer.devices=2")
    with pytest.raises(ModelError, match="rank 1 did not get ready"):
        running.run_alone(x, "command", time.time())
    assert runs.load(Path(x.tracking.runs_dir), identity(x)).status == runs.FAILED


def test_a_rank_that_dies_is_told(tmp_path) -> None:
    """What the other ranks see of it is a lost connection; the user is told which process ended, and where it printed."""
    dead = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    lost = RuntimeError("Connection reset by peer")
    with pytest.raises(TrainingError, match="rank 1 ended with exit code 3.*log-rank1.txt"):
        ranks.raise_for_dead([dead], tmp_path, lost)
    with pytest.raises(RuntimeError, match="reset by peer"):
        ranks.raise_for_dead([], tmp_path, lost)


def test_devices_share_the_batch_evenly(composer) -> None:
    with pytest.raises(ConfigError, match="trainer.devices=3.*batch_size=8"):
        composer("trainer.devices=3")


def test_the_shares_of_all_ranks_are_the_order_of_one(monkeypatch) -> None:
    """Block by block the same samples, whatever the number of ranks and wherever a run goes on."""
    monkeypatch.setattr(devices, "world", lambda: 4)
    for start in (0, 8):
        order, shares = SeededOrder(20, 3, 2, start), []
        for rank in range(4):
            monkeypatch.setenv("LOCAL_RANK", str(rank))
            shares.append(list(devices.Share(order, 8)))
        blocks = [list(itertools.islice(shares[rank], 2 * k, 2 * k + 2)) for k in range(len(order) // 8) for rank in range(4)]
        assert list(itertools.chain(*blocks)) == list(order)[: len(order) // 8 * 8]
