"""The figures: pure functions from measured arms to Matplotlib figures, without pyplot and without a window.

Colours are those of Okabe and Ito (2008), told apart in the common forms of colour blindness; every coloured arm has a
marker of its own besides. Sizes are chosen for 100 % zoom: 9 pt text on a page 7.6 inches wide.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from lab.report.formatting import count, shorten
from lab.report.measure import Measured
from lab.report.select_runs import Row
from lab.statistics.functional import Bins
from lab.statistics.metrics import Metric
from lab.store import runs

WIDTH = 7.6
"""Inches."""
DOTS = 150
"""Pixels per inch of the PNG files."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6BB1")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
QUIET = "#6b6b6b"
MOST_BARS, MOST_PANELS, MOST_LINES = 40, 12, len(COLOURS)
LABEL_WIDTH = 44
"""Most characters of an arm's name in a figure."""

STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a name may hold a dollar sign
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#444444",
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "xtick.labelcolor": "#1a1a1a",
    "ytick.labelcolor": "#1a1a1a",
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.4,
    "lines.markersize": 5.0,
    "figure.facecolor": "white",
}


def png(draw: Callable[[], Figure | None], software: str = "lab.report") -> bytes | None:
    """Draw in the report's style and give the PNG file, or None for no figure; `software` is written into it."""
    with matplotlib.rc_context(STYLE):
        figure = draw()
        if figure is None:
            return None
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=DOTS, format="png", metadata={"Software": software})
    return buffer.getvalue()


def written(arm: Row, width: int = LABEL_WIDTH) -> str:
    """An arm's name as a figure shows it."""
    return shorten(arm.label, width) + (" (zero-shot)" if arm.zero_shot else "")


@dataclass(frozen=True)
class Picture:
    """A figure to be drawn: how, what it shows in words, and its caption."""

    draw: Callable[[], Figure | None]
    alt: str
    caption: str


def with_intervals(measured: Sequence[Measured], baseline: str) -> Figure:
    """Each arm's metrics with their 95 % intervals, a panel a metric; hollow: zero-shot; dashed: always one answer."""
    kind, rows = measured[0].kind, np.arange(len(measured))[::-1]
    metrics = [kind.metrics[name] for name in kind.with_interval]
    figure = Figure(figsize=(WIDTH, 0.85 + 0.27 * len(measured)), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(metrics), sharey=True))
    for axes, metric in zip(panels, metrics, strict=True):
        for row, m in zip(rows, measured, strict=True):
            low, high = ends(m, metric)
            if low < high:
                axes.plot([low, high], [row, row], color=COLOURS[0], linewidth=1.6)
            face = "white" if m.arm.zero_shot else COLOURS[0]
            axes.plot(metric.scale * m.metrics[metric.name], row, "o", color=COLOURS[0], markerfacecolor=face, markersize=5.5)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(metric.title_with("on dev") + ("" if metric.higher_is_better else " (less is better)"))
        if not metric.higher_is_better:
            axes.set_xlim(left=0)
    always = [m.baseline[1][kind.headline] for m in measured if kind.headline in m.baseline[1]]
    if always:
        place = kind.main.scale * max(always)
        panels[0].axvline(place, color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
        panels[0].annotate(
            baseline, (place, 1.0), xycoords=("data", "axes fraction"), xytext=(3, 1), textcoords="offset points", color=QUIET,
            fontsize=8, va="bottom",
        )  # fmt: skip
    panels[0].set_yticks(rows, [written(m.arm) for m in measured])
    panels[0].set_ylim(-0.6, len(measured) - 0.4)
    return figure


def ends(m: Measured, metric: Metric) -> tuple[float, float]:
    """The interval of an arm's metric in the unit shown; without one, its value twice."""
    interval, value = m.intervals.get(metric.name), m.metrics[metric.name]
    low, high = (interval.low, interval.high) if interval is not None and interval.has_ends else (value, value)
    return metric.scale * low, metric.scale * high


def reliability(arms: Sequence[tuple[Measured, Bins, float]]) -> Figure:
    """Reliability diagrams: share of right answers against confidence per bin, and below it the examples in each bin.

    arms: each with its bins and its calibration error.
    """
    columns = min(len(arms), 3 if len(arms) in (3, 5, 6, 9) else 4)
    rows = math.ceil(len(arms) / columns)
    figure = Figure(figsize=(max(WIDTH * columns / 4, 2.4) if columns < 3 else WIDTH, 2.9 * rows), layout="constrained")
    grid = figure.subplots(2 * rows, columns, sharex=True, sharey="row", squeeze=False, height_ratios=(3, 1.3) * rows)
    floor = 100 * min(float(bins.lower[bins.count > 0].min()) for _, bins, _ in arms)
    lowest = min(floor, 100 * min(float(np.nanmin(bins.mean_outcome)) for _, bins, _ in arms))
    fullest = max(int(bins.count.max()) for _, bins, _ in arms)
    for place in range(rows * columns):
        row, column = divmod(place, columns)
        top, strip = grid[2 * row, column], grid[2 * row + 1, column]
        if place >= len(arms):
            top.set_visible(False)
            strip.set_visible(False)
            continue
        _diagram(top, *arms[place], floor)
        _counts(strip, arms[place][1])
        top.set_xlim(floor - 1, 101)
        top.set_ylim(lowest - 3, 103)
        strip.set_ylim(0, 1.8 * fullest)
        strip.tick_params(labelbottom=True)
        if column == 0:
            top.set_ylabel("right answers, %")
            strip.set_ylabel("examples")
        if place + columns >= len(arms):
            strip.set_xlabel("confidence, %")
    return figure


def _diagram(axes: Axes, m: Measured, bins: Bins, error: float, floor: float) -> None:
    filled, dashed = bins.count > 0, (0, (4, 3))
    axes.plot([floor, 100], [floor, 100], color=QUIET, linewidth=0.9, linestyle=dashed)
    points = 100 * bins.mean_confidence[filled], 100 * bins.mean_outcome[filled]
    axes.plot(*points, "o-", color=COLOURS[0], markersize=3.5, linewidth=1.1)
    name = textwrap.wrap(written(m.arm, 50), 26)[:2]
    axes.set_title("\n".join([*name, f"ECE {100 * error:.1f} %"]), fontsize=8, loc="left")
    axes.tick_params(bottom=False)


def _counts(axes: Axes, bins: Bins) -> None:
    width = 100 / len(bins.count)
    for low, number in zip(100 * bins.lower, bins.count, strict=True):
        if number:
            axes.bar(low + width / 2, number, width * 0.86, color="#b9d3e6")
            axes.annotate(
                count(number), (low + width / 2, number), xytext=(0, 1.5), textcoords="offset points", rotation=90, fontsize=6.5,
                ha="center", va="bottom",
            )  # fmt: skip
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)


def against_cost(measured: Sequence[Measured]) -> Figure | None:
    """The headline against median latency and, where arms differ in them, realised visual tokens; None if neither was measured."""
    panels: list[tuple[str, Callable[[Measured], float | None]]] = []
    if any("latency/p50_ms" in m.arm.run.metrics for m in measured):
        panels.append(("median latency at batch 1, ms per example", lambda m: m.arm.run.metrics.get("latency/p50_ms")))
    if len({m.tokens[0] for m in measured}) > 1:
        panels.append(("realised visual tokens per image (mean on dev)", lambda m: m.tokens[0]))
    if not panels:
        return None
    many = len(measured) > MOST_LINES
    rows = 0 if many else math.ceil(len(measured) / 2)
    figure = Figure(figsize=(WIDTH if len(panels) > 1 else 0.68 * WIDTH, 2.9 + 0.17 * rows), layout="constrained")
    for axes, (title, cost) in zip(np.atleast_1d(figure.subplots(1, len(panels), sharey=True)), panels, strict=True):
        at = [(place, m, value) for place, m in enumerate(measured) if (value := cost(m)) is not None]
        if many:
            _cloud(axes, [(m, value) for _, m, value in at])
        else:
            alike = [sum(value == other for _, _, other in at) for _, _, value in at]
            before = [sum(value == other for _, _, other in at[:i]) for i, (_, _, value) in enumerate(at)]
            for (place, m, value), all_there, earlier in zip(at, alike, before, strict=True):
                _point(axes, m, value, place, 6.0 * (earlier - (all_there - 1) / 2))
        axes.margins(x=0.08)
        _frontier(axes, [(value, m.headline) for _, m, value in at], measured[0].kind.main)
        axes.set_xlabel(title)
    figure.axes[0].set_ylabel(measured[0].kind.main.title_with("on dev"))
    if not many:
        handles, names = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure


def _point(axes: Axes, m: Measured, cost: float, place: int, aside: float) -> None:
    """One arm, set `aside` by so many typographic points."""
    where = axes.transData + ScaledTranslation(aside / 72, 0, axes.figure.dpi_scale_trans)
    metric = m.kind.main
    value, (low, high) = metric.scale * m.headline, ends(m, metric)
    axes.plot([cost, cost], [low, high], color=COLOURS[place], linewidth=1, transform=where)
    axes.plot(
        cost, value, MARKERS[place], color=COLOURS[place], markersize=6, linestyle="none", label=written(m.arm), transform=where,
        markerfacecolor="white" if m.arm.zero_shot else COLOURS[place],
    )  # fmt: skip
    axes.update_datalim([(cost, low), (cost, high)])  # a shifted artist does not count for the limits
    axes.autoscale_view()


def _cloud(axes: Axes, at: Sequence[tuple[Measured, float]]) -> None:
    """Many arms: one grey, zero-shot hollow, intervals faint."""
    metric = at[0][0].kind.main
    lows, highs = zip(*(ends(m, metric) for m, _ in at), strict=True)
    costs = [value for _, value in at]
    axes.vlines(costs, lows, highs, color=QUIET, linewidth=0.8, alpha=max(0.08, min(0.4, 20 / len(at))))
    faces = ["white" if m.arm.zero_shot else COLOURS[0] for m, _ in at]
    values = [metric.scale * m.headline for m, _ in at]
    axes.scatter(costs, values, s=14, c=faces, edgecolors=COLOURS[0], linewidths=0.7, zorder=2)


def _frontier(axes: Axes, at: Sequence[tuple[float, float]], metric: Metric) -> None:
    """Join the arms that no other arm beats in both respects."""
    sign = 1 if metric.higher_is_better else -1
    steps: list[tuple[float, float]] = []
    for cost, value in sorted(at, key=lambda point: (point[0], -sign * point[1])):
        if not steps or sign * value > sign * steps[-1][1]:
            steps.append((cost, value))
    if len(steps) > 1:
        costs, values = [cost for cost, _ in steps], [metric.scale * value for _, value in steps]
        axes.plot(costs, values, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)


def curve(arm: Row, key: str) -> tuple[list[float], list[float]]:
    """(optimizer steps, values) of one curve of a run; empty where it was not recorded."""
    rows = [(row["step"], row[key]) for row in runs.curves(arm.folder) if key in row]
    return [step for step, _ in rows], [value for _, value in rows]


def training_curves(measured: Sequence[Measured]) -> Figure | None:
    """Training loss and the headline on minival over optimizer steps, in the arms' colours; None if no arm recorded either."""
    metric = measured[0].kind.main
    minival = (f"minival/{metric.name}", metric.title_with("on minival"), metric.scale)
    panels = (("train/loss", "training loss, nats per answer", 1.0), minival)
    lines = {key: [(place, m.arm, *curve(m.arm, key)) for place, m in enumerate(measured)] for key, _, _ in panels}
    drawn = [(key, title, scale) for key, title, scale in panels if any(steps for _, _, steps, _ in lines[key])]
    if not drawn:
        return None
    rows = math.ceil(len(measured) / 2)
    figure = Figure(figsize=(WIDTH if len(drawn) > 1 else 0.68 * WIDTH, 2.7 + 0.17 * rows), layout="constrained")
    handles = {}
    for axes, (key, title, scale) in zip(np.atleast_1d(figure.subplots(1, len(drawn))), drawn, strict=True):
        for place, arm, steps, values in lines[key]:
            if steps:
                (handles[place],) = axes.plot(
                    steps, [scale * value for value in values], color=COLOURS[place], label=written(arm), marker=MARKERS[place],
                    markevery=max(1, len(steps) // 6), markersize=4,
                )  # fmt: skip
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel(title)
    figure.legend(handles=[handles[place] for place in sorted(handles)], loc="outside lower center", ncols=2)
    return figure
