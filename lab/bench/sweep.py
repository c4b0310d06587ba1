"""Twelve arms, four ranks by three learning rates: from the command to the finished report, against TRL one arm after another.

Ours is `python -m lab.train ... -m` and `python -m lab.report` as a user types them, once with an empty cache and once with the
cache that this leaves. An arm of TRL's is a process of its own that imports, loads, trains, evaluates on dev by its own metrics
and saves; its data lie ready. Ours does more: minival, latency, the equivalence gate, predictions, a report.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lab import run as running
from lab.bench import bundle, comparing, duel, peer, processes, steps
from lab.bench.figures import Figure
from lab.config import Experiment
from lab.errors import ConfigError
from lab.host.progress import Report, silent

RANKS = (4, 8, 16, 32)
RATES = (2e-4, 6e-4, 1.2e-3)
CALIBRATION_STEPS = 4


def measure(x: Experiment, overrides: list[str], num_arms: int, report: Report = silent) -> list[Figure]:
    """Makespans and peak memory. overrides: those that made `x`. num_arms: how many of TRL's twelve are run in each settings."""
    bundle.require_plain(x)
    if not 1 <= num_arms <= len(RANKS) * len(RATES):
        raise ConfigError(f"--arms {num_arms}: legal are 1 to {len(RANKS) * len(RATES)}.")
    scratch = Path(tempfile.mkdtemp(prefix="bench-sweep-", dir=made(Path(x.tracking.cache_dir))))
    try:
        ours = {when: our_sweep(overrides, scratch, when, report) for when in ("cold", "warm")}
        theirs = their_sweeps(x, scratch, num_arms, report)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return figures(ours, theirs, num_arms)


def made(folder: Path) -> Path:
    """A folder that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder.resolve()


def our_sweep(overrides: list[str], scratch: Path, when: str, report: Report) -> dict[str, processes.Ran]:
    """The sweep and its report, each a command. Cold: the cache folder is new; warm: the one that the cold sweep has filled."""
    places = {"runs_dir": f"{scratch}/runs-{when}", "cache_dir": f"{scratch}/cache", "uri": f"sqlite:///{scratch}/{when}.db"}
    folders = [f"tracking.{key}={place}" for key, place in places.items()]
    grid = [f"lora.r={','.join(map(str, RANKS))}", f"optim.lr={','.join(map(str, RATES))}"]
    here = Path.cwd()
    report("commands of ours", 0 if when == "cold" else 2, 4, f"sweep, {when}")
    command = [sys.executable, "-m", "lab.train", *overrides, *folders, *grid, "-m"]
    train = processes.run(command, here, scratch / f"train-{when}.log")
    report("commands of ours", 1 if when == "cold" else 3, 4, f"report, {when}")
    command = [sys.executable, "-m", "lab.report", "--runs-dir", f"{scratch}/runs-{when}", "--out", f"{scratch}/report-{when}"]
    written = processes.run(command, here, scratch / f"report-{when}.log")
    report("commands of ours", 2 if when == "cold" else 4, 4, "")
    return {"train": train, "report": written}


def their_sweeps(x: Experiment, scratch: Path, num_arms: int, report: Report) -> dict[str, list[processes.Ran]]:
    """Arms through TRL, alone on all cores, at its defaults and at the fastest of the settings tried.

    Raises `BenchError` before any of them runs if the losses of their first steps are not ours.
    """
    cores = len(os.sched_getaffinity(0))
    plain = dataclasses.replace(x, trainer=dataclasses.replace(x.trainer, feature_cache=False))  # TRL has no use for features
    prepared = running.prepare(plain, report)
    arms = [bundle.write(arm, prepared, scratch / f"arm-{i}") for i, arm in enumerate(grid_of(plain, num_arms))]
    ours = steps.through_lightning(next(grid_of(plain, 1)), prepared, CALIBRATION_STEPS)
    del prepared
    defaults = peer.defaults(cores)
    tried = duel.try_all(arms[0], [defaults, *peer.candidates(tuple(sorted({1, cores})))], CALIBRATION_STEPS, report)
    for each, taken in tried.items():
        comparing.require_same_losses(ours.losses, taken.rounds[0].losses, each.name)
    best = duel.fastest({each: taken for each, taken in tried.items() if each != defaults})
    settings = {"TRL, defaults": defaults, f"TRL, best ({best.workers} workers, {best.threads} threads)": best}
    found: dict[str, list[processes.Ran]] = {name: [] for name in settings}
    for i, arm in enumerate(arms):
        for j, (name, each) in enumerate(settings.items()):
            report("arms of TRL's", 2 * i + j, 2 * num_arms, name)
            found[name].append(their_arm(arm, each, scratch))
    report("arms of TRL's", 2 * num_arms, 2 * num_arms, "")
    return found


def grid_of(x: Experiment, num_arms: int) -> Iterator[Experiment]:
    """The first arms of the grid, spread over ranks first: they cost most at the highest rank."""
    points = [(rank, rate) for rate in RATES for rank in RANKS]
    for rank, rate in points[:num_arms]:
        yield dataclasses.replace(x, lora=dataclasses.replace(x.lora, r=rank), optim=dataclasses.replace(x.optim, lr=rate))


def their_arm(arm: Path, settings: peer.Settings, scratch: Path) -> processes.Ran:
    """One arm of TRL's as a command."""
    flags = ["--checkpointing"] if settings.checkpointing else []
    flags += ["--workers", str(settings.workers), "--threads", str(settings.threads), "--adapter", f"{scratch}/trl-adapter"]
    return processes.run([sys.executable, "-m", "lab.bench.peer", str(arm), *flags], Path.cwd(), scratch / "trl.log")


def figures(ours: dict[str, dict[str, processes.Ran]], theirs: dict[str, list[processes.Ran]], num_arms: int) -> list[Figure]:
    """Makespans, ratios and memory."""
    total = len(RANKS) * len(RATES)
    found, spans = [], {}
    for when, commands in ours.items():
        spans[when] = sum(ran.seconds for ran in commands.values())
        found += [
            Figure(f"ours, {when} cache", spans[when], "s", f"{total} arms, command to report"),
            Figure(f"  report, {when} cache", commands["report"].seconds, "s"),
            Figure(f"  peak memory, {when} cache", max(ran.peak_mb for ran in commands.values()), "MiB", "shared pages once"),
        ]
    for name, arms in theirs.items():
        mean = statistics.fmean(ran.seconds for ran in arms)
        how = "all measured" if num_arms == total else f"{num_arms} measured, times {total}"
        found += [
            Figure(f"{name}, one arm", mean, "s", f"mean of {num_arms}"),
            Figure(f"{name}, {total} arms", total * mean, "s", how),
            Figure(f"  peak memory, {name}", max(ran.peak_mb for ran in arms), "MiB", "one arm at a time"),
        ]
        found += [Figure(f"{name} / ours, {when} cache", total * mean / span, "times", how) for when, span in spans.items()]
    return found

