"""A run from config to results: recomputable numbers, truthful statuses, shared arms equal to arms run alone."""

from __future__ import annotations

import dataclasses
import gc
import json
import logging
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import DataLoader

from lab import run as running
from lab.answers import predictions
from lab.config import Experiment, identity
from lab.errors import ConfigError, DataError, ModelError
from lab.statistics.metrics import summarise
from lab.store import curve_files, runs
from lab.sweeping import arms
from lab.sweeping.sweep import run_sweep
from lab.tracking.mlflow_sync import MlflowSync
from lab.training.learner import Learner

pytestmark = pytest.mark.usefixtures("nominal_costs")


def origin() -> arms.SweepSource:
    return arms.SweepSource("test", "python -m lab.train ... -m", "train", None, time.time())


def sweep(*experiments: Experiment) -> int:
    return run_sweep([arms.Arm(x, (f"lora.r={x.lora.r}",)) for x in experiments], origin(), max_arms=2)


def adapter(x: Experiment) -> dict[str, torch.Tensor]:
    return load_file(runs.folder(Path(x.tracking.runs_dir), identity(x)) / "adapter" / "adapter_model.safetensors")


def losses(x: Experiment) -> list[tuple[float, float]]:
    rows = curve_files.read(runs.folder(Path(x.tracking.runs_dir), identity(x)))
    return [(row["step"], row["train/loss"]) for row in rows if "train/loss" in row]


def test_every_summary_number_is_recomputed_from_the_predictions(small) -> None:
    x = small("evaluation.verify=true")
    run = running.run_alone(x, "command", time.time())
    folder = runs.folder(Path(x.tracking.runs_dir), run.identity)
    assert run.status == runs.FINISHED and run.metrics["verify/passed"] == 1.0
    assert runs.load(Path(x.tracking.runs_dir), run.identity).metrics == run.metrics
    for split, count in (("minival", 8), ("dev", 16)):
        table = predictions.read(folder / "predictions" / f"pairs.{split}.parquet")
        assert len(table.label) == count
        for key, value in summarise(table).items():
            assert run.metrics[f"{split}/{key}"] == pytest.approx(value, abs=0, nan_ok=True)
    assert run.metrics["train/steps"] == 4
    assert not any("latency" in key for key in run.metrics), "evaluation.latency_examples=0"
    assert run.metrics["parameters/trainable"] == sum(tensor.numel() for tensor in adapter(x).values())
    assert run.metrics["visual_tokens/max"] == 16
    assert (folder / "contract.json").is_file()
    assert json.loads((folder / "run.json").read_text())["facts"]["data"]["counts"] == {"train": 32, "minival": 8, "dev": 16}


def test_a_finished_run_is_reused_and_anew_gives_the_same_bits(small, monkeypatch) -> None:
    x = small("lora.lora_dropout=0.1")
    first = running.run_alone(x, "command", time.time())
    weights, curve = adapter(x), losses(x)
    assert running.run_alone(x, "command", time.time() + 99).started == first.started
    again = small("lora.lora_dropout=0.1", "trainer.if_finished=again")
    assert identity(again) == identity(x)
    running.run_alone(again, "command", time.time())
    assert losses(again) == curve
    assert all(torch.equal(adapter(again)[name], tensor) for name, tensor in weights.items())


def test_an_arm_that_a_stop_left_without_latency_is_measured_by_the_same_command(small, monkeypatch) -> None:
    """Without a step; one that was measured is left as it is."""
    both = [small(f"lora.r={r}", "trainer.max_steps=1", "evaluation.latency_examples=3", "evaluation.latency_warmup=0") for r in (2, 4)]
    assert sweep(*both) == 0
    runs_dir = Path(both[0].tracking.runs_dir)
    stopped, measured = (runs.load(runs_dir, identity(x)) for x in both)
    stopped.metrics = {name: value for name, value in stopped.metrics.items() if not name.startswith("latency/")}
    runs.save(runs_dir, stopped)
    monkeypatch.setattr("lab.sweeping.groups.side_by_side", None)
    assert sweep(*both) == 0
    again = runs.load(runs_dir, identity(both[0]))
    assert again.metrics["latency/p50_ms"] > 0 and again.started == stopped.started
    assert runs.load(runs_dir, identity(both[1])).metrics == measured.metrics


def test_zero_shot_is_the_untouched_base(small) -> None:
    run = running.run_alone(small("lora=none", "trainer.max_steps=0"), "command", time.time())
    assert run.status == runs.FINISHED
    assert run.metrics["parameters/trainable"] == 0
    assert "train/steps" not in run.metrics


def test_arms_of_a_sweep_equal_arms_alone_bit_for_bit(small, tmp_path) -> None:
    """Loss curves and final adapters, dropout included, feature cache and forking included."""
    options = [(f"lora.r={r}", "lora.lora_dropout=0.1", "trainer.max_steps=12") for r in (2, 4)]
    together = [small(*option) for option in options]
    assert sweep(*together) == 0
    for option, shared in zip(options, together, strict=True):
        alone = small(*option, f"tracking.runs_dir={tmp_path}/alone", "trainer.feature_cache=false")
        assert identity(alone) == identity(shared)
        running.run_alone(alone, "command", time.time())
        assert losses(alone) == losses(shared) and len(losses(shared)) == 1
        for name, tensor in adapter(alone).items():
            assert torch.equal(tensor, adapter(shared)[name]), name
        files = [runs.folder(Path(x.tracking.runs_dir), identity(x)) / "predictions/pairs.dev.parquet" for x in (alone, shared)]
        tables = [predictions.read(file) for file in files]
        assert (tables[0].log_p_true == tables[1].log_p_true).all()


def test_a_crash_a_divergence_a_full_memory_and_a_kill_do_not_touch_the_others(with_tracker, monkeypatch, caplog) -> None:
    """Statuses are truthful; the same command then runs only what is missing; every arm is in MLflow once, beside one run of the sweep."""
    kinds = {"good": 2, "crashing": 3, "killed": 5, "diverging": 6, "hungry": 7}
    asked = {kind: with_tracker(f"lora.r={r}", "trainer.save_every=1") for kind, r in kinds.items()}
    real, step = running.run_arm, Learner.training_step

    def poisoned(self, batch, batch_idx):
        return step(self, batch, batch_idx) * float("nan")

    def hungry(self, batch, batch_idx):
        if len(batch.sample_ids) > 2:
            raise torch.OutOfMemoryError("simulated at the allocator")
        return step(self, batch, batch_idx)

    def killing(self, batch, batch_idx):
        if self.trainer.global_step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(self, batch, batch_idx)

    def sabotaged(x, *rest, first: bool, **named):
        steps = {6: poisoned, 7: hungry} | ({5: killing} if first else {})
        if first and x.lora.r == 3:
            raise RuntimeError("boom")
        Learner.training_step = steps.get(x.lora.r, step)  # in the arm's own process
        (Path(x.tracking.runs_dir) / f"started-{x.lora.r}-{first}").touch()
        return real(x, *rest, **named)

    monkeypatch.setattr(running, "run_arm", lambda *given, **named: sabotaged(*given, first=True, **named))
    with caplog.at_level(logging.ERROR):
        assert sweep(*asked.values()) == 1
    folder = Path(asked["good"].tracking.runs_dir)
    found = {kind: runs.load(folder, identity(x)) for kind, x in asked.items()}
    assert [run.status for run in found.values()] == [runs.FINISHED, runs.FAILED, runs.KILLED, runs.FAILED, runs.FINISHED]
    assert "boom" in found["crashing"].error and "SIGKILL" in found["killed"].error and "the loss is nan" in found["diverging"].error
    assert found["hungry"].facts["out_of_memory"] == [{"batch_size": 2, "accumulate_grad_batches": 2}]

    monkeypatch.setattr(running, "run_arm", lambda *given, **named: sabotaged(*given, first=False, **named))
    assert sweep(*asked.values()) == 1, "the diverging arm diverges again"
    found = {kind: runs.load(folder, identity(x)) for kind, x in asked.items()}
    assert {kind for kind, run in found.items() if run.status == runs.FINISHED} == set(kinds) - {"diverging"}
    assert sorted(path.name for path in folder.glob("started-*-False")) == [f"started-{r}-False" for r in (3, 5, 6)]
    assert found["killed"].facts["resumed_at_step"] == 2
    client = MlflowSync(asked["good"].tracking).client()
    everything = client.search_runs([client.get_experiment_by_name("lab").experiment_id])
    (summary,) = [run for run in everything if run.data.tags["lab.role"] == "sweep"]
    arms_there = {run.data.params["lora.r"]: run for run in everything if "lab.identity" in run.data.tags}
    assert len(everything) == 1 + len(kinds) and sorted(map(int, arms_there)) == sorted(kinds.values())
    assert {run.data.tags["lab.sweep"] for run in arms_there.values()} == {summary.data.tags["lab.sweep"]}
    assert not any("mlflow.parentRunId" in run.data.tags for run in everything)
    assert {r: run.info.status for r, run in arms_there.items()} == {
        str(r): "FAILED" if kind == "diverging" else "FINISHED" for kind, r in kinds.items()
    }


def test_the_tracker_shows_dials_metrics_and_curves(with_tracker) -> None:
    x = with_tracker("trainer.max_steps=20", "evaluation.latency_examples=2")
    running.run_alone(x, "python -m lab.train", time.time())
    courier = MlflowSync(x.tracking)
    assert courier.deliver(identity(x)) and courier.deliver(identity(x))
    client = courier.client()
    (run,) = client.search_runs([client.get_experiment_by_name("lab").experiment_id])
    assert run.data.params["lora.r"] == "16" and run.data.params["vision_tokens.name"] == "native"
    for key in ("dev/accuracy", "dev/ece", "latency/p50_ms", "latency/examples_per_second", "memory/peak_mb"):
        assert key in run.data.metrics
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert [point.step for point in history if point.step] == [step for step, _ in losses(x)]
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"run.json", "contract.json", "predictions", "adapter"} <= artifacts


def test_a_tracker_away_loses_nothing(with_tracker, tmp_path, migrated, caplog) -> None:
    x = with_tracker("tracking.uri=http://127.0.0.1:9")
    running.run_alone(x, "command", time.time())
    away = MlflowSync(x.tracking)
    with caplog.at_level(logging.WARNING):
        assert not away.deliver(identity(x)) and not away.deliver(identity(x))
    assert sum("does not answer" in record.message for record in caplog.records) == 1
    shutil.copy(migrated, tmp_path / "later.db")
    back = MlflowSync(dataclasses.replace(x.tracking, uri=f"sqlite:///{tmp_path}/later.db"))
    assert back.deliver(identity(x))
    (run,) = back.client().search_runs([back.client().get_experiment_by_name("lab").experiment_id])
    assert run.info.status == "FINISHED" and "dev/accuracy" in run.data.metrics


def test_an_adapter_without_effect_is_an_error(small) -> None:
    x = small("optim.lr=0.0")
    with pytest.raises(ModelError, match="moves a logit"):
        running.run_alone(x, "command", time.time())
    assert runs.load(Path(x.tracking.runs_dir), identity(x)).status == runs.FAILED


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["lora.target_modules=nothing.*"], ConfigError, "lora.target_modules.*no module of this model matches"),
        (["lora.target_modules='('"], ConfigError, "neither a preset"),
        (["lora.init_lora_weights=magic"], ConfigError, "lora.init_lora_weights=magic"),
        (["data=nlvr", "data.root=/nowhere"], DataError, "/nowhere"),
        (["model.path=./nowhere"], ModelError, "no such folder"),
        (["vision_tokens.budget=4"], ConfigError, "vision_tokens=native takes no budget"),
        (["vision_tokens=resize", "vision_tokens.budget=null"], ConfigError, "needs one"),
    ],
)
def test_what_cannot_run_is_told_before_training(small, overrides, error, words) -> None:
    with pytest.raises(error, match=words):
        running.run_alone(small(*overrides), "command", time.time())


def test_epochs_and_early_stopping(small) -> None:
    """And a row of the curve for every step that is logged; before them, what they are expected to take is kept."""
    x = small("trainer.max_steps=null", "trainer.max_epochs=0.5", "trainer.val_every=2", "trainer.patience=1", "optim.lr=1.0", "trainer.log_every=1")
    start = time.time()
    run = running.run_alone(x, "command", start)
    assert run.metrics["train/steps"] <= 8
    seconds = run.facts["planned"]["train"]["seconds"]
    assert 0 < seconds["low"] < seconds["expected"] < seconds["high"] <= 3 * seconds["low"] and "measured just now" in run.facts["planned"]["rates"]
    assert 0 < run.metrics["train/seconds"] < time.time() - start
    assert len(losses(x)) == run.metrics["train/steps"]
    rows = list(curve_files.read(runs.folder(Path(x.tracking.runs_dir), run.identity)))
    assert any("minival/nll" in row for row in rows)


def test_the_self_check_tells_a_shared_base_from_another(small, capsys) -> None:
    """It says bit-identical where it is, and shows the gap where the shared features are not those of the base."""
    from lab.sweeping.selfcheck import SelfCheck, describe

    x = small("lora.lora_dropout=0.1", "tracking.enabled=false")
    prepared = running.prepare(x)
    assert SelfCheck(x, prepared).difference() == 0.0
    for store in prepared.stores.values():
        store.set_shards([dataclasses.replace(shard, values=shard.values * 1.01) for shard in store.shards])
    SelfCheck(x, prepared).stop()
    difference = SelfCheck(x, prepared).difference()
    assert difference > 0.0 and "largest difference" in describe(difference, "arm") and "bit-identical" in describe(0.0, "arm")
    again = [small("lora.lora_dropout=0.1", "tracking.enabled=false", "sweep.self_check=true", f"lora.r={r}") for r in (2, 4)]
    assert sweep(*again) == 0
    printed = capsys.readouterr().out
    assert "check:    shared base against alone, first 3 steps of" in printed
    assert "time:     sweep done after" in printed  # four steps log no metric


def test_loader_workers_are_forked_from_a_heap_that_the_collector_leaves_alone(small, monkeypatch) -> None:
    """Else each comes to hold a copy of every page that the garbage collector marks: of the whole base, in time."""
    frozen, forked = [], DataLoader.__iter__

    def spied(loader: DataLoader):
        if loader.num_workers:
            frozen.append(gc.get_freeze_count())
        return forked(loader)

    monkeypatch.setattr(DataLoader, "__iter__", spied)
    gc.unfreeze()  # what tests/conftest.py has frozen
    try:
        run = running.run_alone(small("trainer.num_workers=1", "trainer.max_steps=2"), "command", time.time())
        assert run.status == runs.FINISHED and frozen and min(frozen) > 0 and gc.get_freeze_count() == 0
    finally:
        gc.freeze()
