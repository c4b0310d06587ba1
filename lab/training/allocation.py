"""What a training process asks of its allocator. Light."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""From glibc's malloc.h."""


def keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next one: asking the kernel for pages anew costs a few per cent of a step."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(M_MMAP_THRESHOLD, 32 << 20)  # the most that glibc takes
        libc.mallopt(M_TRIM_THRESHOLD, 1 << 30)
