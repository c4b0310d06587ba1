"""Open files that others named: a pipe, a device or a folder is refused before it can block a read; text is UTF-8."""

from __future__ import annotations

import codecs
import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32", codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16",
}  # fmt: skip
"""Byte-order marks of other encodings than UTF-8, the longer first: one begins with another."""


def mark_length(head: bytes) -> int:
    """How many bytes of the beginning of a text file are UTF-8's byte-order mark. Raises `ValueError` naming another encoding."""
    for mark, encoding in MARKS.items():
        if head.startswith(mark):
            raise ValueError(f"the file is {encoding} by its byte-order mark; save it as UTF-8")
    return len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0


def read_text(path: str | Path) -> str:
    """Read a text file that a person may have written: UTF-8, with or without a byte-order mark.

    Raises `OSError`, or `ValueError` (`UnicodeDecodeError` is one) for another encoding.
    """
    with open_regular(path) as file:
        data = file.read()
    return data[mark_length(data) :].decode("utf-8").replace("\r\n", "\n")


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
