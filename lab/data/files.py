"""Open files that others named: a pipe, a device or a folder is refused before it can block a read."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading. Raises `OSError` for anything else, `ValueError` for what can be no path."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return open(descriptor, "rb")


def why_unreadable(error: Exception) -> str:
    """Return the reason as the rest of a sentence that begins with the file's name."""
    if isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR):
        return "the file is missing"
    return f"the file cannot be read ({getattr(error, 'strerror', None) or error})"
