"""What all tests share: one thread, no network, a small random checkpoint, and the real data where it lies."""

from __future__ import annotations

import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from lab.config import Experiment

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True, database=None)
settings.register_profile("local", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two threads beside another busy process are many times slower than one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Qwen2-VL checkpoint of the shipped base's shape with random weights."""
    from tools.pretraining.architecture import make_model
    from tools.pretraining.tokenizer import make_processor

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    processor = make_processor()
    make_model(processor, seed=1).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def composer() -> Callable[..., Experiment]:
    """Compose an experiment from conf/ and overrides, as the door does."""
    from lab.cli import compose
    from lab.sweeping.launcher import register

    register()
    return lambda *overrides, config_name="train": compose(overrides, config_name)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store with its tables made: copying it saves seconds a test."""
    MlflowClient = pytest.importorskip("mlflow").MlflowClient
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def small(
    composer: Callable[..., Experiment], tiny_folder: Path, tmp_path: Path, migrated: Path
) -> Callable[..., Experiment]:
    """Compose a small experiment on the random checkpoint whose files all go to `tmp_path`."""
    shutil.copy(migrated, tmp_path / "mlflow.db")

    def make(*overrides: str) -> Experiment:
        return composer(
            f"model.path={tiny_folder}",
            "data.num_train=64",
            "data.num_minival=16",
            "data.num_dev=32",
            "trainer.max_steps=4",
            "trainer.batch_size=4",
            "evaluation.latency_examples=0",
            "evaluation.latency_warmup=1",
            "evaluation.verify=false",
            "evaluation.batch_size=8",  # latency passes full batches; scores do not depend on it
            "sweep.self_check=false",
            f"tracking.runs_dir={tmp_path}/runs",
            f"tracking.cache_dir={tmp_path}/cache",
            f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
            *overrides,
        )

    return make
