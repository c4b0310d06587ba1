"""Processes are forked from one that computes with several threads, and compute with several threads themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lab.config import Experiment
from lab.host.forks import FORK
from lab.store import runs
from lab.sweeping import arms
from lab.sweeping.sweep import run_sweep

LIMIT_S = 60
ROOT = Path(__file__).parents[1]


@pytest.fixture
def threads():
    """Two, as `trainer.threads=2` has it."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def compute() -> None:
    """By a product and by torch's own loop over several threads."""
    torch.mm(torch.ones(300, 300), torch.ones(300, 300))
    torch.repeat_interleave(torch.arange(100_000), torch.full((100_000,), 3))


def test_forks_of_a_process_that_has_computed_with_threads_compute_with_threads(threads) -> None:
    """Again and again, and the parent goes on."""
    for _ in range(3):
        compute()
        process = FORK.Process(target=compute, daemon=True)
        process.start()
        compute()
        process.join(LIMIT_S)
        hung, _ = process.exitcode is None, process.kill()
        assert not hung and process.exitcode == 0


def test_all_that_forks_does_it_where_threads_are_ended_first() -> None:
    """A context of its own, or `os.fork` before `lab.host.forks` is imported, would hang."""
    own = [path for path in (ROOT / "lab").rglob("*.py") if 'get_context("fork")' in path.read_text() or "os.fork()" in path.read_text()]
    assert [path.relative_to(ROOT).as_posix() for path in own] == ["lab/host/forks.py"]


def leading(experiments: list[Experiment]) -> None:
    """A sweep in a session of its own."""
    os.setsid()
    origin = arms.SweepSource("test", "python -m lab.train ... -m", "train", None, time.time())
    run_sweep([arms.Arm(x, (f"lora.r={x.lora.r}",)) for x in experiments], origin)


def test_arms_with_threads_of_their_own_finish(small) -> None:
    """Of two bases, so that this process has counted, and timed the first base's arm, before it forks the others."""
    chosen = ("trainer.threads=2", "trainer.max_steps=2", "trainer.num_workers=1", "evaluation.latency_examples=10")
    own = (("float32", 2), ("bfloat16", 2), ("bfloat16", 4))  # the second base's arms are alike: they are counted before they are forked
    experiments = [small(*chosen, f"model.dtype={dtype}", f"lora.r={r}") for dtype, r in own]
    process = FORK.Process(target=leading, args=(experiments,))
    process.start()
    process.join(LIMIT_S)
    if process.exitcode is None and process.pid is not None:
        os.killpg(process.pid, signal.SIGKILL)
    assert [run.status for run in runs.all_runs(Path(experiments[0].tracking.runs_dir))] == len(own) * [runs.FINISHED]


GARBAGE = """
import gc
from lab.host.garbage import frozen_heap, importing
def now(): return gc.get_freeze_count() > 0, gc.isenabled()
if {own}: gc.freeze()
try:
    with importing():
        assert not gc.isenabled()
        made = [[each] for each in range(100_000)]
        with importing():
            assert not gc.isenabled()
        raise LookupError
except LookupError:
    assert now() == (True, True)
for _ in range(2):
    with frozen_heap(), frozen_heap():
        assert now() == (True, True)
    assert now() == ({own}, True)
gc.disable()
with importing():
    pass
assert not gc.isenabled()
"""


@pytest.mark.parametrize("own", [False, True])
def test_what_is_imported_is_not_looked_through_and_what_a_user_has_frozen_stays_so(own: bool) -> None:
    subprocess.run([sys.executable, "-c", GARBAGE.format(own=own)], check=True, cwd=ROOT)
