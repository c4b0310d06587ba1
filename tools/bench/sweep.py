"""Twelve arms, four ranks by three learning rates: from the command to the finished report, against TRL one arm after another.

Ours is `python -m lab.train ... -m` and `python -m lab.report` as a user types them, once with an empty cache and once with the
cache that this leaves. An arm of TRL's is a process of its own that imports, loads, trains, evaluates on dev by its own metrics
and saves; its data lie ready. Ours does more: minival, latency, the equivalence gate, predictions, a report.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import run as running
from lab.bench import steps
from lab.bench.results import BenchError, Figure, Round
from lab.config import Experiment
from lab.errors import ConfigError
from lab.host.progress import Report, silent
from tools.bench import bundle, head_to_head, plain_baseline, trl_baseline
from tools.bench.interleaved_runs import interleave

RANKS = (4, 8, 16, 32)
RATES = (2e-4, 6e-4, 1.2e-3)
GRID = [(rank, rate) for rate in RATES for rank in RANKS]
CALIBRATION_STEPS = 4


def seconds_of(command: Sequence[str]) -> float:
    """How long a Python command takes. Raises `BenchError` if it ends with another code than 0."""
    start = time.perf_counter()
    ended = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ended.returncode:
        tail = "\n".join(ended.stdout.splitlines()[-15:])
        raise BenchError(f"{' '.join(command)} ended with exit code {ended.returncode}:\n{tail}")
    return time.perf_counter() - start


def measure(x: Experiment, overrides: Sequence[str], num_arms: int, report: Report = silent) -> list[Figure]:
    """Makespans and ratios. overrides: those that made `x`. num_arms: how many of TRL's twelve are run in each settings."""
    bundle.require_plain(x)
    if not 1 <= num_arms <= len(GRID):
        raise ConfigError(f"--arms {num_arms}: legal are 1 to {len(GRID)}.")
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as scratch:
        ours = {when: our_sweep(overrides, Path(scratch), when) for when in ("cold", "warm")}
        return makespans(ours, their_arms(x, Path(scratch), num_arms, report), num_arms)


def our_sweep(overrides: Sequence[str], scratch: Path, when: str) -> float:
    """The sweep and its report, each a command. Cold: the cache folder is new; warm: the one that the cold sweep has filled."""
    places = {"runs_dir": f"{scratch}/runs-{when}", "cache_dir": f"{scratch}/cache", "uri": f"sqlite:///{scratch}/{when}.db"}
    folders = [f"tracking.{key}={place}" for key, place in places.items()]
    grid = [f"lora.r={','.join(map(str, RANKS))}", f"optim.lr={','.join(map(str, RATES))}"]
    train = seconds_of(["-m", "lab.train", *overrides, *folders, *grid, "-m"])
    return train + seconds_of(["-m", "lab.report", "--runs-dir", places["runs_dir"], "--out", f"{scratch}/report-{when}"])


def interleaved(x: Experiment, overrides: Sequence[str], rounds: int, report: Report = silent) -> dict[str, Any]:
    """Rounds of our sweep with an empty cache, of one arm of TRL's at its defaults, of one at its best and of one of a plain loop, times twelve."""
    bundle.require_plain(x)
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as scratch:
        (files,), settings, tried, ours = peers(x, Path(scratch), 1, report)
        threads = settings["best"].threads
        plain = interleave({"plain": plain_baseline.PlainArm(files, threads)}, 1, CALIBRATION_STEPS, report)["plain"].rounds
        gap = max(head_to_head.gap(ours.losses, one.losses) for one in [*tried.values(), *plain])
        ratios: dict[str, list[float]] = {name: [] for name in (*settings, "plain")}
        seconds: dict[str, list[float]] = {name: [] for name in ("ours", *ratios)}
        stage = "rounds of twelve arms"
        for done in range(rounds):
            place = Path(scratch) / f"round-{done}"
            place.mkdir()
            seconds["ours"].append(our_sweep(overrides, place, "cold"))
            report(stage, done, rounds, f"ours {seconds['ours'][-1]:.0f} s")
            arms = {name: trl_baseline.command(files, each, place) for name, each in settings.items()}
            for name, command in {**arms, "plain": plain_baseline.command(files, threads, place)}.items():
                seconds[name].append(seconds_of(command))
                ratios[name].append(len(GRID) * seconds[name][-1] / seconds["ours"][-1])
                report(stage, done, rounds, f"{name} {seconds[name][-1]:.0f} s an arm, {ratios[name][-1]:.2f} times as long")
            report(stage, done + 1, rounds, ", ".join(f"{name} {values[-1]:.2f}" for name, values in ratios.items()))
    return {"ratios": ratios, "loss_gap": gap, "seconds": seconds, "best": settings["best"].name}


def their_arms(x: Experiment, scratch: Path, num_arms: int, report: Report) -> dict[str, list[float]]:
    """Seconds of arms through TRL, alone on all cores, at its defaults and at the fastest of the settings tried.

    Raises `BenchError` before any of them runs if the losses of their first steps are not ours.
    """
    files, settings, tried, ours = peers(x, scratch, num_arms, report)
    for name, one in tried.items():
        head_to_head.require_same_losses(ours.losses, one.losses, name)
    names = {"default": "TRL, defaults", "best": f"TRL, best ({settings['best'].workers} workers, {settings['best'].threads} threads)"}
    return {names[name]: [seconds_of(trl_baseline.command(one, each, scratch)) for one in files] for name, each in settings.items()}


def peers(
    x: Experiment, scratch: Path, num_arms: int, report: Report
) -> tuple[list[Path], dict[str, trl_baseline.Settings], dict[str, Round], Round]:
    """Bundles of the first arms, TRL's settings `default` and `best`, first steps in all settings that were tried, and ours."""
    cores = len(os.sched_getaffinity(0))
    plain = dataclasses.replace(x, trainer=dataclasses.replace(x.trainer, feature_cache=False))  # TRL has no use for features
    prepared = running.prepare(plain, report)
    points = GRID[:num_arms]  # spread over ranks first: arms cost most at the highest rank
    arms = [
        dataclasses.replace(plain, lora=dataclasses.replace(x.lora, r=rank), optim=dataclasses.replace(x.optim, lr=rate))
        for rank, rate in points
    ]
    files = [bundle.write(arm, prepared, scratch / f"arm-{i}") for i, arm in enumerate(arms)]
    ours = steps.through_lightning(arms[0], prepared, CALIBRATION_STEPS)
    del prepared
    defaults, candidates = trl_baseline.defaults(cores), trl_baseline.candidates(tuple(sorted({1, cores})))
    tried = head_to_head.try_all(files[0], [defaults, *candidates], CALIBRATION_STEPS, report)
    settings = {"default": defaults, "best": head_to_head.fastest({each: tried[each] for each in candidates})}
    return files, settings, {each.name: measured.rounds[0] for each, measured in tried.items()}, ours


def makespans(ours: dict[str, float], theirs: dict[str, list[float]], num_arms: int) -> list[Figure]:
    """Makespans and their ratios."""
    how = "all measured" if num_arms == len(GRID) else f"{num_arms} measured, times {len(GRID)}"
    figures = [Figure(f"ours, {when} cache", span, "s", f"{len(GRID)} arms, command to report") for when, span in ours.items()]
    for name, seconds in theirs.items():
        total = len(GRID) * statistics.fmean(seconds)
        figures.append(Figure(f"{name}, {len(GRID)} arms", total, "s", how))
        figures += [Figure(f"{name} / ours, {when} cache", total / span, "times", how) for when, span in ours.items()]
    return figures
