"""Figures of how far an arm's confidence can be relied on: reliability diagrams, and the errors among the answers it is surest of."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lab.answers.predictions import PredictionTable
from lab.report.drawing import Picture, key_below, panels, written
from lab.report.figures import MOST_LINES
from lab.report.formatting import count
from lab.report.measure import Measured
from lab.report.palette import COLOURS, DASHED, MARKERS, QUIET, STRIP, WIDTH
from lab.report.svg import tell
from lab.report.tables import best, shown_of
from lab.statistics import functional
from lab.statistics.functional import Bins

NAMES = ("reliability", "risk_coverage")
MOST_PANELS = 12
COVERAGES = np.arange(5, 101, 5)
"""Per cent of the answers, the most confident first."""


@dataclass(frozen=True, eq=False)
class Confidence:
    """bins: reliability, 15 equal widths. risk: error rate of the most confident `COVERAGES` of the items: answers, or boxes."""

    bins: Bins
    risk: np.ndarray
    items: str = "answers"

    @property
    def counted(self) -> str:
        """The items as they are counted: an answer is an example's."""
        return "examples" if self.items == "answers" else self.items

    @classmethod
    def of(cls, table: PredictionTable) -> Confidence:
        return cls.against(table.confidence, table.correct)

    @classmethod
    def against(cls, confidence: np.ndarray, correct: np.ndarray, items: str = "answers") -> Confidence:
        """Of probabilities and what came true, [n] each."""
        coverage, risk = functional.risk_coverage(confidence, correct)
        places = np.searchsorted(coverage, COVERAGES / 100 - 1e-12)
        return cls(functional.reliability_bins(confidence, correct), risk[np.minimum(places, len(risk) - 1)], items)


Arms = Sequence[tuple[Measured, Confidence]]


def pictures(measured: Arms, right: str) -> dict[str, Picture]:
    """Both figures of the best arms, none without arms; right: what counts as right against which confidence, in words."""
    if not measured:
        return {}
    arms = {id(m): confidence for m, confidence in measured}
    everyone, items, counted = [m for m, _ in measured], measured[0][1].items, measured[0][1].counted
    panelled, lined = best(everyone, MOST_PANELS), best(everyone, MOST_LINES)
    return {
        "reliability": Picture(
            lambda width: reliability([(m, arms[id(m)]) for m in panelled], width),
            f"Reliability diagrams of each arm with the number of {counted} in each bin",
            f"Reliability on dev: {right} in 15 equal-width bins, and the number of {counted} in each bin. Points below the dashed "
            f"line are overconfident. {shown_of(len(everyone), MOST_PANELS)}",
        ),
        "risk_coverage": Picture(
            lambda width: risk_coverage([(m, arms[id(m)]) for m in lined], width),
            f"Error rate of each arm among the {items} that it is most confident of",
            f"Selective prediction on dev: the error rate where only the most confident {items} are given and the others withheld. The area "
            f"under a line is its area under risk-coverage. {shown_of(len(everyone), MOST_LINES)}",
        ),
    }


def reliability(arms: Arms, width: float = WIDTH) -> Figure:
    """Reliability diagrams: share of right answers or boxes against confidence per bin, and below it how many are in each bin."""
    most = 2 if width < WIDTH else 3 if len(arms) in (3, 5, 6, 9) else 4
    columns = min(len(arms), most)
    rows = math.ceil(len(arms) / columns)
    across = width if columns == most else max(width * columns / most, 2.4)
    figure = Figure(figsize=(across, 2.9 * rows), layout="constrained")
    grid = figure.subplots(2 * rows, columns, sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1.3) * rows)
    bins, items, counted = [confidence.bins for _, confidence in arms], arms[0][1].items, arms[0][1].counted
    floor = 100 * min(float(one.lower[one.count > 0].min()) for one in bins)
    lowest = min(floor, 100 * min(float(np.nanmin(one.mean_outcome)) for one in bins))
    fullest = max(int(one.count.max()) for one in bins)
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        top, strip = grid[2 * row, column], grid[2 * row + 1, column]
        if place >= len(arms):
            top.set_visible(False)
            strip.set_visible(False)
            continue
        _diagram(top, arms[place][0], bins[place], floor, counted)
        _counts(strip, arms[place][0], bins[place], counted)
        top.set_xlim(floor - 1, 101)
        top.set_ylim(lowest - 3, 103)
        strip.set_ylim(0, 1.8 * fullest)
        strip.tick_params(labelbottom=True)
        if column == 0:
            top.set_ylabel(f"right {items}, %")
            strip.set_ylabel(counted)
        if place + columns >= len(arms):
            strip.set_xlabel("confidence, %")
    return figure


def _said(bins: Bins, place: int, counted: str) -> str:
    low, high = 100 * bins.lower[place], 100 * bins.upper[place]
    return (
        f"confidence {low:.1f} to {high:.1f} %: {count(bins.count[place])} {counted}, {100 * bins.mean_outcome[place]:.1f} % right, "
        f"mean confidence {100 * bins.mean_confidence[place]:.1f} %"
    )


def _diagram(axes: Axes, m: Measured, bins: Bins, floor: float, counted: str) -> None:
    filled = bins.count > 0
    axes.plot([floor, 100], [floor, 100], color=QUIET, linewidth=0.9, linestyle=DASHED)
    x, y = 100 * bins.mean_confidence, 100 * bins.mean_outcome
    (line,) = axes.plot(x[filled], y[filled], color=COLOURS[0], linewidth=1.1)
    tell(line, m, f"ECE {100 * m.metrics['ece']:.1f} %")
    for place in np.flatnonzero(filled).tolist():
        (point,) = axes.plot(x[place], y[place], "o", color=COLOURS[0], markersize=3.5)
        tell(point, m, _said(bins, place, counted))
    name = textwrap.wrap(written(m.arm, 50), 26)[:2]
    axes.set_title("\n".join([*name, f"ECE {100 * m.metrics['ece']:.1f} %"]), fontsize=8, loc="left")
    axes.tick_params(bottom=False)


def _counts(axes: Axes, m: Measured, bins: Bins, counted: str) -> None:
    width = 100 / len(bins.count)
    for place in np.flatnonzero(bins.count).tolist():
        middle, number = 100 * bins.lower[place] + width / 2, bins.count[place]
        (bar,) = axes.bar(middle, number, width * 0.86, color=STRIP)
        tell(bar, m, _said(bins, place, counted))
        axes.annotate(
            count(number), (middle, number), xytext=(0, 1.5), textcoords="offset points", rotation=90, fontsize=6.5, ha="center",
            va="bottom",
        )  # fmt: skip
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)


def risk_coverage(arms: Arms, width: float = WIDTH) -> Figure:
    """Error rate of the most confident share of each arm's answers or boxes, in the arms' colours."""
    figure, (axes,) = panels(1, width, 2.9)
    handles, items = [], arms[0][1].items
    for place, (m, confidence) in enumerate(arms):
        risk = 100 * confidence.risk
        (line,) = axes.plot(COVERAGES, risk, color=COLOURS[place])
        tell(line, m, f"area under risk-coverage {m.metrics['aurc']:.3f}")
        for coverage, error in zip(COVERAGES[3::4], risk[3::4], strict=True):
            (point,) = axes.plot(coverage, error, MARKERS[place], color=COLOURS[place], markersize=4)
            tell(point, m, f"the {coverage} % most confident {items}: {error:.1f} % wrong")
        handles.append(line)
    axes.set_xlim(0, 102)
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"{items} given, the most confident first, %")
    axes.set_ylabel("wrong among them, %")
    key_below(figure, handles, [written(m.arm) for m, _ in arms])
    return figure
