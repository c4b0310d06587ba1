"""When Python does not look for garbage: while libraries are imported, and in what forks share. Light.

Torch, Transformers and what they bring are 600,000 objects, none of them garbage, and Python looks through them again and again while they
come: a fourth of the time that their import takes.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Frozen:
    """What this module has frozen: what was imported; the whole heap, for forks."""

    imports: bool = False
    heap: bool = False


FROZEN = Frozen()


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Within, nothing is looked through; what has come to be is left alone from then on. A process that collects nothing is left as it is."""
    if not gc.isenabled():
        yield
        return
    gc.collect()  # so that no garbage is kept for good
    FROZEN.imports = FROZEN.imports or not gc.get_freeze_count()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def frozen_heap() -> Iterator[None]:
    """Within, the garbage collector leaves what is there alone, so that forks do not copy the pages it would mark.

    A process that keeps a frozen heap of its own keeps it.
    """
    if FROZEN.heap or gc.get_freeze_count() and not FROZEN.imports:
        yield
        return
    gc.collect()
    gc.freeze()
    FROZEN.heap = True
    try:
        yield
    finally:
        gc.unfreeze()
        FROZEN.heap = FROZEN.imports = False
