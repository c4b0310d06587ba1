"""The feature cache kept within bounds: whole stores go, the least recently used first, and never one that is in use."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from pathlib import Path

log = logging.getLogger(__name__)

IN_USE = ".in-use"


def use(folder: Path) -> int:
    """Make a store's folder, marked as used now and as in use by this process and its forks.

    Returns the descriptor that holds the mark until it is closed.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / IN_USE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_nlink:
            os.utime(descriptor)
            return descriptor
        os.close(descriptor)  # another process removed the folder while this one waited


def size(folder: Path) -> int:
    """Bytes of a store's files."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


def trim(cache_dir: Path, limit_bytes: int) -> list[Path]:
    """Remove stores that nobody uses, the least recently used first, until all take `limit_bytes` at most; return which."""
    stores = [path for path in (cache_dir / "features").glob("*") if (path / IN_USE).is_file()]
    stores.sort(key=lambda path: (path / IN_USE).stat().st_mtime)
    sizes = {path: size(path) for path in stores}
    removed: list[Path] = []
    for path in stores:
        if sum(sizes.values()) <= limit_bytes:
            break
        if remove(path):
            log.info("feature cache: %s (%.1f GB) made room, unused the longest", path, sizes.pop(path) / 1e9)
            removed.append(path)
    return removed


def remove(folder: Path) -> bool:
    """Remove a store unless a process uses it."""
    descriptor = os.open(folder / IN_USE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(folder)
        return True
    finally:
        os.close(descriptor)
