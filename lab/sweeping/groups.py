"""Arms that share a base: the base is built once, and they run side by side, each in a run folder of its own.

On a CPU the arms are forked from the process that holds what they share, one single-threaded arm per core: a fork starts in
milliseconds and sees base, features and tokenised data without a copy. On a GPU arms run one after another over the resident
base. Training code is that of a run alone (`lab.run.run_arm`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from lab.config import Experiment, as_dict, identity, trains
from lab.errors import BusyError, LabError
from lab.host.forks import FORK, die_with
from lab.host.garbage import frozen_heap
from lab.host.progress import bars, board
from lab.host.scheduling import another, most_beside
from lab.host.stopping import REQUEST, deferred, stoppable
from lab.store import runs
from lab.store.runs import Run
from lab.sweeping.arms import Arm, log_path
from lab.sweeping.progress_rows import rows

if TYPE_CHECKING:
    from lab.run import Prepared
    from lab.sweeping.selfcheck import SelfCheck

log = logging.getLogger(__name__)

POLL_S = 0.5
"""How often the bar moves and a request to stop is looked for; an arm's end is noticed at once."""


@dataclass
class Bases:
    """What arms share, by `lab.run.shared_key`: one base at a time, as several would not fit beside each other.

    checked: bases that the self-check was begun of. checking: one that was begun, and the name of its arm.
    """

    prepared: dict[str, Prepared] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)
    checking: tuple[SelfCheck, str] | None = None

    def of(self, x: Experiment) -> Prepared:
        """The base of an experiment, built in place of another's if it is not there. Raises `LabError`."""
        from lab import run as running

        key = running.shared_key(x)
        if key not in self.prepared:
            self.prepared.clear()
            self.prepared[key] = running.load_shared(x, bars())
        return self.prepared[key]

    def begin_check(self, todo: Sequence[tuple[Experiment, Run]]) -> None:
        """Begin the self-check of the first arm that trains over a base, if it is asked for; once for each base."""
        from lab import run as running
        from lab.sweeping.selfcheck import SelfCheck

        for x, record in todo:
            key = running.shared_key(x)
            if x.sweep.self_check and trains(x) and len(todo) > 1 and key not in self.checked:
                self.checked.add(key)
                self.checking = SelfCheck(x, self.prepared[key]), record.name

    def check(self, todo: Sequence[tuple[Experiment, Run]]) -> list[str]:
        """What the self-check says."""
        from lab.sweeping.selfcheck import describe

        self.begin_check(todo)
        begun, self.checking = self.checking, None
        difference = None if begun is None else begun[0].difference()
        return [] if begun is None or difference is None else [describe(difference, begun[1])]

    def stop_check(self) -> None:
        """Leave a self-check that was begun."""
        begun, self.checking = self.checking, None
        if begun is not None:
            begun[0].stop()


def run_group(
    group: Sequence[Arm], records: dict[str, Run], started: float, bases: Bases, max_arms: int | None = None, alone: bool = True
) -> list[str]:
    """Run arms over the base that they share, those that have a record; measure the latency of all; return what the self-check found.

    alone: an error before training ends the sweep (it is raised); else it ends the arms that it is of.
    """
    from lab import run as running
    from lab.training.devices import on_gpu

    finished_before = [arm.experiment for arm in group if identity(arm.experiment) not in records]
    group = [arm for arm in group if identity(arm.experiment) in records]
    try:
        prepared = bases.of((*(arm.experiment for arm in group), *finished_before)[0])
    except LabError as error:
        return refuse(group, records, error, alone)
    fitting = passing(group, lambda x: running.require_adapter(x, prepared), records, alone)
    if trying := [arm.experiment for arm in fitting]:
        with contextlib.suppress(LabError):  # met again by the arm that it is of
            prepared.encoded(trying[0], bars(), functools.partial(running.beside_features, trying, prepared))
    for stage in (lambda x: running.try_out(x, prepared), lambda x: prepared.encoded(x, bars())):
        fitting = passing(fitting, stage, records, alone)
    if not fitting and not finished_before:
        return []
    warn_of_equal_arms([(records[identity(arm.experiment)].name, arm.experiment) for arm in fitting], prepared)
    todo = [(arm.experiment, records[identity(arm.experiment)]) for arm in fitting]
    if todo and on_gpu(group[0].experiment.trainer):
        one_after_another(todo, prepared, started, group[0].pause_at)
    elif todo:
        cores = arms_at_once([x for x, _ in todo])
        most = max_arms or running.max_concurrent_arms([x for x, _ in todo], prepared, most_beside(len(todo), cores), min(len(todo), cores))
        beside = functools.partial(bases.begin_check, todo)
        try:
            side_by_side(todo, prepared, started, (max_arms or min(cores, most), most), group[0].pause_at, beside)
        except BaseException:
            bases.stop_check()
            raise
    checked = bases.check(todo)
    ended = [(x, runs.look(Path(x.tracking.runs_dir), identity(x))) for x in (*(x for x, _ in todo), *finished_before)]
    finished = [(x, known) for x, known in ended if known is not None and known.status == runs.FINISHED]
    running.interleaved_latency(finished, prepared, bars())
    return checked


def arms_at_once(experiments: Sequence[Experiment]) -> int:
    """How many arms this machine's cores carry side by side; a GPU takes one after another."""
    from lab.training.devices import on_gpu

    if on_gpu(experiments[0].trainer):
        return 1
    return max(1, len(os.sched_getaffinity(0)) // max(x.trainer.threads * x.trainer.devices for x in experiments))


def passing(arms: Sequence[Arm], stage: Callable[[Experiment], object], records: dict[str, Run], alone: bool) -> list[Arm]:
    """The arms that a stage of what precedes training lets pass; the others are refused."""
    passed: list[Arm] = []
    for arm in arms:
        try:
            stage(arm.experiment)
            passed.append(arm)
        except LabError as error:
            refuse(arms if alone else [arm], records, error, alone)
    return passed


def refuse(group: Sequence[Arm], records: dict[str, Run], error: LabError, alone: bool) -> list[str]:
    """Record why arms cannot train; raise the error where it ends the sweep."""
    from lab import run as running

    for arm in group:
        running.fail(arm.experiment, records[identity(arm.experiment)], error)
    if alone:
        raise error
    log.error("%s", error)
    return []


def warn_of_equal_arms(named: Sequence[tuple[str, Experiment]], prepared: Prepared) -> None:
    """Warn of arms that would train the same model on the same inputs under several names."""
    from lab import run as running
    from lab.report.alike import Realised, alike, describe

    for members in alike([Realised(name, as_dict(x), running.realised(x, prepared)) for name, x in named]):
        log.warning("%s", describe(members))


def one_after_another(todo: Sequence[tuple[Experiment, Run]], prepared: Prepared, started: float, pause_at: int | None) -> None:
    """Run arms, to their end or to a rung, in this process over the resident base; one arm's crash does not touch the next."""
    from lab import run as running

    for x, record in todo:
        log.info("arm %s", record.name)
        try:
            running.run_arm(x, prepared, record, started, bars(), interleaved=True, pause_at=pause_at)
        except BusyError as error:
            log.error("arm %s: %s", record.name, error)
        except BaseException as error:
            running.fail(x, record, error)
            if not isinstance(error, Exception):
                raise
            log.exception("arm %s failed", record.name)
            prepared.vlm.model = prepared.vlm.base_model


def side_by_side(
    todo: Sequence[tuple[Experiment, Run]], prepared: Prepared, started: float, width: tuple[int, int], pause_at: int | None,
    beside: Callable[[], None],
) -> None:
    """Fork one process per arm; follow them until the last has ended, or has paused at a rung. width: `cores` and `most` of `another`.

    beside: what is begun, again and again, while the last arms leave a core idle.
    """  # fmt: skip
    from lab import run as running

    waiting = list(todo)
    living: dict[str, tuple[BaseProcess, Experiment, Run]] = {}
    begun: dict[str, tuple[int, float]] = {}
    told = False
    running.warm([x for x, _ in todo], prepared)
    with board() as draw, asked_to_stop(living), deferred(), frozen_heap():
        while living or (waiting and not REQUEST.asked):
            if REQUEST.asked and not told:
                told = True
                log.warning("asked to stop: the arms keep a checkpoint each")
                for process, _, _ in living.values():
                    process.terminate()
            while waiting and not REQUEST.asked and another(len(waiting), [begun.get(name, (0, 0.0))[0] for name in living], *width):
                x, record = waiting.pop(0)
                process = FORK.Process(target=child, args=(x, prepared, record, started, os.getpid(), pause_at), name=record.name)
                process.start()
                living[record.identity] = (process, x, record)
            multiprocessing.connection.wait([process.sentinel for process, _, _ in living.values()], POLL_S)
            draw(rows(todo, living, begun, pause_at))
            if not waiting and len(living) < width[0] and not REQUEST.asked:
                beside()
            for name, (process, x, record) in list(living.items()):
                if process.exitcode is not None:
                    record_exit(process.exitcode, x, record)
                    del living[name]


@contextlib.contextmanager
def asked_to_stop(living: Mapping[str, tuple[BaseProcess, Experiment, Run]]) -> Iterator[None]:
    """Within, a Ctrl-C that is not waited for asks the arms' processes to stop, which Python would wait for."""
    try:
        yield
    except KeyboardInterrupt:
        for process, _, _ in living.values():
            process.terminate()
        raise


def record_exit(exitcode: int, x: Experiment, record: Run) -> None:
    """Tell the truth about an arm whose process is gone without having said how it ended."""
    from lab import run as running

    known = runs.look(Path(x.tracking.runs_dir), record.identity)
    if known is not None and known.status != runs.RUNNING:
        if known.status not in (runs.FINISHED, runs.PAUSED):
            log.error("arm %s %s: %s (log: %s)", record.name, known.status, known.error, log_path(x, record))
        return
    if runs.is_held(runs.folder(Path(x.tracking.runs_dir), record.identity)):
        log.error("arm %s is being run by another process; it was left to it", record.name)
        return
    what = signal.Signals(-exitcode).name if exitcode < 0 else f"exit code {exitcode}"
    running.fail(x, known or record, SystemExit(f"the arm's process ended with {what}"))
    log.error("arm %s was killed (%s)", record.name, what)


def child(x: Experiment, prepared: Prepared, record: Run, started: float, parent: int, pause_at: int | None) -> None:
    """An arm's own process: what it prints goes to `log.txt` of its run folder."""
    import torch

    from lab import run as running

    path = log_path(x, record)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the sweep's process too, which asks the arms to stop
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    torch.set_num_threads(x.trainer.threads)
    try:
        with stoppable():
            die_with(parent)
            running.run_arm(x, prepared, record, started, interleaved=True, pause_at=pause_at)
    except BusyError as error:
        print(error, flush=True)
        raise SystemExit(1) from None
    except BaseException as error:
        running.fail(x, record, error)
        traceback.print_exc()
        raise SystemExit(1) from None
