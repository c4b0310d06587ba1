"""What a process is told before and after it forks, so that forks are cheap and none outlives its parent. Light."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator

from lab.host.stopping import Stopped

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""


@contextlib.contextmanager
def frozen_heap() -> Iterator[None]:
    """Within, the garbage collector leaves what is there alone, so that forks do not copy the pages it would mark.

    A process that keeps a frozen heap of its own keeps it.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def die_with(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when its parent dies, so that no arm outlives a killed sweep. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise Stopped("the sweep's process is gone")
