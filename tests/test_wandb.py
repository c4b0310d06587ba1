"""`tracking.also=[wandb]`: what MLflow gets, Weights & Biases gets too, once, and nothing is lost or given away without it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from synthetic_runs import Questions, answers, write_run

from lab.config import AlsoTracked, Tracking
from lab.errors import ConfigError
from lab.store import runs
from lab.tracking.background import Trackers
from lab.tracking.wandb_sync import NOTE, WandbSync


def section(folder: Path) -> Tracking:
    return Tracking(runs_dir=str(folder / "runs"), also=[AlsoTracked.wandb])


def test_a_missing_package_is_named_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, composer) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else object())
    with pytest.raises(ConfigError, match=r"tracking.also=\[wandb\]: the package wandb is not installed"):
        Trackers(composer("tracking.also=[wandb]").tracking)
    Trackers(Tracking())
    Trackers(Tracking(also=[AlsoTracked.wandb], enabled=False))


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_an_ended_run_is_sent_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline, where W&B writes what it would send; the folder is its own record of what that is."""
    for name, value in (("WANDB_MODE", "offline"), ("WANDB_DIR", str(tmp_path)), ("WANDB_API_KEY", "planted" * 6)):
        monkeypatch.setenv(name, value)
    run = write_run(tmp_path / "runs", "one", {"lora.r": 2}, answers(Questions.draw("dev", 40), 0.5))
    run.status = runs.FAILED
    runs.save(tmp_path / "runs", run)

    def sent() -> list[bytes]:
        return [path.read_bytes() for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"))]

    assert WandbSync(section(tmp_path)).deliver("one") and len(sent()) == 1
    assert b"train/loss" in sent()[0] and b"val/accuracy" in sent()[0] and b"arm/accuracy" not in sent()[0]
    run.status = runs.FINISHED
    runs.save(tmp_path / "runs", run)
    assert WandbSync(section(tmp_path)).deliver("one") and WandbSync(section(tmp_path)).deliver("one")
    assert len(sent()) == 2 and b"arm/accuracy" in sent()[1] and b"train/loss" not in sent()[1]
    assert (tmp_path / "runs" / "one" / NOTE).exists()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"planted" in path.read_bytes()]


@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_a_server_that_is_away_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    import wandb

    def away(*_: object, **__: object) -> None:
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", away)
    write_run(tmp_path / "runs", "one", {"lora.r": 2}, answers(Questions.draw("dev", 40), 0.5), curve=False)
    tracker = WandbSync(section(tmp_path))
    assert not tracker.deliver("one") and not tracker.deliver("one")
    assert sum("Weights & Biases" in record.message and "Nothing is lost" in record.message for record in caplog.records) == 1
    assert not (tmp_path / "runs" / "one" / NOTE).exists()
