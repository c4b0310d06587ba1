"""Stopped at any moment and started again, a run ends as one that was never stopped: weights, curves, scores, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from kills import PowerCut, campaign, cut, essence

from lab import run as running
from lab.config import Experiment, identity
from lab.errors import BusyError, ContractError, ModelError, TrainingError
from lab.host.stopping import EXIT_CODE, Stopped
from lab.store import curve_files, runs
from lab.training import callbacks, capacity, checkpoints
from lab.training.checkpoints import BrokenCheckpoint, Checkpoint
from lab.training.learner import Learner
from lab.training.ordering import SeededOrder
from lab.training.resuming import CheckpointCallback

pytestmark = pytest.mark.usefixtures("nominal_costs")

FULL = (
    "lora.lora_dropout=0.1", "trainer.max_steps=12", "trainer.save_every=5", "trainer.val_every=3", "trainer.patience=9",
    "trainer.restore_best=true", "trainer.batch_size=2", "trainer.accumulate_grad_batches=2", "evaluation.verify=false",
    "tracking.enabled=false", "data.num_train=40", "data.num_minival=8", "data.num_dev=8", "evaluation.latency_examples=0",
)


def alone(x: Experiment) -> runs.Run:
    return running.run_alone(x, "command", time.time())


def folder(x: Experiment) -> Path:
    return runs.folder(Path(x.tracking.runs_dir), identity(x))


@pytest.fixture(scope="module")
def whole(composer, tiny_folder, tmp_path_factory):
    """What the uninterrupted run leaves, and its folder of features."""
    path = tmp_path_factory.mktemp("whole")
    x = composer(f"model.path={tiny_folder}", *FULL, f"tracking.runs_dir={path}/runs", f"tracking.cache_dir={path}/cache")
    alone(x)
    return essence(x), path / "cache"


@pytest.fixture
def reference(whole, small):
    """What the uninterrupted run leaves, and a maker of the same experiment elsewhere."""
    left, cache = whole
    return left, lambda *more: small(*FULL, f"tracking.cache_dir={cache}", *more)


@pytest.mark.parametrize(("hook", "step"), [("on_train_batch_start", 3), ("on_train_batch_start", 11), ("on_validation_end", 6)])
def test_a_run_cut_in_training_ends_as_the_whole_one(reference, monkeypatch, hook, step) -> None:
    whole, make = reference
    x = make()
    cut(monkeypatch, CheckpointCallback, hook, lambda trainer: trainer.global_step == step)
    with pytest.raises(PowerCut):
        alone(x)
    assert checkpoints.newest(folder(x)) is not None or step < 5
    again = alone(x)
    assert essence(x) == whole
    assert len(again.facts["interruptions"]) == 1
    kept = (step - 1) // 5 * 5 if hook == "on_validation_end" else step // 5 * 5
    assert again.facts.get("resumed_at_step", 0) == kept


def test_a_run_cut_in_evaluation_does_not_train_again(reference, monkeypatch) -> None:
    whole, make = reference
    x = make()
    import lab.run.arm as arm

    with monkeypatch.context() as patch:
        patch.setattr(arm, "evaluate", lambda *_, **__: (_ for _ in ()).throw(PowerCut()))
        with pytest.raises(PowerCut):
            alone(x)
    assert checkpoints.newest(folder(x)).facts["ended"]
    monkeypatch.setattr(Learner, "training_step", None)
    alone(x)
    assert essence(x) == whole


def test_a_broken_checkpoint_falls_back_to_the_one_before(reference, monkeypatch, caplog) -> None:
    whole, make = reference
    x = make()
    cut(monkeypatch, CheckpointCallback, "on_train_batch_start", lambda trainer: trainer.global_step == 11)
    with pytest.raises(PowerCut):
        alone(x)
    newest, before = checkpoints.saved(folder(x))
    newest.write_bytes(newest.read_bytes()[:-200])
    run = alone(x)
    assert run.facts["resumed_at_step"] == 5 == int(before.stem.removeprefix("step-"))
    assert "going on from the one before" in caplog.text and newest.name in caplog.text
    assert essence(x) == whole


def test_nothing_but_trained_weights_and_state_is_kept(reference, monkeypatch) -> None:
    """A checkpoint holds the trained weights and twice as much optimizer state, no base; the last two are kept."""
    _, make = reference
    x = make()
    cut(monkeypatch, CheckpointCallback, "on_train_batch_start", lambda trainer: trainer.global_step == 11)
    with pytest.raises(PowerCut):
        alone(x)
    trainable = runs.load(Path(x.tracking.runs_dir), identity(x)).metrics["parameters/trainable"]
    found = checkpoints.newest(folder(x))
    assert sum(tensor.numel() for tensor in found.group("weights").values()) == trainable
    assert {name.rpartition(".")[2] for name in found.group("optimizer")} == {"step", "exp_avg", "exp_avg_sq"}
    assert [path.stem for path in checkpoints.saved(folder(x))] == ["step-00000010", "step-00000005"]


def test_a_resume_under_other_conditions_is_refused(reference, monkeypatch) -> None:
    whole, make = reference
    x = make()
    cut(monkeypatch, CheckpointCallback, "on_train_batch_start", lambda trainer: trainer.global_step == 7)
    with pytest.raises(PowerCut):
        alone(x)
    path = folder(x) / "contract.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps({**described, "padding_side": "right"}))
    with pytest.raises(ContractError, match='padding_side: trained with "right", now "left"(.|\n)*if_unfinished=restart'):
        alone(x)
    path.write_text(json.dumps(described))
    kept = checkpoints.newest(folder(x))
    checkpoints.save(folder(x), Checkpoint(kept.tensors, {**kept.facts, "alike": {"samples": "others"}}), 2)
    with pytest.raises(ContractError, match="samples: then others, now"):
        alone(x)
    alone(make("trainer.if_unfinished=restart"))
    assert essence(x) == whole


def test_a_time_limit_ends_in_a_checkpoint_and_one_that_has_passed_at_once(reference, monkeypatch) -> None:
    whole, make = reference
    x = make("trainer.max_time=01:00:00")
    with pytest.raises(Stopped, match="stopped by trainer.max_time=01:00:00$"):
        running.run_alone(x, "command", time.time() - 3600)
    real = Learner.training_step

    def late(self, batch, batch_idx):
        if self.trainer.global_step == 7:
            os.kill(os.getpid(), signal.SIGALRM)
        return real(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "training_step", late)
        with pytest.raises(Stopped, match="stopped by trainer.max_time=01:00:00 after step 8 of 12; the same command goes on from there"):
            alone(x)
    assert runs.load(Path(x.tracking.runs_dir), identity(x)).status == runs.KILLED
    alone(make())
    assert essence(x) == whole


def test_sigterm_ends_in_a_checkpoint_of_that_step(reference, monkeypatch) -> None:
    whole, make = reference
    x = make("trainer.save_every=null")
    real = Learner.training_step

    def terminated(self, batch, batch_idx):
        if self.trainer.global_step == 7:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "training_step", terminated)
        with pytest.raises(Stopped, match="stopped by SIGTERM after step 8 of 12"):
            alone(x)
    assert checkpoints.newest(folder(x)).step == 8
    assert alone(x).facts["resumed_at_step"] == 8
    assert essence(x) == whole


def test_ctrl_c_keeps_a_checkpoint_of_that_step_and_again_stops_at_once(reference, monkeypatch) -> None:
    """Lightning answers it by exit code 1 and has it ignored from then on."""
    whole, make = reference
    x, real, before = make("trainer.save_every=null"), Learner.training_step, signal.signal(signal.SIGINT, signal.default_int_handler)
    times = {7: 1, 10: 2}

    def interrupted(self, batch, batch_idx):
        for _ in range(times.pop(self.trainer.global_step, 0)):
            signal.raise_signal(signal.SIGINT)
        return real(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "training_step", interrupted)
        with pytest.raises(KeyboardInterrupt, match="stopped by Ctrl-C after step 8 of 12; the same command goes on from there"):
            alone(x)
        assert runs.load(Path(x.tracking.runs_dir), identity(x)).status == runs.KILLED
        with pytest.raises(KeyboardInterrupt):
            alone(x)
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler
    assert checkpoints.newest(folder(x)).step == 8
    assert alone(x).facts["resumed_at_step"] == 8
    assert essence(x) == whole


def test_slurm_is_asked_to_start_the_job_again(monkeypatch, tmp_path) -> None:
    """Called by its path with the job's number, and with nothing else that the environment might hold."""
    from lab.host.stopping import requeue

    fake = tmp_path / "scontrol"
    fake.write_text(f"#!/bin/sh\necho \"$@\" >> {tmp_path}/asked\n")
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for job in ("", "12; rm -rf /", "4711"):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        requeue()
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"


def test_a_loss_that_is_no_number_names_its_samples(reference, monkeypatch) -> None:
    _, make = reference
    x = make("trainer.val_every=null", "trainer.patience=null", "trainer.restore_best=false")
    real, seen = Learner.training_step, []

    def poisoned(self, batch, batch_idx):
        seen.append(list(batch.sample_ids))
        loss = real(self, batch, batch_idx)
        return loss * float("nan") if len(seen) == 6 else loss

    monkeypatch.setattr(Learner, "training_step", poisoned)
    with pytest.raises(TrainingError, match=r"loss is nan.*not_finite.json"):
        alone(x)
    assert json.loads((folder(x) / callbacks.NOT_FINITE).read_text())["sample_ids"] == seen[5]
    assert runs.load(Path(x.tracking.runs_dir), identity(x)).status == runs.FAILED


def test_out_of_memory_goes_on_with_smaller_batches(reference, monkeypatch, caplog) -> None:
    """An allocator that gives no more than one sample's worth from step 6 on: as many samples per step, and it says so."""
    _, make = reference
    x = make()
    real = Learner.training_step

    def hungry(self, batch, batch_idx):
        if self.trainer.global_step >= 6 and len(batch.sample_ids) > 1:
            raise torch.OutOfMemoryError("simulated at the allocator")
        return real(self, batch, batch_idx)

    monkeypatch.setattr(Learner, "training_step", hungry)
    run = alone(x)
    assert run.status == runs.FINISHED and run.metrics["train/steps"] == 12 and run.metrics["train/batch_size"] == 1
    assert run.facts["out_of_memory"] == [{"batch_size": 1, "accumulate_grad_batches": 4}]
    assert "out of memory: going on with trainer.batch_size=1, trainer.accumulate_grad_batches=4" in caplog.text
    assert [row["step"] for row in curve_files.read(folder(x)) if "train/loss" in row] == [9]
    monkeypatch.setattr(Learner, "training_step", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("always")))
    with pytest.raises(ModelError, match="one sample does not fit"):
        alone(make("seed=5"))


def test_the_choice_of_gradient_checkpointing_goes_with_the_run(reference, monkeypatch, tmp_path, caplog) -> None:
    """Begun where memory is short, gone on with where it is not: as if it had never moved."""
    _, make = reference
    stays, moves = (make(f"tracking.runs_dir={tmp_path}/{name}") for name in ("stays", "moves"))
    with monkeypatch.context() as patch:
        patch.setattr(capacity, "total", lambda *_: 1e6)
        prepared = running.prepare(stays)
        run = running.run_arm(stays, prepared, running.new_run(stays, "command"), time.time())
        cut(patch, CheckpointCallback, "on_train_batch_start", lambda trainer: trainer.global_step == 11)
        with pytest.raises(PowerCut):
            alone(moves)
    assert "so gradient checkpointing is on" in caplog.text
    chosen = run.facts["gradient_checkpointing"]
    assert chosen["on"] and chosen["by"] == "memory plan" and chosen["device_gb"] == 0.001
    modules = list(prepared.vlm.base_model.modules())
    assert not any(getattr(module, "gradient_checkpointing", False) for module in modules), "the base is left as it was"
    assert not prepared.vlm.base_model.get_input_embeddings()._forward_hooks
    again = alone(moves)
    assert again.facts["gradient_checkpointing"] | {"on": True, "by": "checkpoint"} == again.facts["gradient_checkpointing"]
    assert again.facts["resumed_at_step"] == 10
    assert essence(moves) == essence(stays)
    assert not alone(make("seed=5", "trainer.max_steps=1", "trainer.val_every=1")).facts["gradient_checkpointing"]["on"]


def test_one_process_at_a_time_and_stale_runs_are_told(small, monkeypatch) -> None:
    x = small("tracking.enabled=false")
    with runs.held(folder(x)):
        ready = subprocess.run(
            [sys.executable, "-c", "import sys; from pathlib import Path; from lab.store import runs\n"
             "try:\n    runs.held(Path(sys.argv[1]), 0.1).__enter__()\nexcept runs.BusyError as error:\n    print(error)", str(folder(x))],
            capture_output=True, text=True, check=True,
        )
        assert "another process is at work" in ready.stdout
        with pytest.raises(BusyError), runs.held(folder(x), 0.0):
            pass
        record = running.new_run(x, "command")
        assert runs.truthful(Path(x.tracking.runs_dir), record).status == runs.RUNNING
    stale = runs.truthful(Path(x.tracking.runs_dir), record)
    assert stale.status == runs.KILLED and "gone without a word" in stale.error


def test_the_order_of_samples_begins_anywhere() -> None:
    whole = list(SeededOrder(7, 3, 4))
    for start in (0, 1, 6, 7, 8, 20, 28):
        part = SeededOrder(7, 3, 4, start)
        assert list(part) == whole[start:] and len(part) == 28 - start


def test_a_checkpoint_is_what_was_written(tmp_path) -> None:
    tensors = {"a.x": torch.randn(3, 2), "a.y": torch.tensor(7.0), "rng": torch.arange(9, dtype=torch.uint8)}
    tensors["b"] = torch.ones(2, dtype=torch.bfloat16)
    path = checkpoints.save(tmp_path, Checkpoint(tensors, {"step": 3, "x": [1.1, None, float("inf")]}), 1)
    back = checkpoints.read(path)
    assert back.facts == {"step": 3, "x": [1.1, None, float("inf")]}
    assert all(torch.equal(back.tensors[name], tensor) and back.tensors[name].dtype == tensor.dtype for name, tensor in tensors.items())
    raw = path.read_bytes()
    broken = [raw[:place] + bytes([raw[place] ^ 4]) + raw[place + 1 :] for place in range(0, len(raw), 37)]
    for bad in (*broken, b"", raw[:-1], raw + b"x", b"\x80\x04\x95" + raw):
        path.write_bytes(bad)
        with pytest.raises(BrokenCheckpoint):
            checkpoints.read(path)


def test_kills_at_random_moments(small, tmp_path) -> None:
    """One sweep here; `python tests/kills.py FOLDER 30 0` does thirty, alone and shared in turn."""
    said = []
    assert campaign(small, tmp_path / "kills", 1, int(time.time()), said.append, kinds=(True,)) == 1, "\n".join(said)


def test_exit_code_is_one_of_its_own() -> None:
    assert Stopped("why").code == EXIT_CODE == 75
