"""The arms of a sweep: grouped by what they share, run side by side, each in a run folder of its own.

On a CPU a group is built once and its arms are forked from the process that holds it, one single-threaded arm per core:
a fork starts in milliseconds and sees base, features and tokenised data without a copy. On a GPU arms run one after
another over the resident base. Training code is that of a run alone (`lab.run.run_arm`).
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from lab import config
from lab.config import Experiment, also_asked, as_dict, flat, identity, trains
from lab.errors import BusyError, LabError
from lab.host.files import text_hash
from lab.host.forks import die_with, frozen_heap
from lab.host.progress import Row, bars, board
from lab.host.stopping import EXIT_CODE, REQUEST, Stopped, deferred, requeue, stoppable
from lab.store import runs
from lab.store.runs import Run, Sweep

if TYPE_CHECKING:
    from lab.run import Prepared
    from lab.tracking.background import Trackers

log = logging.getLogger(__name__)

POLL_S = 0.5
"""How often the bar moves and a request to stop is looked for; an arm's end is noticed at once."""


@dataclass(frozen=True)
class Arm:
    """One experiment of a sweep and the overrides that made it."""

    experiment: Experiment
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class SweepSource:
    """Where a sweep comes from: its name, the command line, the question in its file's header, and when it began."""

    name: str
    command: str
    config_name: str
    question: str | None
    started: float

    @classmethod
    def of(cls, config: DictConfig) -> SweepSource:
        """Read Hydra's own record of the command."""
        from lab.cli import process_started, sweep_question

        config_name = str(config.hydra.job.config_name)
        overrides = list(config.hydra.overrides.task)
        chosen = [] if config_name == "train" else ["-cn", config_name]
        how = [one for one in config.hydra.overrides.hydra if not one.startswith("hydra.mode=")]
        command = " ".join(["python -m lab.train", *chosen, *map(quoted, [*how, *overrides]), "-m"])
        name = config_name if chosen else " ".join(o for o in overrides if not o.startswith("tracking.")) or "sweep"
        return cls(name, command, config_name, sweep_question(config_name), process_started())


Launch = Callable[[Sequence[Arm], dict[str, Run], Sweep, SweepSource], None]
"""Runs arms that are missing from a sweep, given their records, and returns when all have ended."""


def quoted(override: str) -> str:
    """An override as a shell takes it."""
    return shlex.quote(override)


def arm_command(config_name: str, arm: Arm) -> str:
    """What to type to get one arm alone."""
    chosen = [] if config_name == "train" else ["-cn", config_name, "hydra.mode=RUN"]
    return " ".join(["python -m lab.train", *chosen, *map(quoted, arm.overrides)])


def differing(experiments: Sequence[Experiment]) -> list[str]:
    """Config keys whose values are not the same in all experiments; names that only label an option are left out."""
    flats = [flat(as_dict(x)) for x in experiments]
    changed = [key for key in config.differing(flats) if not key.startswith("tracking.")]
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


def run_sweep(arms: Sequence[Arm], origin: SweepSource, max_arms: int | None = None, launch: Launch | None = None) -> int:
    """Run what is missing of a sweep, deliver it to the tracker, print the summary; 0 if every arm finished, else 1.

    launch: runs arms in another way than over shared bases (`lab.sweeping.elsewhere`).
    Raises `ConfigError` or `ModelError` before anything is loaded for an arm whose dials cannot be had together, and
    `ConfigError` before any arm trains if arms differ in what `sweep.require` names; 1 if it shows only at the end.
    """
    from lab import run as running
    from lab.sweeping import ledger
    from lab.tracking.background import BackgroundSync, Trackers

    arms = drop_duplicates(arms)
    for arm in arms:
        running.check(arm.experiment)
    section = arms[0].experiment.tracking
    runs_dir = Path(section.runs_dir)
    dials = differing([arm.experiment for arm in arms])
    named = [(arm_name(arm.experiment, dials), arm.experiment) for arm in arms]
    ready = ledger.before(named, runs_dir)  # raises if the arms break `sweep.require`
    sweep = new_sweep(arms, origin, runs_dir)
    trackers = Trackers(section)
    records = {}
    for arm in arms:
        record = running.new_run(arm.experiment, arm_command(origin.config_name, arm), sweep.identity)
        record.name = arm_name(arm.experiment, sweep.dials)
        known = runs.look(runs_dir, record.identity)
        if known is not None and known.status == runs.UNREADABLE:
            log.error("arm %s is left out: %s", record.name, known.error)
        elif running.reusable(arm.experiment, known):
            log.info("%s is finished already (runs/%s); trainer.if_finished=again trains it anew", record.name, record.identity)
        else:
            records[record.identity] = record
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        if identity(arm.experiment) in records:
            groups.setdefault(running.shared_key(arm.experiment), []).append(arm)
    log.info("sweep %s: %d arms, %d to run, %d shared bases", sweep.identity, len(arms), len(records), len(groups))
    stopped_here = False
    with BackgroundSync(trackers, sweep.arms, sweep.identity), stoppable():
        try:
            if launch is not None:
                launch([arm for group in groups.values() for arm in group], records, sweep, origin)
                groups = {}
            for key, group in groups.items():
                checked = run_group(group, records, origin.started, max_arms, alone=len(groups) == 1, prepared=ready.get(key))
                sweep.facts["self_check"] = [*sweep.facts.get("self_check", []), *checked]
        except Stopped as stopped:
            log.warning("%s", stopped)
            requeue()
            stopped_here = True
        finally:
            sweep.ended = runs.now()
            runs.save_sweep(runs_dir, sweep)
    code = conclude(sweep, trackers, origin.started)
    return EXIT_CODE if code and stopped_here else code or ledger.after(named, runs_dir)


def drop_duplicates(arms: Sequence[Arm]) -> list[Arm]:
    """Arms of different identity; what a repeated one asks is asked of the first, with a warning."""
    kept: dict[str, Arm] = {}
    for arm in arms:
        name = identity(arm.experiment)
        if name in kept:
            log.warning("%s trains the same run as %s: it is trained once", " ".join(arm.overrides), " ".join(kept[name].overrides))
            arm = replace(kept[name], experiment=also_asked(kept[name].experiment, as_dict(arm.experiment)))
        kept[name] = arm
    return list(kept.values())


def sweep_identity(experiments: Sequence[Experiment]) -> str:
    """Ten hexadecimal digits that name a sweep: the hash of its arms' names in order, each once."""
    return text_hash(" ".join(dict.fromkeys(map(identity, experiments))), digits=10)


def new_sweep(arms: Sequence[Arm], origin: SweepSource, runs_dir: Path) -> Sweep:
    """Write the sweep's record. The same arms asked for again are the same sweep."""
    ids = [identity(arm.experiment) for arm in arms]
    name = sweep_identity([arm.experiment for arm in arms])
    dials = differing([arm.experiment for arm in arms]) if len(arms) > 1 else []
    sweep = Sweep(name, origin.name, origin.command, ids, dials, origin.question, started=runs.now())
    runs.save_sweep(runs_dir, sweep)
    return sweep


def run_group(
    group: Sequence[Arm], records: dict[str, Run], started: float, max_arms: int | None, alone: bool,
    prepared: Prepared | None = None,
) -> list[str]:
    """Build what a group shares, then run its arms; return what the self-check found.

    An error before training ends the sweep, or only this group of several.
    """
    import torch

    from lab import run as running

    try:
        prepared = prepared or running.prepare(group[0].experiment, bars())
        for arm in group:
            running.try_out(arm.experiment, prepared)
            prepared.encoded(arm.experiment, bars())
        warn_of_equal_arms([(records[identity(arm.experiment)].name, arm.experiment) for arm in group], prepared)
    except LabError as error:
        for arm in group:
            running.fail(arm.experiment, records[identity(arm.experiment)], error)
        if alone:
            raise
        log.error("%s", error)
        return []
    todo = [(arm.experiment, records[identity(arm.experiment)]) for arm in group]
    cores = len(os.sched_getaffinity(0))
    if torch.cuda.is_available() and group[0].experiment.trainer.accelerator != "cpu":
        one_after_another(todo, prepared, started)
    else:
        threads = max(x.trainer.threads * x.trainer.devices for x, _ in todo)
        width = max_arms or running.max_concurrent_arms([x for x, _ in todo], prepared, max(1, cores // threads))
        side_by_side(todo, prepared, started, width)
    ended = [(x, runs.look(Path(x.tracking.runs_dir), record.identity)) for x, record in todo]
    finished = [(x, known) for x, known in ended if known is not None and known.status == runs.FINISHED]
    running.interleaved_latency(finished, prepared, bars())
    return checked(todo, prepared)


def warn_of_equal_arms(named: Sequence[tuple[str, Experiment]], prepared: Prepared) -> None:
    """Warn of arms that would train the same model on the same inputs under several names."""
    from lab import run as running
    from lab.report.alike import Realised, alike, told

    for members in alike([Realised(name, as_dict(x), running.realised(x, prepared)) for name, x in named]):
        log.warning("%s", told(members))


def checked(todo: Sequence[tuple[Experiment, Run]], prepared: Prepared) -> list[str]:
    """What the self-check says of the first arm that trained, if it was asked for."""
    from lab.sweeping.selfcheck import self_check, told

    for x, record in todo:
        if x.sweep.self_check and trains(x) and len(todo) > 1:
            difference = self_check(x, prepared)
            return [] if difference is None else [told(difference, record.name)]
    return []


def one_after_another(todo: Sequence[tuple[Experiment, Run]], prepared: Prepared, started: float) -> None:
    """Run arms in this process over the resident base; one arm's crash does not touch the next."""
    from lab import run as running

    for x, record in todo:
        log.info("arm %s", record.name)
        try:
            running.run_arm(x, prepared, record, started, bars(), interleaved=True)
        except BusyError as error:
            log.error("arm %s: %s", record.name, error)
        except BaseException as error:
            running.fail(x, record, error)
            if not isinstance(error, Exception):
                raise
            log.exception("arm %s failed", record.name)
            prepared.vlm.model = prepared.vlm.bare


def side_by_side(todo: Sequence[tuple[Experiment, Run]], prepared: Prepared, started: float, width: int) -> None:
    """Fork one process per arm, `width` at a time; follow them until the last has ended."""
    from lab import run as running

    context = multiprocessing.get_context("fork")
    waiting = list(todo)
    living: dict[str, tuple[BaseProcess, Experiment, Run]] = {}
    begun: dict[str, tuple[int, float]] = {}
    told = False
    running.warm()
    with board() as draw, deferred(), frozen_heap():
        while living or (waiting and not REQUEST.asked):
            if REQUEST.asked and not told:
                told = True
                log.warning("asked to stop: the arms keep a checkpoint each")
                for process, _, _ in living.values():
                    process.terminate()
            while waiting and len(living) < width and not REQUEST.asked:
                x, record = waiting.pop(0)
                process = context.Process(target=child, args=(x, prepared, record, started, os.getpid()), name=record.name)
                process.start()
                living[record.identity] = (process, x, record)
            multiprocessing.connection.wait([process.sentinel for process, _, _ in living.values()], POLL_S)
            draw(rows(todo, living, begun))
            for name, (process, x, record) in list(living.items()):
                if process.exitcode is not None:
                    record_exit(process.exitcode, x, record)
                    del living[name]


def record_exit(exitcode: int, x: Experiment, record: Run) -> None:
    """Tell the truth about an arm whose process is gone without having said how it ended."""
    from lab import run as running

    known = runs.look(Path(x.tracking.runs_dir), record.identity)
    if known is not None and known.status != runs.RUNNING:
        if known.status != runs.FINISHED:
            log.error("arm %s %s: %s (log: %s)", record.name, known.status, known.error, log_path(x, record))
        return
    if runs.is_held(runs.folder(Path(x.tracking.runs_dir), record.identity)):
        log.error("arm %s is being run by another process; it was left to it", record.name)
        return
    what = signal.Signals(-exitcode).name if exitcode < 0 else f"exit code {exitcode}"
    running.fail(x, known or record, SystemExit(f"the arm's process ended with {what}"))
    log.error("arm %s was killed (%s)", record.name, what)


def child(x: Experiment, prepared: Prepared, record: Run, started: float, parent: int) -> None:
    """An arm's own process: what it prints goes to `log.txt` of its run folder."""
    import torch

    from lab import run as running

    path = log_path(x, record)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(x.trainer.threads)
    try:
        with stoppable():
            die_with(parent)
            running.run_arm(x, prepared, record, started, interleaved=True)
    except BusyError as error:
        print(error, flush=True)
        raise SystemExit(1) from None
    except BaseException as error:
        running.fail(x, record, error)
        traceback.print_exc()
        raise SystemExit(1) from None


def log_path(x: Experiment, record: Run) -> Path:
    """Where an arm's process writes what it prints."""
    return runs.folder(Path(x.tracking.runs_dir), record.identity) / "log.txt"


def rows(
    todo: Sequence[tuple[Experiment, Run]], living: Mapping[str, tuple[BaseProcess, Experiment, Run]], begun: dict[str, tuple[int, float]]
) -> list[Row]:
    """How far all arms are, in optimizer steps, and each living one. begun: the last step and loss of each that has begun, kept here."""
    begun |= {name: step_and_loss(x, record) for name, (_, x, record) in living.items()}
    total = sum(x.trainer.max_steps or 0 for x, _ in todo if trains(x))
    ended = f"{len(begun) - len(living)} ended"
    drawn = [Row(f"{len(todo)} arms", sum(step for step, _ in begun.values()), total or None, ended)]
    for name, (_, x, record) in living.items():
        step, loss = begun[name]
        steps = x.trainer.max_steps if trains(x) else 0
        note = "answering" if steps is not None and step >= steps else f"loss {loss:.3f}" if step else "starting"
        drawn.append(Row(record.name, step, steps, note))
    return drawn


def step_and_loss(x: Experiment, record: Run) -> tuple[int, float]:
    """The last optimizer step of an arm's curve and its loss; 0 before the first."""
    kept = [row for row in runs.curves(runs.folder(Path(x.tracking.runs_dir), record.identity)) if "train/loss" in row]
    return (int(kept[-1]["step"]) + 1, kept[-1]["train/loss"]) if kept else (0, 0.0)


def conclude(sweep: Sweep, trackers: Trackers, started: float) -> int:
    """Print the summary of a sweep and put its report into MLflow; 0 if every arm finished, `EXIT_CODE` if arms were stopped on request, else 1."""
    from lab.report.summary import summary
    from lab.tracking.links import of_sweep

    runs_dir = trackers.mlflow.runs_dir
    print(summary(runs_dir, sweep), flush=True)
    trackers.sweeps.publish(sweep.identity)
    for line in of_sweep(trackers.mlflow, sweep):
        print(line, flush=True)
    for line in sweep.facts.get("self_check", []):
        print(f"check:    {line}", flush=True)
    found = [runs.look(runs_dir, name) for name in sweep.arms]
    firsts = [run.metrics["time/first_metric_s"] for run in found if run is not None and "time/first_metric_s" in run.metrics]
    if firsts:
        print(f"time:     first metric logged after {min(firsts):.1f} s, sweep done after {time.time() - started:.0f} s", flush=True)
    unfinished = [run for run in found if run is None or run.status != runs.FINISHED]
    if not unfinished:
        return 0
    print(f"{len(unfinished)} of {len(sweep.arms)} arms did not finish; the same command runs only those.", file=sys.stderr)
    causes = {None if run is None else (run.error or "").startswith(Stopped.__name__) for run in unfinished}
    return EXIT_CODE if causes in ({True}, {True, None}) else 1
