"""The arms of a sweep: grouped by what they share, run side by side, each in a run folder of its own.

On a CPU a group is built once and its arms are forked from the process that holds it, one single-threaded arm per core:
a fork starts in milliseconds and sees base, features and tokenised data without a copy. On a GPU arms run one after
another over the resident base. Training code is that of a run alone (`lab.run.run_arm`).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import multiprocessing
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig
from tqdm import tqdm

from lab import runs
from lab.config import Experiment, as_dict, flat, identity, trains
from lab.errors import LabError
from lab.progress import bars
from lab.runs import Run, Sweep

if TYPE_CHECKING:
    from lab.run import Prepared
    from lab.tracking import Courier

log = logging.getLogger(__name__)

POLL_S = 0.5
DELIVER_S = 5.0


@dataclass(frozen=True)
class Arm:
    """One experiment of a sweep and the overrides that made it."""

    experiment: Experiment
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Origin:
    """Where a sweep comes from: its name, the command line, the question in its file's header, and when it began."""

    name: str
    command: str
    config_name: str
    question: str | None
    started: float

    @classmethod
    def of(cls, config: DictConfig) -> Origin:
        """Read Hydra's own record of the command."""
        from lab.doors import process_started, sweep_question

        config_name = str(config.hydra.job.config_name)
        overrides = list(config.hydra.overrides.task)
        chosen = [] if config_name == "train" else ["-cn", config_name]
        command = " ".join(["python -m lab.train", *chosen, *map(quoted, overrides), "-m"])
        name = config_name if chosen else " ".join(o for o in overrides if not o.startswith("tracking.")) or "sweep"
        return cls(name, command, config_name, sweep_question(config_name), process_started())


def quoted(override: str) -> str:
    """An override as a shell takes it."""
    return shlex.quote(override)


def arm_command(origin: Origin, arm: Arm) -> str:
    """What to type to get one arm alone."""
    chosen = [] if origin.config_name == "train" else ["-cn", origin.config_name, "hydra.mode=RUN"]
    return " ".join(["python -m lab.train", *chosen, *map(quoted, arm.overrides)])


def differing(experiments: Sequence[Experiment]) -> list[str]:
    """Config keys whose values are not the same in all experiments; names that only label an option are left out."""
    flats = [flat(as_dict(x)) for x in experiments]
    keys = [key for key in flats[0] if not key.startswith("tracking.")]
    changed = [key for key in keys if len({repr(values[key]) for values in flats}) > 1]
    names = {key.rpartition(".")[0] for key in changed if key.endswith(".name")}
    beside_name = [key for key in changed if key.rpartition(".")[0] in names and not key.endswith(".name")]
    free = [key for key in beside_name if varies_within_name(flats, key)]
    return [key for key in changed if key not in beside_name or key in free]


def varies_within_name(flats: Sequence[dict[str, Any]], key: str) -> bool:
    """Whether a key takes several values among arms that chose the same option of its dial."""
    dial = key.rpartition(".")[0]
    values: dict[Any, set[str]] = {}
    for one in flats:
        values.setdefault(one[f"{dial}.name"], set()).add(repr(one[key]))
    return any(len(found) > 1 for found in values.values())


def arm_name(x: Experiment, dials: Sequence[str]) -> str:
    """A short name from what differs, such as `lora.r=8`."""
    values = flat(as_dict(x))
    return ", ".join(f"{key.removesuffix('.name')}={values[key]}" for key in dials) or identity(x)


def run_sweep(arms: Sequence[Arm], origin: Origin, max_arms: int | None = None) -> int:
    """Run what is missing of a sweep, deliver it to the tracker, print the summary; 0 if every arm finished, else 1."""
    from lab import run as running
    from lab.tracking import Courier

    arms = distinct(arms)
    section = arms[0].experiment.tracking
    runs_dir = Path(section.runs_dir)
    sweep = new_sweep(arms, origin, runs_dir)
    courier = Courier(section)
    records = {}
    for arm in arms:
        record = running.new_run(arm.experiment, arm_command(origin, arm), sweep.identity)
        record.name = arm_name(arm.experiment, sweep.dials)
        known = runs.load(runs_dir, record.identity)
        if running.reusable(arm.experiment, known):
            log.info("%s is finished already (runs/%s); trainer.if_finished=again trains it anew", record.name, record.identity)
        else:
            records[record.identity] = record
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        if identity(arm.experiment) in records:
            groups.setdefault(running.shared_key(arm.experiment), []).append(arm)
    log.info("sweep %s: %d arms, %d to run, %d shared bases", sweep.identity, len(arms), len(records), len(groups))
    for group in groups.values():
        run_group(group, records, courier, origin.started, max_arms, alone=len(groups) == 1)
    sweep.ended = runs.now()
    runs.save_sweep(runs_dir, sweep)
    for arm in arms:
        courier.deliver(identity(arm.experiment))
    courier.deliver_sweep(sweep.identity)
    return conclude(sweep, courier, origin.started)


def distinct(arms: Sequence[Arm]) -> list[Arm]:
    """Arms of different identity; a repeated one is dropped with a warning."""
    kept: dict[str, Arm] = {}
    for arm in arms:
        name = identity(arm.experiment)
        if name in kept:
            log.warning("%s is the same experiment as %s: run once", " ".join(arm.overrides), " ".join(kept[name].overrides))
        kept.setdefault(name, arm)
    return list(kept.values())


def new_sweep(arms: Sequence[Arm], origin: Origin, runs_dir: Path) -> Sweep:
    """Write the sweep's record. The same arms asked for again are the same sweep."""
    ids = [identity(arm.experiment) for arm in arms]
    name = hashlib.sha256(" ".join(ids).encode()).hexdigest()[:10]
    dials = differing([arm.experiment for arm in arms]) if len(arms) > 1 else []
    sweep = Sweep(name, origin.name, origin.command, ids, dials, origin.question, started=runs.now())
    runs.save_sweep(runs_dir, sweep)
    return sweep


def run_group(
    group: Sequence[Arm], records: dict[str, Run], courier: Courier, started: float, max_arms: int | None, alone: bool
) -> None:
    """Build what a group shares, then run its arms. An error before training ends the sweep, or only this group of several."""
    import torch

    from lab import lora
    from lab import run as running

    try:
        prepared = running.prepare(group[0].experiment, bars())
        for arm in group:
            lora.verify(prepared.vlm, arm.experiment.lora)
            prepared.encoded(arm.experiment, bars())
    except LabError as error:
        for arm in group:
            running.fail(arm.experiment, records[identity(arm.experiment)], error)
        if alone:
            raise
        log.error("%s", error)
        return
    todo = [(arm.experiment, records[identity(arm.experiment)]) for arm in group]
    cores = len(os.sched_getaffinity(0))
    if torch.cuda.is_available() and group[0].experiment.trainer.accelerator != "cpu":
        one_after_another(todo, prepared, courier, started)
    else:
        threads = max(x.trainer.threads for x, _ in todo)
        side_by_side(todo, prepared, courier, started, max_arms or max(1, cores // threads))
        finished = []
        for x, record in todo:
            known = runs.load(Path(x.tracking.runs_dir), record.identity)
            if known is not None and known.status == runs.FINISHED:
                finished.append((x, known))
        if len(todo) > 1:
            running.interleaved_latency(finished, prepared, bars())


def one_after_another(todo: Sequence[tuple[Experiment, Run]], prepared: Prepared, courier: Courier, started: float) -> None:
    """Run arms in this process over the resident base; one arm's crash does not touch the next."""
    from lab import run as running
    from lab.tracking import Background

    for x, record in todo:
        log.info("arm %s", record.name)
        with Background(courier, record.identity):
            try:
                running.run_arm(x, prepared, record, started, bars())
            except Exception as error:
                running.fail(x, record, error)
                log.exception("arm %s failed", record.name)
                prepared.vlm.model = prepared.vlm.bare


def side_by_side(
    todo: Sequence[tuple[Experiment, Run]], prepared: Prepared, courier: Courier, started: float, width: int
) -> None:
    """Fork one process per arm, `width` at a time; follow and deliver them until the last has ended."""
    context = multiprocessing.get_context("fork")
    waiting = list(todo)
    living: dict[str, tuple[BaseProcess, Experiment, Run]] = {}
    delivered = 0.0
    with board(todo) as show:
        while waiting or living:
            while waiting and len(living) < width:
                x, record = waiting.pop(0)
                process = context.Process(target=child, args=(x, prepared, record, started), name=record.name)
                process.start()
                living[record.identity] = (process, x, record)
            time.sleep(POLL_S)
            show(living)
            for name, (process, x, record) in list(living.items()):
                if process.exitcode is not None:
                    settle(process.exitcode, x, record)
                    del living[name]
                    courier.deliver(name)
            if time.monotonic() - delivered > DELIVER_S:
                for name in living:
                    courier.deliver(name)
                delivered = time.monotonic()


def settle(exitcode: int, x: Experiment, record: Run) -> None:
    """Tell the truth about an arm whose process is gone without having said how it ended."""
    from lab import run as running

    known = runs.load(Path(x.tracking.runs_dir), record.identity)
    if known is not None and known.status != runs.RUNNING:
        if known.status == runs.FAILED:
            log.error("arm %s failed: %s (log: %s)", record.name, known.error, log_path(x, record))
        return
    what = signal.Signals(-exitcode).name if exitcode < 0 else f"exit code {exitcode}"
    running.fail(x, known or record, SystemExit(f"the arm's process ended with {what}"))
    log.error("arm %s was killed (%s)", record.name, what)


def child(x: Experiment, prepared: Prepared, record: Run, started: float) -> None:
    """An arm's own process: what it prints goes to `log.txt` of its run folder."""
    import torch

    from lab import run as running

    path = log_path(x, record)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(x.trainer.threads)
    try:
        running.run_arm(x, prepared, record, started)
    except BaseException as error:
        running.fail(x, record, error)
        traceback.print_exc()
        raise SystemExit(1) from None


def log_path(x: Experiment, record: Run) -> Path:
    """Where an arm's process writes what it prints."""
    return runs.folder(Path(x.tracking.runs_dir), record.identity) / "log.txt"


@contextlib.contextmanager
def board(todo: Sequence[tuple[Experiment, Run]]) -> Iterator[Any]:
    """One bar over the optimizer steps of all arms, with each living arm's step and loss beside it."""
    steps = {record.identity: x.trainer.max_steps or 0 for x, record in todo if trains(x)}
    total = sum(steps.values())
    last: dict[str, tuple[int, float]] = {}
    bar = tqdm(total=total or None, desc=f"{len(todo)} arms", unit="step", mininterval=1.0)

    def show(living: dict[str, tuple[BaseProcess, Experiment, Run]]) -> None:
        notes = []
        for name, (_, x, record) in living.items():
            rows = [row for row in runs.curves(runs.folder(Path(x.tracking.runs_dir), name)) if "train/loss" in row]
            if rows:
                last[name] = (int(rows[-1]["step"]) + 1, rows[-1]["train/loss"])
                notes.append(f"{record.name}: step {last[name][0]} loss {last[name][1]:.3f}")
        bar.set_postfix_str("; ".join(notes), refresh=False)
        bar.update(sum(step for step, _ in last.values()) - bar.n)

    yield show
    if total:
        bar.update(total - bar.n)
    bar.close()


def conclude(sweep: Sweep, courier: Courier, started: float) -> int:
    """Print the summary of a sweep; 0 if every arm finished, else 1."""
    from lab.report.summary import summary

    print(summary(courier.runs_dir, sweep, courier.uri), flush=True)
    found = [runs.load(courier.runs_dir, name) for name in sweep.arms]
    firsts = [run.metrics["time/first_metric_s"] for run in found if run is not None and "time/first_metric_s" in run.metrics]
    if firsts:
        print(f"time:     first metric logged after {min(firsts):.1f} s, sweep done after {time.time() - started:.0f} s", flush=True)
    unfinished = [run for run in found if run is None or run.status != runs.FINISHED]
    if unfinished:
        print(f"{len(unfinished)} of {len(sweep.arms)} arms did not finish; the same command runs only those.", file=sys.stderr)
    return 1 if unfinished else 0
