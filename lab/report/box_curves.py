"""Precision of an arm's boxes against their recall, at two IoU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lab.answers.predictions import PredictionTable
from lab.report.drawing import Picture, key_below, panels, written
from lab.report.figures import MOST_LINES
from lab.report.measure import Measured
from lab.report.palette import COLOURS, MARKERS, WIDTH
from lab.report.svg import tell
from lab.report.tables import best, shown_of
from lab.statistics.box_pairs import matches
from lab.statistics.detection import RECALLS
from lab.statistics.metrics.regions import boxed

AT = {"ap50": (0, ".5"), "ap75": (5, ".75")}
"""The metric that is the area under a curve: place of its threshold, and the IoU in words."""


def curves(table: PredictionTable) -> np.ndarray | None:
    """Interpolated precision at each of `RECALLS`, mean over classes, [2, 101]; None of clicks, and without a reference."""
    if not boxed(table) or not any(map(len, table.references)):
        return None
    return np.stack([matches(table).precision(threshold) for threshold, _ in AT.values()])


def pictures(measured: Sequence[Measured]) -> dict[str, Picture]:
    """The figure, where an arm has boxes."""
    arms = [m for m in measured if m.details.curves is not None]
    if not arms:
        return {}
    shown = best(arms, MOST_LINES)
    caption = (
        "Precision of the boxes with the highest scores against their recall on dev, at IoU .5 and .75; interpolated, mean over classes. The area "
        f"under a line is its AP50 or AP75. {shown_of(len(arms), MOST_LINES)}"
    )
    return {"precision_recall": Picture(lambda width: figure(shown, width), "Precision of each arm's boxes against their recall", caption)}


def figure(measured: Sequence[Measured], width: float = WIDTH) -> Figure:
    """A panel for each IoU, a line for each arm."""
    drawing, axes_of = panels(len(AT), width, 2.9, "y")
    handles = []
    for place, (axes, (name, (_, at))) in enumerate(zip(axes_of, AT.items(), strict=True)):
        for number, m in enumerate(measured):
            (line,) = axes.plot(
                100 * RECALLS, 100 * m.details.curves[place], color=COLOURS[number], marker=MARKERS[number], markevery=(3 * number, 25), markersize=4
            )
            tell(line, m, f"{m.kind.metrics[name].header} {100 * m.metrics[name]:.1f} %")
            handles += [line] if place == 0 else []
        axes.set_xlim(0, 101)
        axes.set_ylim(0, 103)
        axes.set_xlabel(f"recall at IoU {at}, %")
        axes.set_ylabel("precision, %" if axes is axes_of[0] or width < WIDTH else "")
    key_below(drawing, handles, [written(m.arm) for m in measured])
    return drawing
