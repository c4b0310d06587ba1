"""A sweep: its arms in batches, each batch grouped by the base it shares; delivered to the tracker, then concluded."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lab.config import Experiment, Tracking, identity
from lab.host.files import text_hash
from lab.host.progress import bars
from lab.host.stopping import EXIT_CODE, Stopped, limited, requeue, stoppable
from lab.store import runs
from lab.store.runs import Run, Sweep
from lab.sweeping.arms import Arm, SweepSource, arm_command, arm_name, differing, drop_duplicates
from lab.sweeping.groups import Bases, run_group
from lab.tracking.background import BackgroundSync, Trackers

log = logging.getLogger(__name__)

Launch = Callable[[Sequence[Arm], dict[str, Run], Sweep, SweepSource], None]
"""Runs arms that are missing from a sweep, given their records, and returns when all have ended."""


def run_sweep(arms: Sequence[Arm], origin: SweepSource, max_arms: int | None = None, launch: Launch | None = None) -> int:
    """Run what is missing of a sweep, deliver it to the tracker, print the summary; 0 if every arm finished, else 1.

    launch: runs arms in another way than over shared bases (`lab.sweeping.other_launchers`).
    Raises `ConfigError` or `ModelError` before anything is loaded for an arm whose dials cannot be had together or arms that cannot
    race, and `ConfigError` before any arm trains if arms differ in what `sweep.require` names; 1 if it shows only at the end.
    """
    from lab.data import ahead

    arms = drop_duplicates(arms)
    if launch is None:
        ahead.begin(arm.experiment for arm in arms)

    from lab import run as running
    from lab.run import judging
    from lab.sweeping import chaining, ledger, race

    for arm in arms:
        running.check(arm.experiment)
        judging.check(arm.experiment)
    races = any(arm.experiment.sweep.race is not None for arm in arms)
    if races:
        race.check(arms, shared=launch is None)
    section = arms[0].experiment.tracking
    runs_dir = Path(section.runs_dir)
    dials = differing([arm.experiment for arm in arms])
    named = [(arm_name(arm.experiment, dials), arm.experiment) for arm in arms]
    bases = Bases(ledger.before(named, runs_dir))  # raises if the arms break `sweep.require`
    sweep = new_sweep(arms, origin, runs_dir)
    chained = any(arm.start is not None for arm in arms)
    batches = race.stages(arms, sweep.identity, bases) if races else chaining.batches(arms)
    code = run_batches(batches, sweep, origin, section, bases, max_arms, launch, alone=not chained)
    return code or ledger.after(named, runs_dir)


def run_batches(
    batches: Iterable[Sequence[Arm]], sweep: Sweep, origin: SweepSource, section: Tracking, bases: Bases,
    max_arms: int | None = None, launch: Launch | None = None, alone: bool = True,
) -> int:
    """Run what is missing of each batch of a sweep's arms before the next is asked for, deliver, conclude; the exit code.

    alone: an error before training ends a sweep whose arms share one base; else it ends the arm that it is of.
    """
    from lab.run import judging

    trackers = Trackers(section)
    stopped_here, judged, waiting = False, 0, False
    with BackgroundSync(trackers, sweep.arms, sweep.identity) as delivered, stoppable():
        try:
            for arms in batches:
                with limited(arms[0].experiment.trainer.max_time, "trainer.max_time", origin.started):
                    run_missing(arms, sweep, origin, bases, max_arms, launch, alone)
                waiting = True
                judged = max(judged, judging.judge_all([arm.experiment for arm in arms], bars(), origin.started))
                waiting = False
        except Stopped as stopped:
            log.warning("%s", stopped)
            requeue()
            stopped_here = True
        finally:
            sweep.ended = runs.now()
            runs.save_sweep(Path(section.runs_dir), sweep)
    code = conclude(sweep, trackers, origin.started, delivered.published)
    return EXIT_CODE if stopped_here and (code or waiting) else code or judged


def run_missing(
    arms: Sequence[Arm], sweep: Sweep, origin: SweepSource, bases: Bases, max_arms: int | None, launch: Launch | None, alone: bool
) -> None:
    """Run those of some arms that have not finished, and measure the latency of those that a stop has left without."""
    from lab import run as running

    records = missing(arms, sweep, origin)
    groups: dict[str, list[Arm]] = {}
    for arm in arms:
        if identity(arm.experiment) in records or (launch is None and running.lacks_latency(arm.experiment)):
            groups.setdefault(running.shared_key(arm.experiment), []).append(arm)
    log.info("sweep %s: %d arms, %d to run, %d shared bases", sweep.identity, len(arms), len(records), len(groups))
    if launch is not None and records:
        launch([arm for group in groups.values() for arm in group], records, sweep, origin)
    for group in groups.values() if launch is None else ():
        checked = run_group(group, records, origin.started, bases, max_arms, alone and len(groups) == 1)
        sweep.facts["self_check"] = [*sweep.facts.get("self_check", []), *checked]


def missing(arms: Sequence[Arm], sweep: Sweep, origin: SweepSource) -> dict[str, Run]:
    """New records, by identity, of those arms that have not finished and whose folders can be read."""
    from lab import run as running

    records = {}
    for arm in arms:
        record = running.new_run(arm.experiment, arm_command(origin.config_name, arm), sweep.identity)
        record.name = arm_name(arm.experiment, sweep.dials)
        known = runs.look(Path(arm.experiment.tracking.runs_dir), record.identity)
        if known is not None and known.status == runs.UNREADABLE:
            log.error("arm %s is left out: %s", record.name, known.error)
        elif running.reusable(arm.experiment, known):
            log.info("%s is finished already (runs/%s); trainer.if_finished=again trains it anew", record.name, record.identity)
        else:
            records[record.identity] = record
    return records


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


def conclude(sweep: Sweep, trackers: Trackers, started: float, published: bool) -> int:
    """Print the summary of a sweep and put its report into MLflow, unless it is published; 0 if every arm finished or its race stopped it,
    `EXIT_CODE` if arms were stopped on request, else 1.
    """
    from lab.report.race import race_lines
    from lab.report.summary import summary
    from lab.tracking.links import of_sweep

    runs_dir = trackers.mlflow.runs_dir
    print(summary(runs_dir, sweep), flush=True)
    for line in race_lines(runs_dir, sweep.identity):
        print(f"race:     {line}", flush=True)
    if not published:
        trackers.sweeps.publish(sweep.identity)
    for line in of_sweep(trackers.mlflow, sweep):
        print(line, flush=True)
    for line in sweep.facts.get("self_check", []):
        print(f"check:    {line}", flush=True)
    found = [runs.look(runs_dir, name) for name in sweep.arms]
    firsts = [run.metrics["time/first_metric_s"] for run in found if run is not None and "time/first_metric_s" in run.metrics]
    first = f"first metric logged after {min(firsts):.1f} s, " if firsts else ""
    print(f"time:     {first}sweep done after {time.time() - started:.0f} s", flush=True)
    unfinished = [run for run in found if run is None or run.status not in (runs.FINISHED, runs.STOPPED)]
    if not unfinished:
        return 0
    print(f"{len(unfinished)} of {len(sweep.arms)} arms did not finish; the same command runs only those.", file=sys.stderr)
    begun = [None if run is None or run.status == runs.PAUSED else run for run in unfinished]
    causes = {None if run is None else (run.error or "").startswith(Stopped.__name__) for run in begun}
    return EXIT_CODE if causes in ({True}, {True, None}) else 1
