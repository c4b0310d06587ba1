"""Blank figures in place of a report's own: drawing takes nine tenths of its time, and most tests read its words and numbers alone.

`python -m blank_figures MODULE ...` is `python -m MODULE ...` with them.
"""

from __future__ import annotations

import functools
import runpy
import sys
from collections.abc import Mapping

import pytest
from matplotlib.figure import Figure

from lab.report import drawing, write
from lab.report.drawing import MARK, Drawing, Picture


@functools.cache
def blank() -> bytes:
    data = drawing.png(lambda width: Figure((width, 1)), MARK)
    assert data is not None
    return data


def drawings(pictures: Mapping[str, Picture], workers: int = 1) -> dict[str, Drawing]:
    """Every picture as a blank one, with its words and its caption; also one that has nothing to show."""
    return {name: Drawing(blank(), ("<svg></svg>",) * 2, picture.alt, picture.caption.strip()) for name, picture in pictures.items()}


def use(patch: pytest.MonkeyPatch) -> None:
    """Have reports use them until the patch is undone."""
    patch.setattr(write, "drawings", drawings)


if __name__ == "__main__":
    use(pytest.MonkeyPatch())
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
