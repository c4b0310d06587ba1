"""What all figures share: the style they are drawn in, panels for a wide and a narrow screen, arms' names, labels that do not meet."""

from __future__ import annotations

import io
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Annotation

from lab.errors import LabError
from lab.host.forks import FORK
from lab.report import svg
from lab.report.formatting import number_within, shorten
from lab.report.measure import Measured
from lab.report.palette import DOTS, NARROW, QUIET, STYLE, WIDTH
from lab.report.select_runs import RANDOM_WEIGHTS, Row
from lab.statistics.metrics import Metric

MARK = "written by lab.report"
LABEL_WIDTH = 44
"""Most characters of an arm's name in a figure."""
AROUND = ((-1, 1), (1, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (0, 1), (0, -1))
APART = (3, 8, 14, 21, 29, 38, 50)
"""Where a label may stand beside its point, and how many typographic points from it."""
LABEL_SIZE = 7.0
"""Of its letters, in points."""

Draw = Callable[[float], Figure | None]
"""Draws a figure so many inches wide, or None where there is nothing to show."""


@dataclass(frozen=True)
class Picture:
    """A figure to be drawn: how, what it shows in words, and its caption."""

    draw: Draw
    alt: str
    caption: str


@dataclass(frozen=True)
class Drawing:
    """A figure as a PNG file and as SVG, what it shows in words, and its caption; without a file, the caption says why there is none."""

    png: bytes | None
    svgs: tuple[str, ...]
    alt: str
    caption: str


def drawings(pictures: Mapping[str, Picture], workers: int = 1) -> dict[str, Drawing]:
    """The figures by name; one that has nothing to show is left out. workers: processes that draw, where they can be forked."""
    if workers < 2 or len(pictures) < 2 or sys.platform != "linux":
        drawn = [drawing_of(name, picture) for name, picture in pictures.items()]
    else:
        with ProcessPoolExecutor(min(workers, len(pictures)), FORK, TO_DRAW.update, (pictures,)) as pool:
            drawn = list(pool.map(drawing_here, pictures))
    return {name: each for name, each in zip(pictures, drawn, strict=True) if each is not None}


TO_DRAW: dict[str, Picture] = {}
"""Of a process that was forked to draw: functions that draw cannot be sent to one."""


def drawing_here(name: str) -> Drawing | None:
    """One of those to draw."""
    return drawing_of(name, TO_DRAW[name])


def drawing_of(name: str, picture: Picture) -> Drawing | None:
    """A figure, or why there is none; None where it has nothing to show."""
    try:
        files = png_and_svgs(picture.draw, name, MARK)
    except LabError as error:
        return Drawing(None, (), picture.alt, str(error))
    return None if files is None else Drawing(*files, picture.alt, picture.caption.strip())


def png_of(figure: Figure, software: str) -> bytes:
    """The figure as a PNG file, into which `software` is written."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DOTS, format="png", metadata={"Software": software})
    return buffer.getvalue()


def png(draw: Draw, software: str = "lab.report") -> bytes | None:
    """Draw in the report's style as a PNG file; None for no figure."""
    with matplotlib.rc_context(STYLE):
        figure = draw(WIDTH)
        return None if figure is None else png_of(laid_out(figure), software)


def png_and_svgs(draw: Draw, name: str, software: str) -> tuple[bytes, tuple[str, str]] | None:
    """Draw in the report's style: the PNG file, and SVG for a wide and for a narrow screen; None for no figure.

    No id in the SVG is one of a figure of another name.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"{name} wide"}):
        wide = draw(WIDTH)
        if wide is None:
            return None
        data, first = png_of(laid_out(wide), software), svg.inline(wide)
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"{name} narrow"}):
        narrow = draw(NARROW)
        assert narrow is not None
        return data, (first, svg.inline(narrow))


def laid_out(figure: Figure) -> Figure:
    """The same figure, whose panels and texts stay where they come to stand now; without an engine nothing lays it out again."""
    if figure.get_layout_engine() is not None:
        figure.draw_without_rendering()
        figure.set_layout_engine(None)
    return figure


def panels(number: int, width: float, height: float, share: str = "") -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side, or below each other where it is narrow; share: `x`, `y` or neither. height: of one panel."""
    if width < WIDTH:
        figure = Figure(figsize=(width, height * number), layout="constrained")
        return figure, list(figure.subplots(number, 1, sharex=share == "x", squeeze=False).flat)
    figure = Figure(figsize=(width if number > 1 else 0.68 * width, height), layout="constrained")
    return figure, list(figure.subplots(1, number, sharey=share == "y", squeeze=False).flat)


def written(arm: Row, width: int = LABEL_WIDTH) -> str:
    """An arm's name as a figure shows it; that its weights are random is never cut off."""
    name = arm.label.removesuffix(RANDOM_WEIGHTS)
    return shorten(name, width) + arm.label[len(name) :] + (" (zero-shot)" if arm.zero_shot else "")


def wrapped(name: str, width: float) -> str:
    """A name on one line, or on two where the figure is narrow."""
    return name if width >= WIDTH else "\n".join(textwrap.wrap(name, 24)[:2])


def value_of(m: Measured, metric: Metric) -> str:
    """`accuracy 71.2 [69.9, 72.4]`."""
    return f"{metric.title} {number_within(metric, m.metrics[metric.name], m.intervals.get(metric.name))}"


def ends(m: Measured, metric: Metric) -> tuple[float, float]:
    """The interval of an arm's metric in the unit shown; without one, its value twice."""
    interval, value = m.intervals.get(metric.name), m.metrics[metric.name]
    low, high = (interval.low, interval.high) if interval is not None and interval.has_ends else (value, value)
    return metric.scale * low, metric.scale * high


def key_below(figure: Figure, handles: Sequence[Line2D], names: Sequence[str], most: int = 2) -> None:
    """A legend under the panels in at most so many columns as fit, for which the figure grows."""
    width, height = figure.get_size_inches()
    size = 8.0 if most < 3 else 7.0
    columns = max(1, min(most, int(72 * width / (0.56 * size * max(map(len, names)) + 28))))
    figure.set_size_inches(width, height + 0.021 * size * -(-len(names) // columns))
    figure.legend(handles, names, loc="outside lower center", ncols=columns, fontsize=size, handletextpad=0.3, columnspacing=1.2)


def label_points(axes: Axes, points: Sequence[tuple[float, float]], labels: Sequence[str]) -> list[Annotation]:
    """Write a label beside each point where it covers no other label and no point, with a line where it stands apart.

    The figure must have been laid out. Labels that find no room in `axes` stand where they cover least.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    pixel = figure.dpi / 72
    at = axes.transData.transform(np.asarray(points, dtype=float)) / pixel  # typographic points
    frame = np.asarray(axes.bbox.extents) / pixel
    taken = np.concatenate([at - 3, at + 3], axis=1)
    notes = []
    for (x, y), where, text in zip(at, points, labels, strict=True):
        half = np.array([0.3 * LABEL_SIZE * len(text), 0.55 * LABEL_SIZE])
        middles = np.array([(x, y) + (apart + half) * np.array(side) for apart in APART for side in AROUND])
        boxes = np.concatenate([middles - half, middles + half], axis=1)
        meets = (boxes[:, None, :2] < taken[None, :, 2:]).all(-1) & (boxes[:, None, 2:] > taken[None, :, :2]).all(-1)
        outside = (boxes[:, :2] < frame[:2]).any(-1) | (boxes[:, 2:] > frame[2:]).any(-1)
        gaps = np.linalg.norm(np.maximum(0, np.maximum(boxes[:, None, :2] - at, at - boxes[:, None, 2:])), axis=-1)
        of_others = (gaps < np.linalg.norm(middles - (x, y), axis=1)[:, None]).sum(axis=1) - 1  # that it could be taken to name
        best = int(np.argmin(meets.sum(axis=1) + 50 * outside + 0.5 * of_others))  # of equal ones the nearest
        taken = np.concatenate([taken, boxes[best : best + 1]])
        stands_apart = best >= 2 * len(AROUND)
        line = {"arrowstyle": "-", "color": QUIET, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2} if stands_apart else None
        note = axes.annotate(
            text, where, xytext=tuple(middles[best] - (x, y)), textcoords="offset points", fontsize=LABEL_SIZE, ha="center", va="center",
            arrowprops=line,
        )  # fmt: skip
        note.set_in_layout(False)
        notes.append(note)
    return notes
