"""All trackers of a command together, and the process beside training that delivers to them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Sequence

from lab.config import AlsoTracked, Tracking
from lab.errors import DataError
from lab.host.forks import FORK
from lab.store import runs
from lab.tracking.delivery import Delivery
from lab.tracking.mlflow_sweep import MlflowSweeps
from lab.tracking.mlflow_sync import MlflowSync
from lab.tracking.system_metrics import SystemMetrics
from lab.tracking.wandb_sync import WandbSync

EVERY_S = 5.0
LATER = 10
"""Niceness of the process: it takes what time the cores have left, such as while this command imports its libraries."""
EXIT_WARNED = 3
"""Exit code of a background process that has told the user that a tracker is away."""


class Trackers:
    """MLflow and those of `tracking.also`. Raises `ConfigError` where the package of one is not installed."""

    def __init__(self, section: Tracking) -> None:
        self.section = section
        self.mlflow = MlflowSync(section)
        self.sweeps = MlflowSweeps(self.mlflow)
        self.others: list[Delivery] = [WandbSync(section)] if section.enabled and AlsoTracked.wandb in section.also else []

    @property
    def user_knows(self) -> bool:
        """Whether the user knows that a tracker is away."""
        return any(tracker.user_knows for tracker in (self.mlflow, *self.others))

    @user_knows.setter
    def user_knows(self, value: bool) -> None:
        for tracker in (self.mlflow, *self.others):
            tracker.user_knows = value

    def deliver_all(self, identities: Sequence[str], sweep: str | None = None, check: bool = False) -> int:
        """Bring the trackers up to date with several runs, then MLflow with their sweep; return how many runs all of them have."""
        if sweep is not None:
            self.sweeps.deliver(sweep)
        done = self.mlflow.deliver_all(identities, check)
        return min([done, *(other.deliver_all(identities, check) for other in self.others)])


class BackgroundSync:
    """Delivers runs every few seconds from a process of its own, so that a slow tracker slows neither a step nor a sweep.

    It is forked before anything heavy is loaded, ends with a last delivery and with the report of the sweep, and outlives a command that is
    killed by just that. Nothing is started where tracking is off. published: whether it has put the report into MLflow.
    """

    def __init__(self, trackers: Trackers, identities: Sequence[str], sweep: str | None = None, every_s: float = EVERY_S) -> None:
        self.trackers = trackers
        self.identities = list(identities)
        self.sweep = sweep
        self.every_s = every_s
        self.published = False

    def __enter__(self) -> BackgroundSync:
        if self.trackers.section.enabled:
            self.there, self.here = FORK.Pipe()
            self.process = FORK.Process(target=self._follow, name="trackers", daemon=True)
            self.process.start()
            self.there.close()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.trackers.section.enabled:
            return
        with contextlib.suppress(BrokenPipeError):  # it has ended already: its exit code says how
            self.here.send_bytes(b"end")
        with contextlib.suppress(EOFError, OSError):  # the same
            reply = json.loads(self.here.recv_bytes())
            self.published = reply["published"]
            self.trackers.mlflow.store.known = reply["experiment"]
        self.process.join()
        self.here.close()
        if self.process.exitcode == EXIT_WARNED:
            self.trackers.user_knows = True
        elif self.process.exitcode != 0:  # it was stopped, as by a SIGTERM to all processes of a job
            self.trackers.deliver_all(self.wanted(), self.sweep)

    def wanted(self) -> list[str]:
        """The runs to deliver; of a sweep those that its record names now, since a search asks for one arm after another."""
        try:
            sweep = None if self.sweep is None else runs.load_sweep(self.trackers.mlflow.runs_dir, self.sweep)
        except DataError:  # its delivery says so
            sweep = None
        return self.identities if sweep is None else sweep.arms

    def _follow(self) -> None:
        os.nice(LATER)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.here.close()  # so that the pipe ends with the parent
        user_knows, trackers = self.trackers.user_knows, Trackers(self.trackers.section)
        trackers.user_knows = user_knows
        machine = SystemMetrics(trackers.mlflow.runs_dir)
        while True:
            wanted = self.wanted()
            machine.record(wanted)
            trackers.deliver_all(wanted, self.sweep)
            if self.there.poll(self.every_s):
                break
        trackers.deliver_all(self.wanted(), self.sweep)
        with contextlib.suppress(EOFError, OSError):  # the command is gone
            self.there.recv_bytes()
            published = self.sweep is not None and trackers.sweeps.publish(self.sweep)
            self.there.send_bytes(json.dumps({"published": published, "experiment": trackers.mlflow.store.known}).encode())
        raise SystemExit(EXIT_WARNED if trackers.user_knows else 0)
