"""A run that is asked to stop: SIGTERM, a time limit, Ctrl-C. It keeps a checkpoint; all but Ctrl-C end with a code of its own.

SIGTERM is what Slurm, a container's host and `kill` send; a time limit (`limited`) acts as it does. Where a checkpoint can be kept
the request is only noted (`deferred`) and honoured at the next optimizer step, unless Ctrl-C comes again; elsewhere the work is left at
once, and answers that were given are kept (`lab.evaluation.writing`).
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
import time
from collections.abc import Callable, Iterator
from types import FrameType

log = logging.getLogger(__name__)

EXIT_CODE = 75
"""sysexits.h's EX_TEMPFAIL: nothing is wrong, the same command goes on."""
CTRL_C = "Ctrl-C"


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
        self.by = "SIGTERM"

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.asked = True
        if not self.waits:
            raise self.end()

    def end(self, why: str | None = None) -> Stopped | KeyboardInterrupt:
        """What ends the work that was asked to stop. why: where more is to be said."""
        if self.by == CTRL_C:
            return KeyboardInterrupt(*filter(None, [why]))
        return Stopped(why or f"stopped by {self.by}")

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """The handler of Ctrl-C where a request waits."""
        if self.asked:
            raise KeyboardInterrupt
        self.by = CTRL_C
        os.write(2, b"\nCtrl-C: a checkpoint is kept after this step; again: stop at once\n")  # a handler must not wait for a stream's lock
        self(number, frame)

    def late(self, key: str) -> Callable[[int, FrameType | None], None]:
        """The handler of a time limit that this key set."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.by = key
            self(number, frame)

        return handle

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
            raise REQUEST.end()
        yield
    finally:
        REQUEST.asked, REQUEST.by = False, "SIGTERM"
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def deferred() -> Iterator[Request]:
    """Within, SIGTERM and a first Ctrl-C are only noted in the request that this gives. One that nobody honoured is raised at the end."""
    before = signal.getsignal(signal.SIGINT)
    notes = threading.current_thread() is threading.main_thread() and before is not signal.SIG_IGN
    REQUEST.waits = True
    try:
        if notes:
            signal.signal(signal.SIGINT, REQUEST.interrupt)
        yield REQUEST
    finally:
        REQUEST.waits = False
        if notes:
            signal.signal(signal.SIGINT, before)
    if REQUEST.asked:
        raise REQUEST.end()


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within, Ctrl-C is a `KeyboardInterrupt` also where Lightning answers it by exit code 1, and it can come again afterwards."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt(*end.__context__.args) from None
        raise
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, before)


def seconds(max_time: str) -> float:
    """HH:MM:SS in seconds."""
    hours, minutes, rest = map(int, max_time.split(":"))
    return 3600.0 * hours + 60.0 * minutes + rest


@contextlib.contextmanager
def limited(max_time: str | None, key: str, started: float) -> Iterator[None]:
    """Within, the process is asked to stop, as by SIGTERM, once so long has passed since the command began.

    max_time: HH:MM:SS; None: no limit. key: where it was given, for the sentence. started: Unix time. Forked processes have no limit of
    their own; who forked them stops them. Does nothing outside the main thread, where Python allows no handler.
    """
    if max_time is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, REQUEST.late(f"{key}={max_time}"))
    signal.setitimer(signal.ITIMER_REAL, max(started + seconds(max_time) - time.time(), 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        REQUEST.by = "SIGTERM"


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
