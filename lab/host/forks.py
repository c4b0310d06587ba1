"""What a process is told before and after it forks, so that forks can compute and none outlives its parent. Light."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from pathlib import Path

from lab.host.stopping import Stopped

FORK = multiprocessing.get_context("fork")
"""Of all processes that are forked here, so that none is without what this module does before a fork."""
PR_SET_PDEATHSIG = 1
"""From linux/prctl.h."""
MAPPED, GNU_OPENMP, PAUSE_HARD = Path("/proc/self/maps"), "libgomp", 2
"""The libraries that this process has loaded; the one that torch computes with on Linux; `omp_pause_hard` of omp.h."""


def end_openmp_threads() -> None:
    """End the threads that this one computes with; the next operation starts others, here and in a fork.

    GNU's OpenMP knows nothing of forks: a fork of a process that has computed with several threads waits for ever for threads that it
    does not have. LLVM's, which torch has on macOS, sees to it itself. Source: OpenMP 5.0, 3.2.43, `omp_pause_resource_all`.
    """
    if MAPPED.exists():
        mapped = {Path(line.split(maxsplit=5)[-1]) for line in MAPPED.read_text().splitlines() if GNU_OPENMP in line}
        for path in filter(Path.exists, mapped):  # one that was replaced on disk meanwhile cannot be called
            ctypes.CDLL(str(path)).omp_pause_resource_all(PAUSE_HARD)


os.register_at_fork(before=end_openmp_threads)


def die_with(parent: int) -> None:
    """Have the kernel send SIGTERM to this process when its parent dies, so that no arm outlives a killed sweep. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise Stopped("the sweep's process is gone")
