"""What all tests share: one thread, no network, a small random checkpoint, and the real data where it lies."""

from __future__ import annotations

import functools
import gc
import logging
import os
import shutil

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # tests beside this one want the cores that its idle threads would spin on
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import forked_python
import pytest
from hypothesis import settings

from lab.config import Experiment

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True, database=None)  # the same each time; `make bars`: 1,000
settings.register_profile("local", max_examples=1000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_configure() -> None:
    """Until `still_heap` the garbage collector would go through what is imported, a million objects, again and again."""
    gc.disable()


def pytest_collection_finish() -> None:
    """A run counts the operations of one example instead of four, which would be a third of a small run's time."""
    if (accounting := sys.modules.get("lab.run.accounting")) is not None:
        accounting.COUNTED = 1


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two threads beside another busy process are many times slower than one."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def still_heap(one_thread: None) -> None:
    """The garbage collector leaves alone what the laboratory's libraries have made, here and in forks."""
    if "mlflow" in sys.modules:
        import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 (it imports its store late)
    gc.freeze()
    gc.set_threshold(5_000)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def spared() -> Iterator[None]:
    """What no test can see is left out, here and in forks: waiting for the disk, and compiling PEFT's model card for every adapter anew."""
    from jinja2 import Environment

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        patch.setattr(Environment, "compile", functools.cache(Environment.compile))
        yield


@pytest.fixture(scope="session", autouse=True)
def forking_server(still_heap: None, spared: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `forked_python` gives, made before a test has changed anything in this process."""
    return forked_python.start(tmp_path_factory.mktemp("python"))


@pytest.fixture
def quiet_root_logger() -> Iterator[None]:
    """A command configures logging for its process; give pytest its own handlers back."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def fast_python(forking_server: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A `python -m` that need not import the laboratory; what the test starts by `sys.executable` is it too."""
    monkeypatch.setattr(sys, "executable", str(forking_server))
    return sys.executable


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Qwen2-VL checkpoint with random weights: the shipped base's widths, two blocks in the language model and in the tower."""
    from tools.pretraining.architecture import make_model
    from tools.pretraining.tokenizer import make_processor

    folder = tmp_path_factory.mktemp("checkpoint") / "tiny"
    processor = make_processor()
    make_model(processor, seed=1, blocks=2, depth=2).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def composer() -> Callable[..., Experiment]:
    """Compose an experiment from conf/ and overrides, as the door does."""
    from composing import compose

    from lab.sweeping.launcher import register

    register()
    return compose


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow store with its tables made: copying it saves seconds a test."""
    MlflowClient = pytest.importorskip("mlflow").MlflowClient
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def small(
    composer: Callable[..., Experiment], tiny_folder: Path, tmp_path: Path
) -> Callable[..., Experiment]:
    """Compose a small experiment on the random checkpoint whose files all go to `tmp_path`; no tracker."""

    def make(*overrides: str) -> Experiment:
        return composer(
            f"model.path={tiny_folder}",
            "data.num_train=32",
            "data.num_minival=8",
            "data.num_dev=16",
            "trainer.max_steps=4",
            "trainer.batch_size=4",
            "evaluation.latency_examples=0",
            "evaluation.latency_warmup=1",
            "evaluation.verify=false",
            "evaluation.batch_size=16",
            "sweep.self_check=false",
            "tracking.enabled=false",
            f"tracking.runs_dir={tmp_path}/runs",
            f"tracking.cache_dir={tmp_path}/cache",
            f"tracking.uri=sqlite:///{tmp_path}/mlflow.db",
            *overrides,
        )

    return make


@pytest.fixture(scope="module")
def nominal_costs() -> Iterator[None]:
    """Every arm costs the same: counting takes a third of a small run, and these tests ask how it trains or what it answers."""
    from collections import Counter

    from lab.costs.counting import Cost, CostModel, Kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CostModel, "cost", lambda *_: Cost(Counter(llm=1e9), Kept(plain=3e6, between=1e6, largest=1e6)))
        yield


@pytest.fixture
def export_asked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """The script by which an export is asked without the laboratory runs in this process, which has Transformers imported."""
    import runpy
    import subprocess

    from lab.run import exporting

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", command[2:])
            runpy.run_path(command[2], run_name="__main__")
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(exporting.subprocess, "run", run)


@pytest.fixture
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of this process have blank figures."""
    import blank_figures

    blank_figures.use(monkeypatch)


@pytest.fixture
def with_tracker(small: Callable[..., Experiment], tmp_path: Path, migrated: Path, blank_figures: None) -> Callable[..., Experiment]:
    """`small`, with the tracker, whose reports have blank figures."""
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return lambda *overrides: small("tracking.enabled=true", *overrides)
