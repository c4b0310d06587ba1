"""The arms of a sweep through another of Hydra's launchers: joblib, submitit (local or Slurm), or any that is installed.

Each arm is a job of its own, in a process that the launcher starts here or on another machine; it trains as a run alone
does and writes its run folder. The process that asked for the sweep keeps the record, delivers the folders to the tracker
and concludes, as with `hydra/launcher=shared`. `tracking.runs_dir` must be a folder that all machines see. Credentials in
`tracking.uri` are not handed on: a launcher may write what it hands on to files.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import DictConfig, open_dict

from lab.cli import frozen, set_up_logging
from lab.config import identity
from lab.errors import BusyError
from lab.host.redaction import without_secrets
from lab.host.stopping import Stopped, requeue
from lab.store import runs
from lab.store.runs import Run, Sweep
from lab.sweeping.arms import Arm, SweepSource, arm_command, arm_name, log_path
from lab.sweeping.launcher import PLUGINS

log = logging.getLogger(__name__)

POLL_S = 0.5


def launch(
    context: HydraContext, config: DictConfig, todo: Sequence[Arm], records: dict[str, Run], sweep: Sweep, origin: SweepSource
) -> None:
    """Hand arms to the launcher that the config names, wait for all of them, and tell how each has ended."""
    chosen = str(config.hydra.runtime.choices.get("hydra/launcher"))
    work = functools.partial(job, sweep.identity, tuple(sweep.dials), origin.config_name)
    launcher = Plugins.instance().instantiate_launcher(context, work, handed_on(config))
    sys.modules.pop(PLUGINS, None)  # other processes could not import it: they are sent the classes themselves
    stopped: Stopped | None = None
    try:
        ended = launcher.launch([[handed_on_override(one) for one in arm.overrides] for arm in todo], initial_job_idx=0)
        for arm, result in zip(todo, ended, strict=True):
            note(arm, records[identity(arm.experiment)], result)
    except Stopped as error:
        stopped = error
    except Exception as error:  # a launcher raises whatever it likes; what became of the arms, their run folders say
        log.error("hydra/launcher=%s: %s: %s", chosen, type(error).__name__, error)
    for arm in todo:
        record_exit(arm, records[identity(arm.experiment)], waits=stopped is None)
    if stopped is not None:
        raise stopped
    log.info("latency is each arm's own, beside what else its machine did; hydra/launcher=shared measures arms in turn")


def handed_on(config: DictConfig) -> DictConfig:
    """The config as a launcher gets it: without credentials."""
    copy = config.copy()
    with open_dict(copy):
        if copy.tracking.uri is not None:
            copy.tracking.uri = without_secrets(copy.tracking.uri)
        copy.hydra.overrides.task = [handed_on_override(one) for one in copy.hydra.overrides.task]
        copy.hydra.job.override_dirname = without_secrets(copy.hydra.job.override_dirname)
    return copy


def handed_on_override(override: str) -> str:
    """An override as a launcher gets it."""
    return without_secrets(override) if override.lstrip("+").startswith("tracking.uri=") else override


def note(arm: Arm, record: Run, result: JobReturn) -> None:
    """Record an error that ended a job before it came to its arm."""
    from lab import run as running

    try:
        _ = result.return_value  # Hydra raises here what a failed job has raised
    except Exception as error:
        running.fail(arm.experiment, record, error)


def record_exit(arm: Arm, record: Run, waits: bool = True) -> None:
    """Tell how an arm has ended. waits: for one that is still at work, because its launcher has given up before it."""
    from lab import run as running

    runs_dir = Path(arm.experiment.tracking.runs_dir)
    run_dir = runs.folder(runs_dir, record.identity)
    while waits and runs.is_held(run_dir):
        time.sleep(POLL_S)
    known = runs.look(runs_dir, record.identity)
    if runs.is_held(run_dir):
        log.warning("arm %s goes on in a process of its own", record.name)
    elif known is None:
        log.error("arm %s has not started", record.name)
    elif known.status == runs.RUNNING:
        running.fail(arm.experiment, known, SystemExit("the arm's process ended without a word"))
        log.error("arm %s was killed", record.name)
    elif known.status != runs.FINISHED:
        log.error("arm %s %s: %s (log: %s)", record.name, known.status, known.error, log_path(arm.experiment, record))


def job(sweep: str, dials: Sequence[str], config_name: str, composed: DictConfig) -> int:
    """One arm, in the process that a launcher has started for it; what it prints goes to `log.txt` of its run folder."""
    from lab import run as running

    overrides = tuple(HydraConfig.get().overrides.task)
    x = frozen(composed, overrides, config_name)
    arm = Arm(x, overrides)
    record = running.new_run(x, arm_command(config_name, arm), sweep)
    record.name = arm_name(x, dials)
    with printed_to(log_path(x, record)):
        set_up_logging()
        try:
            running.run_alone(x, record.command, time.time(), run=record)
        except BusyError as error:
            log.error("%s", error)
        except Stopped as stopped:
            running.fail(x, record, stopped)
            log.warning("%s", stopped)
            requeue()
        except BaseException as error:
            running.fail(x, record, error)
            log.exception("arm %s failed", record.name)
            if not isinstance(error, Exception):
                raise
    return 0


@contextlib.contextmanager
def printed_to(path: Path) -> Iterator[None]:
    """Within, standard output and error go to a file, also what libraries in C print."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = [(stream, os.dup(stream)) for stream in (1, 2)]
    with path.open("a") as file:
        try:
            for stream, _ in kept:
                os.dup2(file.fileno(), stream)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for stream, copy in kept:
                os.dup2(copy, stream)
                os.close(copy)
