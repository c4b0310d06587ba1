"""What a process is told before and after it forks, so that forks are cheap and none outlives its parent. Light."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
from collections.abc import Iterator

from lab.stopping import Stopped

PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""From glibc's malloc.h."""


@contextlib.contextmanager
def frozen_heap() -> Iterator[None]:
    """Within, the garbage collector leaves what is there alone, so that forks do not copy the pages it would mark."""
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


def keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next one: asking the kernel for pages anew costs a few per cent of a step."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
