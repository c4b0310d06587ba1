"""Kill a run, or a sweep of two arms, at a random moment and start it again: `python tests/kills.py FOLDER KILLS SEED`.

The suite does a few (tests/test_resume.py); this does as many as asked and prints one line each. A moment is uniform over
the time that the uninterrupted command takes from an empty folder: drawing data, filling the feature cache, training,
checkpointing, evaluation, the equivalence gate. SIGKILL and SIGTERM alternate. The command is then given again until it ends
by itself, and what it leaves must equal the uninterrupted run's to the last bit.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lab.config import Experiment, identity
from lab.store import curve_files, runs

OPTIONS = (
    "lora.lora_dropout=0.1", "trainer.max_steps=6", "trainer.save_every=2", "trainer.val_every=3", "trainer.restore_best=true",
    "trainer.batch_size=2", "trainer.accumulate_grad_batches=2", "tracking.enabled=false", "data.num_train=40",
    "data.num_minival=8", "data.num_dev=16", "evaluation.latency_examples=0",
)
ELSEWHERE = ("quick_latency/", "latency/", "memory/", "time/", "train/seconds", "train/examples_per_second")
"""Metrics of the clock and the machine."""

Make = Callable[..., Experiment]


class PowerCut(BaseException):
    """Ends a run as a kill would, where a test needs it to."""


def cut(monkeypatch, where: type, hook: str, moment) -> None:
    """Cut the power in a hook of the training, where `moment(trainer)` says so, once."""
    real, done = getattr(where, hook), []

    def hooked(self, trainer, *rest):
        real(self, trainer, *rest)
        if not done and moment(trainer):
            done.append(True)
            raise PowerCut

    monkeypatch.setattr(where, hook, hooked)


def require_cut_ends_as(whole: Experiment, x: Experiment, monkeypatch, step: int) -> None:
    """An arm that is cut off after so many steps goes on to what the other left, bit for bit."""
    from lab import run as running
    from lab.training.resuming import CheckpointCallback

    with monkeypatch.context() as patch:
        cut(patch, CheckpointCallback, "on_train_batch_start", lambda trainer: trainer.global_step == step)
        try:
            running.run_alone(x, "command", time.time())
        except PowerCut:
            pass
        else:
            raise AssertionError("the run was not cut off")
    again = running.run_alone(x, "command", time.time())
    assert again.facts["resumed_at_step"] == step and essence(x) == essence(whole)


def essence(x: Experiment) -> dict[str, Any]:
    """All that a run leaves, but for clocks: files as bytes, metrics, curves."""
    runs_dir = Path(x.tracking.runs_dir)
    folder = runs.folder(runs_dir, identity(x))
    run = runs.load(runs_dir, identity(x))
    assert run is not None
    return {
        "status": run.status,
        "metrics": {key: repr(value) for key, value in run.metrics.items() if not key.startswith(ELSEWHERE)},
        "curves": [{key: value for key, value in row.items() if key != "seconds"} for row in curve_files.read(folder)],
        "adapter": {path.name: path.read_bytes() for path in sorted((folder / "adapter").glob("*.safetensors"))},
        "predictions": {path.name: path.read_bytes() for path in sorted((folder / "predictions").iterdir())},
        "left over": [path.name for path in folder.iterdir() if path.name.startswith(".") and path.name != runs.LOCK],
        "checkpoints": (folder / "checkpoints").exists(),
    }


def start(experiments: list[Experiment]) -> multiprocessing.process.BaseProcess:
    """The command, in a process of its own: one run alone, or a sweep."""
    process = multiprocessing.get_context("fork").Process(target=command, args=(experiments,))
    process.start()
    return process


def command(experiments: list[Experiment]) -> None:
    """What `python -m lab.train` does with these experiments; what it prints is thrown away."""
    import torch

    from lab import run as running
    from lab.sweeping import arms
    from lab.sweeping.sweep import run_sweep

    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    torch.set_num_threads(1)
    if len(experiments) == 1:
        running.run_alone(experiments[0], "command", time.time())
    else:
        asked = [arms.Arm(x, (f"lora.r={x.lora.r}",)) for x in experiments]
        sys.exit(run_sweep(asked, arms.SweepSource("kills", "command", "train", None, time.time()), max_arms=2))


def asked_for(make: Make, folder: Path, shared: bool) -> list[Experiment]:
    """The experiments of a command whose files all go to a folder."""
    own = (f"tracking.runs_dir={folder}/runs", f"tracking.cache_dir={folder}/cache")
    return [make(*OPTIONS, *own, f"lora.r={r}") for r in ((2, 4) if shared else (2,))]


def kill_once(make: Make, folder: Path, shared: bool, after_s: float, number: signal.Signals) -> tuple[list[dict[str, Any]], str, int]:
    """Kill a command after some seconds, give it again until it ends; return what it left, what it was at, and the starts."""
    experiments = asked_for(make, folder, shared)
    process = start(experiments)
    process.join(after_s)
    assert process.pid is not None
    if process.exitcode is None:
        os.kill(process.pid, number)
    process.join()
    at = "; ".join(state(x) for x in experiments)
    starts = 1
    while process.exitcode != 0:
        process = start(experiments)
        process.join()
        starts += 1
        assert starts <= 5, f"the command does not end well: exit code {process.exitcode}"
    return [essence(x) for x in experiments], at, starts


def state(x: Experiment) -> str:
    """Where a killed run was, in a few words."""
    runs_dir = Path(x.tracking.runs_dir)
    run = runs.load(runs_dir, identity(x))
    if run is None:
        return "not begun"
    folder = runs.folder(runs_dir, identity(x))
    kept = [path.stem for path in sorted((folder / "checkpoints").glob("step-*"))][-1:]
    return f"{runs.truthful(runs_dir, run).status} {', '.join(kept) or 'no checkpoint'}"


def campaign(
    make: Make, folder: Path, kills: int, seed: int, say: Callable[[str], None] = print, kinds: Sequence[bool] = (False, True),
    signals: Sequence[signal.Signals] = (signal.SIGKILL, signal.SIGTERM),
) -> int:
    """Kill so many commands and return how many ended equal to the uninterrupted one. kinds: whether a sweep, in turn."""
    draw = random.Random(seed)
    references, seconds = {}, {}
    for shared in kinds:
        begin = time.perf_counter()
        experiments = asked_for(make, folder / f"reference-{shared}", shared)
        process = start(experiments)
        process.join()
        assert process.exitcode == 0
        references[shared], seconds[shared] = [essence(x) for x in experiments], time.perf_counter() - begin
    equal = 0
    for i in range(kills):
        shared, number = kinds[i % len(kinds)], signals[i // len(kinds) % len(signals)]
        after_s = draw.uniform(0.3, 0.97) * seconds[shared]
        left, at, starts = kill_once(make, folder / str(i), shared, after_s, number)
        same = left == references[shared]
        equal += same
        say(f"{i + 1}/{kills} {'shared' if shared else 'alone'} {number.name} after {after_s:.1f} s ({at}), {starts} starts: "
            f"{'equal' if same else 'DIFFERS: ' + differing(left, references[shared])}")
    return equal


def differing(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> str:
    """The names of what is not equal."""
    return ", ".join(sorted({key for a, b in zip(left, right, strict=True) for key in a if a[key] != b[key]}))


if __name__ == "__main__":
    from lab.cli import compose
    from lab.sweeping.launcher import register
    from tools.pretraining.architecture import make_model
    from tools.pretraining.tokenizer import make_processor

    register()
    out = Path(sys.argv[1]).absolute()
    out.mkdir(parents=True)
    make_model(make_processor(), seed=1).save_pretrained(out / "base")
    make_processor().save_pretrained(out / "base")

    def make(*overrides: str) -> Experiment:
        return compose([f"model.path={out}/base", *overrides])

    wanted = int(sys.argv[2])
    found = campaign(make, out, wanted, int(sys.argv[3]))
    print(json.dumps({"kills": wanted, "equal": found}))
    sys.exit(0 if found == wanted else 1)
