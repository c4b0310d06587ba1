"""What grows: resident memory with the number of examples, makespan with the number of arms, overhead with 300 arms."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from lab.bench import processes
from lab.bench.figures import Figure
from lab.host.progress import Report, silent

EXAMPLES = (1_000, 10_000, 100_000)
ARMS = (1, 2, 4, 8, 24)
MANY = 300
SMALL = ("data=pairs", "data.num_minival=40", "data.num_dev=200", "trainer.max_steps=60")
LEAST = (
    "data=pairs", "data.num_train=16", "data.num_minival=4", "data.num_dev=4", "trainer.max_steps=1", "trainer.batch_size=2",
    "evaluation.latency_examples=1", "evaluation.latency_warmup=0", "evaluation.batch_size=4", "evaluation.verify=false",
)  # fmt: skip
"""An arm that does hardly anything, so that what surrounds it shows."""


class Bench:
    """Commands of this laboratory in a scratch folder of their own."""

    def __init__(self, overrides: list[str], scratch: Path) -> None:
        self.overrides = overrides
        self.scratch = scratch
        self.count = 0

    def run(self, module: str, *arguments: str, many: bool = False) -> processes.Ran:
        """One command with runs and tracker of its own; the cache is shared. many: a multirun."""
        self.count += 1
        here = self.scratch / str(self.count)
        here.mkdir()
        places = {"runs_dir": f"{here}/runs", "cache_dir": f"{self.scratch}/cache", "uri": f"sqlite:///{here}/mlflow.db"}
        folders = [f"tracking.{key}={place}" for key, place in places.items()]
        command = [sys.executable, "-m", module, *arguments, *self.overrides, *folders, *(["-m"] if many else [])]
        return processes.run(command, Path.cwd(), here / "log.txt")


def measure(
    overrides: list[str],
    report: Report = silent,
    examples: tuple[int, ...] = EXAMPLES,
    arms: tuple[int, ...] = ARMS,
    many: int = MANY,
) -> list[Figure]:
    """All of it. overrides: those given by the user, for every command; data are drawn pairs of 64 x 64."""
    scratch = Path(tempfile.mkdtemp(prefix="lab-bench-growth-"))
    try:
        bench = Bench(overrides, scratch)
        return [*of_examples(bench, examples, report), *of_arms(bench, arms, report), *of_many(bench, many, report)]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def of_examples(bench: Bench, numbers: tuple[int, ...], report: Report) -> list[Figure]:
    """Resident memory after training, the data and features being there already."""
    figures, first = [], 0.0
    for done, number in enumerate(numbers):
        report("memory against examples", done, len(numbers), f"{number:,}")
        arguments = ("memory", *SMALL, f"data.num_train={number}")
        bench.run("lab.bench.growing", *arguments)  # draws the data and fills the cache
        found = json.loads(bench.run("lab.bench.growing", *arguments).output.splitlines()[-1])
        own, mapped = found["own"], found["mapped"]
        first = first or own
        figures += [
            Figure(f"own memory, {number:,} examples", own, "MiB", f"{100 * (own / first - 1):+.1f} % against the first"),
            Figure(f"mapped files, {number:,} examples", mapped, "MiB", "libraries, features; given back when memory is short"),
        ]
    report("memory against examples", len(numbers), len(numbers), "")
    return figures


def of_arms(bench: Bench, numbers: tuple[int, ...], report: Report) -> list[Figure]:
    """Makespan of sweeps of more and more equal arms, from the command to its end."""
    figures = []
    for done, number in enumerate(numbers):
        report("makespan against arms", done, len(numbers), f"{number} arms")
        seeds = ",".join(map(str, range(number)))
        seconds = bench.run("lab.train", *SMALL, "data.num_train=400", f"seed={seeds}", many=True).seconds
        figures += [
            Figure(f"makespan, {number} arms", seconds, "s", "60 steps each"),
            Figure(f"makespan an arm, {number} arms", seconds / number, "s"),
        ]
    report("makespan against arms", len(numbers), len(numbers), "")
    return figures


def of_many(bench: Bench, number: int, report: Report) -> list[Figure]:
    """What an arm costs besides its own work and Hydra's, from the difference between many arms and one."""
    rates = [f"{1e-4 * (1 + i / number):.8f}" for i in range(number)]
    report(f"{number} arms", 0, 4, "Hydra alone")
    grids = [f"optim.lr={','.join(some)}" for some in (rates[:1], rates)]
    alone = ("compose", *LEAST, "hydra/launcher=basic", "hydra/sweeper=basic")
    hydra = [bench.run("lab.bench.growing", *alone, grid, many=True).seconds for grid in grids]
    report(f"{number} arms", 2, 4, "all arms")
    ours = [bench.run("lab.train", *LEAST, grid, many=True).seconds for grid in grids]
    report(f"{number} arms", 3, 4, "one arm's work")
    work = json.loads(bench.run("lab.bench.growing", "work", *LEAST).output.splitlines()[-1])["seconds"]
    report(f"{number} arms", 4, 4, "")
    cores = len(os.sched_getaffinity(0))
    an_arm, composing = ((all_of - one) / (number - 1) for one, all_of in (ours, hydra))
    return [
        Figure(f"{number} arms of one step", ours[1], "s", "command to its end"),
        Figure("an arm more", 1e3 * an_arm, "ms", f"of {number} arms"),
        Figure("  its own work", 1e3 * work / cores, "ms", f"{1e3 * work:.0f} ms alone, {cores} cores"),
        Figure("  Hydra's own", 1e3 * composing, "ms", "an empty job of a multirun"),
        Figure("  overhead", 1e3 * (an_arm - work / cores - composing), "ms", "the rest"),
    ]
