"""`python -m lab.bench.growing`: one process of `lab.bench --growth`, whose memory or time is then known. Prints JSON.

    memory KEY=VALUE ...   prepare and train; resident memory afterwards
    work KEY=VALUE ...     what one arm's own work takes, in a process that has everything in memory
    compose KEY=VALUE -m   Hydra alone: every job is composed and does nothing
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from lab.cli import register, shipped
from lab.config import Experiment

REPEATS = 5


def experiment(overrides: list[str]) -> Experiment:
    """The experiment as composed."""
    from hydra import compose, initialize_config_dir

    from lab.freezing import freeze

    register()
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        return freeze(compose("train", overrides=overrides))


def resident() -> dict[str, float]:
    """Memory of this process in 2^20 bytes: its own, and that of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) / 2**10 for line in lines if line.endswith("kB")}
    return {"own": found["RssAnon"], "mapped": found["RssFile"] + found["RssShmem"]}


def memory(x: Experiment) -> dict[str, float]:
    """Resident memory once the arm has trained."""
    from lab import run as running
    from lab.run.assembly import attached
    from lab.training import loop

    prepared = running.prepare(x)
    with attached(x, prepared.vlm) as vlm, tempfile.TemporaryDirectory(prefix="lab-bench-") as folder:
        loop.train(x, vlm, prepared.encoded(x), Path(folder), time.time())
        return {"examples": float(len(prepared.splits.train)), **resident()}


def work(x: Experiment) -> dict[str, float]:
    """Seconds of one arm over a prepared base, median of several."""
    from lab import run as running

    prepared = running.prepare(x)
    seconds = []
    for seed in range(REPEATS):
        one = dataclasses.replace(x, seed=seed)
        start = time.perf_counter()
        running.run_arm(one, prepared, running.new_run(one, "lab.bench"), time.time(), in_turn=True)
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds)}


def compose_only() -> None:
    """A Hydra program over the same configuration whose jobs do nothing."""
    import hydra
    from omegaconf import DictConfig

    register()

    @hydra.main(version_base="1.3", config_path=str(shipped("conf")), config_name="train")
    def nothing(_: DictConfig) -> None:
        """One job."""

    nothing()


def main() -> None:
    """Do what the first argument says."""
    what = sys.argv.pop(1)
    if what == "compose":
        compose_only()
        return
    act = {"memory": memory, "work": work}[what]
    print(json.dumps(act(experiment(sys.argv[1:]))))


if __name__ == "__main__":
    main()
