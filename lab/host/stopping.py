"""A run that is asked to stop: SIGTERM, a time limit. It keeps a checkpoint and ends with a code of its own.

SIGTERM is what Slurm, a container's host and `kill` send. Where a checkpoint can be kept the request is only noted
(`deferred`) and honoured at the next optimizer step; elsewhere the work is left at once.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from types import FrameType

log = logging.getLogger(__name__)

EXIT_CODE = 75
"""sysexits.h's EX_TEMPFAIL: nothing is wrong, the same command goes on."""


class Stopped(SystemExit):
    """The run ends before its end, on request; what it has done is kept. Passes through `except Exception`."""

    def __init__(self, why: str) -> None:
        super().__init__(EXIT_CODE)
        self.why = why

    def __str__(self) -> str:
        return self.why


class Request:
    """Whether this process has been asked to stop, and whether that waits for the next optimizer step."""

    def __init__(self) -> None:
        self.asked = False
        self.waits = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self.waits:
            raise Stopped(f"stopped by {signal.Signals(number).name}")

    def install(self) -> None:
        """Become the handler of SIGTERM; does nothing outside the main thread, where Python allows none."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self)


REQUEST = Request()


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within, SIGTERM raises `Stopped`; so does one that came to a forked process before it got here."""
    before = signal.getsignal(signal.SIGTERM)
    REQUEST.waits = False
    REQUEST.install()
    try:
        if REQUEST.asked:
            raise Stopped("stopped by SIGTERM")
        yield
    finally:
        REQUEST.asked = False
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def deferred() -> Iterator[Request]:
    """Within, SIGTERM is only noted in the request that this gives. A request that nobody honoured is raised at the end."""
    REQUEST.waits = True
    try:
        yield REQUEST
    finally:
        REQUEST.waits = False
    if REQUEST.asked:
        raise Stopped("stopped by SIGTERM")


def requeue() -> None:
    """Under Slurm, ask for the job to be started again, so that it goes on by itself where `--requeue` allows it."""
    job = os.environ.get("SLURM_JOB_ID", "")
    scontrol = shutil.which("scontrol")
    if not re.fullmatch(r"[0-9_]+", job) or scontrol is None:
        return
    done = subprocess.run([scontrol, "requeue", job], capture_output=True, text=True, check=False)
    if done.returncode:
        log.warning("scontrol requeue %s: %s", job, done.stderr.strip())
    else:
        log.info("Slurm starts job %s again", job)
