"""Other launchers of Hydra's run the arms of one sweep: one record, one MLflow run of the sweep, true statuses, the same exit code."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
from pathlib import Path

import pytest

from lab import train
from lab.config import Tracking
from lab.errors import ConfigError
from lab.store import runs
from lab.store.runs import Run, Sweep
from lab.sweeping import other_launchers
from lab.sweeping.arms import Arm
from lab.sweeping.launcher import grid
from lab.tracking.mlflow_sync import MlflowSync

pytestmark = pytest.mark.usefixtures("nominal_costs")

PLUGINS = {"joblib": "hydra_plugins.hydra_joblib_launcher", "submitit_local": "hydra_plugins.hydra_submitit_launcher"}


@pytest.fixture
def overrides(tmp_path, tiny_folder, migrated, blank_figures) -> list[str]:
    """A small experiment on the command line, its files in `tmp_path`."""
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return [
        f"model.path={tiny_folder}", "data.num_train=16", "data.num_minival=8", "data.num_dev=8", "trainer.max_steps=2",
        "trainer.batch_size=4", "evaluation.latency_examples=0", "evaluation.verify=false", f"tracking.runs_dir={tmp_path}/runs",
        f"tracking.cache_dir={tmp_path}/cache", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
    ]


def only_sweep(runs_dir: Path) -> Sweep:
    (sweep,) = runs.all_sweeps(runs_dir)
    return sweep


@pytest.mark.filterwarnings("ignore:Query string argument:sqlalchemy.exc.SAWarning")
@pytest.mark.parametrize("launcher", ["submitit_local", pytest.param("joblib", marks=pytest.mark.bar)])
def test_the_arms_of_a_sweep_are_tied_to_its_one_run(launcher, overrides, tmp_path, monkeypatch, capfd, request) -> None:
    """joblib starts processes that import everything anew; submitit's are forked."""
    if importlib.util.find_spec("hydra_plugins") is None or importlib.util.find_spec(PLUGINS[launcher]) is None:
        pytest.skip(f"{PLUGINS[launcher]} is not installed")
    if launcher == "submitit_local":
        request.getfixturevalue("fast_python")
    overrides[-1] = f"tracking.uri='sqlite:///{tmp_path}/mlflow.db?password=planted'"  # SQLite takes no notice of it
    monkeypatch.chdir(tmp_path)
    assert run_here(monkeypatch, "lora.r=2,3", *overrides, launcher=launcher) == 0
    stdout = capfd.readouterr().out
    sweep = only_sweep(tmp_path / "runs")
    found = [runs.load(tmp_path / "runs", name) for name in sweep.arms]
    assert [(run.name, run.status, run.sweep) for run in found] == [(f"lora.r={r}", runs.FINISHED, sweep.identity) for r in (2, 3)]
    assert f"hydra/launcher={launcher}" in sweep.command and sweep.dials == ["lora.r"] and sweep.ended
    assert len({run.process["pid"] for run in found} - {os.getpid()}) == 2
    assert all(f"lora.r={r}  FINISHED" in stdout for r in (2, 3)) and "compare:" in stdout
    client = MlflowSync(Tracking(uri=f"sqlite:///{tmp_path}/mlflow.db")).client()
    everything = client.search_runs([client.get_experiment_by_name("lab").experiment_id])
    (summary,) = [run for run in everything if run.data.tags["lab.role"] == "sweep"]
    arms = [run for run in everything if "lab.identity" in run.data.tags]
    assert {run.data.tags["lab.sweep"] for run in arms} == {summary.data.tags["lab.sweep"]} == {sweep.identity}
    assert sorted(run.data.params["lora.r"] for run in arms) == [str(r) for r in (2, 3)]
    assert {run.info.status for run in [summary, *arms]} == {"FINISHED"}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"planted" in path.read_bytes()]


def run_here(monkeypatch: pytest.MonkeyPatch, *arguments: str, launcher: str = "basic") -> int:
    """`python -m lab.train ... -m` in this process; Hydra's own launcher runs jobs in it one after another."""
    from hydra.core.global_hydra import GlobalHydra

    from lab.sweeping.launcher import register

    GlobalHydra.instance().clear()
    register()
    for number, stream in ((1, "stdout"), (2, "stderr")):  # as in a process without pytest
        monkeypatch.setattr(sys, stream, open(number, "w", buffering=1, closefd=False))  # noqa: SIM115 (pytest closes them)
    monkeypatch.setattr(sys, "argv", ["lab.train", f"hydra/launcher={launcher}", *arguments, "-m"])
    with pytest.raises(SystemExit) as ended:
        train.main()
    return ended.value.code


def test_an_arm_that_fails_does_not_touch_the_others(overrides, tmp_path, monkeypatch, capfd) -> None:
    """The stock launcher; what an arm prints goes to its folder, and the same command runs only what is missing."""
    asked = ["optim.lr=0.0,0.001", "+foo=1", *overrides, "tracking.enabled=false"]
    assert run_here(monkeypatch, *asked) == 2
    assert "foo" in capfd.readouterr().err and not (tmp_path / "runs").exists()
    asked.remove("+foo=1")
    assert run_here(monkeypatch, *asked) == 1
    sweep = only_sweep(tmp_path / "runs")
    failed, finished = (runs.load(tmp_path / "runs", name) for name in sweep.arms)
    assert (failed.status, finished.status) == (runs.FAILED, runs.FINISHED)
    assert "moves a logit" in failed.error and "moves a logit" in (tmp_path / "runs" / failed.identity / "log.txt").read_text()
    shown = capfd.readouterr()
    assert "1 of 2 arms did not finish" in shown.err and "Traceback" not in shown.err + shown.out
    before = finished.started
    assert run_here(monkeypatch, *asked) == 1
    assert runs.load(tmp_path / "runs", finished.identity).started == before
    assert only_sweep(tmp_path / "runs").identity == sweep.identity


@pytest.mark.usefixtures("fast_python")
def test_a_job_that_failed_is_not_called_completed(overrides, tmp_path, monkeypatch) -> None:
    """submitit reports every job as completed; exit code and status are those of the run."""
    pytest.importorskip(PLUGINS["submitit_local"])
    assert run_here(monkeypatch, "optim.lr=0.0", *overrides, "tracking.enabled=false", launcher="submitit_local") == 1
    (failed,) = (runs.load(tmp_path / "runs", name) for name in only_sweep(tmp_path / "runs").arms)
    assert failed.status == runs.FAILED and "moves a logit" in failed.error


def test_a_process_that_runs_several_arms_changes_none(overrides, tmp_path, monkeypatch) -> None:
    """joblib's workers, and the stock launcher, run one arm after another: their order moves no bit."""
    adapters = []
    for order in ("2,3", "3,2"):
        runs_dir = tmp_path / f"first-{order[0]}"
        own = [f"tracking.runs_dir={runs_dir}", "tracking.enabled=false"]
        assert run_here(monkeypatch, f"lora.r={order}", *overrides, *own) == 0
        arms = [runs.folder(runs_dir, name) for name in only_sweep(runs_dir).arms]
        adapters.append({(arm / "adapter" / "adapter_model.safetensors").read_bytes() for arm in arms})
    assert adapters[0] == adapters[1] and len(adapters[0]) == 2


def test_a_launcher_that_gives_up_leaves_true_statuses(composer, tmp_path, caplog) -> None:
    """One arm was killed, one was never started: neither is called running, and a password was not handed on."""
    x = composer("lora.r=2", f"tracking.runs_dir={tmp_path}")
    killed, waiting = Arm(x, ("lora.r=2",)), Arm(composer("lora.r=3", f"tracking.runs_dir={tmp_path}"), ("lora.r=3",))
    runs.save(tmp_path, Run("killed", "killed", {}, "command", status=runs.RUNNING, process={"pid": 1, "host": "gone"}))
    with caplog.at_level(logging.ERROR):
        other_launchers.record_exit(killed, Run("killed", "lora.r=2", {}, "command"))
        other_launchers.record_exit(waiting, Run("waiting", "lora.r=3", {}, "command"))
    assert runs.load(tmp_path, "killed").status == runs.KILLED and runs.load(tmp_path, "waiting") is None
    assert caplog.messages == ["arm lora.r=2 was killed", "arm lora.r=3 has not started"]
    assert other_launchers.handed_on_override("tracking.uri=http://me:secret@host") == "tracking.uri=http://***@host"
    assert other_launchers.handed_on_override("prompt.template=see http://a:b@c {statement}").endswith("a:b@c {statement}")


def test_a_grid_is_every_combination() -> None:
    assert grid(["lora.r=2,3", "seed=range(0,2)", "data=nlvr"]) == [
        [f"lora.r={r}", f"seed={seed}", "data=nlvr"] for r in (2, 3) for seed in (0, 1)
    ]
    with pytest.raises(ConfigError, match="lora.r=interval"):
        grid(["lora.r=interval(1,4)"])
