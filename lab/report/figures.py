"""The figures of every kind of answer: pure functions from measured arms to Matplotlib figures, without pyplot and without a window.

Each arm's mark says its name and values to whoever points at it on the page (`lab.report.svg`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from lab.report.drawing import ends, key_below, label_points, laid_out, panels, value_of, wrapped, written
from lab.report.formatting import number, quantity
from lab.report.measure import Measured
from lab.report.palette import COLOURS, DASHED, DOTTED, MARKERS, PAPER, QUIET, WIDTH
from lab.report.select_runs import Row
from lab.report.svg import tell
from lab.statistics.metrics import Metric
from lab.store import curve_files

MOST_BARS, MOST_LINES = 48, len(COLOURS)
"""Most arms in the figures that name every one, and in those that give each a colour."""


def named(measured: Sequence[Measured]) -> list[str]:
    """The arms' names; numbered, by which a crowded figure tells them, where there are more of them than colours."""
    if len(measured) <= MOST_LINES:
        return [written(m.arm) for m in measured]
    return [f"{place}  {written(m.arm)}" for place, m in enumerate(measured, start=1)]


def with_intervals(measured: Sequence[Measured], baseline: str, width: float = WIDTH) -> Figure:
    """Each arm's metrics with their 95 % intervals, a panel a metric; hollow: zero-shot; dashed: always one answer."""
    kind, rows = measured[0].kind, np.arange(len(measured))[::-1]
    metrics = [kind.metrics[name] for name in kind.with_interval]
    row = 0.27 if width >= WIDTH else 0.36
    figure, axes_of = panels(len(metrics), width, 0.85 + row * len(measured), "y")
    figure.set_size_inches(width, figure.get_size_inches()[1])
    for axes, metric in zip(axes_of, metrics, strict=True):
        for place, m in zip(rows, measured, strict=True):
            if metric.name not in m.metrics:
                continue
            low, high = ends(m, metric)
            face = PAPER if m.arm.zero_shot else COLOURS[0]
            point, value = metric.scale * m.metrics[metric.name], value_of(m, metric)
            if low < high:
                tell(axes.plot([low, high], [place, place], color=COLOURS[0], linewidth=1.6)[0], m, value)
            tell(axes.plot(point, place, "o", color=COLOURS[0], markerfacecolor=face, markersize=5.5)[0], m, value)
        axes.grid(visible=False, axis="y")
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(metric.title_with("on dev") + ("" if metric.higher_is_better else "\n(less is better)"))
        if not metric.higher_is_better:
            axes.set_xlim(left=0)
        axes.set_yticks(rows, [wrapped(name, width) for name in named(measured)])
        for tick, m in zip(axes.yaxis.get_major_ticks(), measured, strict=True):
            tell(tick.label1, m, value_of(m, kind.main))
        axes.set_ylim(-0.6, len(measured) - 0.4)
    always = [m.baseline[1][kind.headline] for m in measured if kind.headline in m.baseline[1]]
    if always:
        _baseline(axes_of[0], kind.main.scale * max(always), baseline)
    return figure


def _baseline(axes: Axes, place: float, name: str) -> None:
    axes.axvline(place, color=QUIET, linewidth=1, linestyle=DASHED)
    axes.annotate(
        name, (place, 1.0), xycoords=("data", "axes fraction"), xytext=(3, 1), textcoords="offset points", color=QUIET, fontsize=8,
        va="bottom",
    )  # fmt: skip


@dataclass(frozen=True)
class Cost:
    """What an answer costs: its axis, a sentence's word for it, and its value of an arm."""

    title: str
    unit: str
    of: Callable[[Measured], float | None]


LATENCY = Cost("median latency at batch 1, ms per example", "ms", lambda m: m.arm.run.metrics.get("latency/p50_ms"))
TOKENS = Cost("realised visual tokens per image (mean on dev)", "tokens an image", lambda m: m.tokens[0])


def costs_of(measured: Sequence[Measured]) -> list[Cost]:
    """Latency where it was measured; visual tokens where arms differ in them."""
    timed = any(LATENCY.of(m) is not None for m in measured)
    return ([LATENCY] if timed else []) + ([TOKENS] if len({m.tokens[0] for m in measured}) > 1 else [])


def frontier(measured: Sequence[Measured], cost: Cost) -> list[Measured]:
    """The Pareto front, cheapest first: arms than which none that costs as much or less scores as high. By their values alone."""
    sign = 1 if measured[0].kind.main.higher_is_better else -1
    front: list[Measured] = []
    known = [(value, m) for m in measured if (value := cost.of(m)) is not None]
    for _, m in sorted(known, key=lambda pair: (pair[0], -sign * pair[1].headline)):
        if not front or sign * m.headline > sign * front[-1].headline:
            front.append(m)
    return front


def against_cost(measured: Sequence[Measured], width: float = WIDTH) -> Figure | None:
    """The headline against latency and visual tokens with intervals and the Pareto front; None if neither cost was measured."""
    costs = costs_of(measured)
    if not costs:
        return None
    many, metric = len(measured) > MOST_LINES, measured[0].kind.main
    figure, axes_of = panels(len(costs), width, 3.0 if width < WIDTH or not many else 4.0, "y")
    for axes, cost in zip(axes_of, costs, strict=True):
        _points(axes, measured, cost, many)
        front = frontier(measured, cost)
        if len(front) > 1:
            places, values = zip(*((cost.of(m), metric.scale * m.headline) for m in front), strict=True)
            axes.plot(places, values, color=QUIET, linewidth=0.9, linestyle=DASHED, zorder=1)
        axes.margins(x=0.1)
        axes.set_xlabel(cost.title)
        axes.set_ylabel(metric.title_with("on dev") if axes is axes_of[0] or width < WIDTH else "")
    keys = [_key(m, place, many) for place, m in enumerate(measured)] + [Line2D([], [], color=QUIET, linewidth=0.9, linestyle=DASHED)]
    key_below(figure, keys, [*named(measured), "Pareto front"], 3 if many else 2)
    laid_out(figure)
    for axes, cost in zip(axes_of, costs, strict=True):
        _labels(axes, measured, cost, many)
    return figure


def _key(m: Measured, place: int, many: bool) -> Line2D:
    """How the legend shows an arm."""
    colour, marker = (COLOURS[0], "o") if many else (COLOURS[place], MARKERS[place])
    face = PAPER if m.arm.zero_shot else colour
    return Line2D([], [], color=colour, marker=marker, markerfacecolor=face, linestyle="none", markersize=3.5 if many else 6)


def _points(axes: Axes, measured: Sequence[Measured], cost: Cost, many: bool) -> None:
    """Every arm with its interval; few of equal cost are set side by side."""
    metric, seen = measured[0].kind.main, [cost.of(m) for m in measured]
    figure = axes.get_figure(root=True)
    assert figure is not None
    for place, (m, at) in enumerate(zip(measured, seen, strict=True)):
        if at is None:
            continue
        aside = 0.0 if many else 6.0 * (seen[:place].count(at) - (seen.count(at) - 1) / 2)
        where = axes.transData + ScaledTranslation(aside / 72, 0, figure.dpi_scale_trans)
        low, high = ends(m, metric)
        point, said = _key(m, place, many), f"{value_of(m, metric)}\n{quantity(at)} {cost.unit}"
        bar = Line2D([at, at], [low, high], color=point.get_color(), linewidth=0.7 if many else 1.0, alpha=0.35 if many else 1.0)
        point.set_data([at], [metric.scale * m.headline])
        for artist in (bar, point):
            artist.set_transform(where)
            axes.add_line(artist)
            tell(artist, m, said)
        axes.update_datalim([(at, low), (at, high)])  # a shifted artist does not count for the limits
    axes.autoscale_view()


def _labels(axes: Axes, measured: Sequence[Measured], cost: Cost, many: bool) -> None:
    """Numbers beside all of many arms, those on the front bold; names beside the front of a few."""
    front, metric = frontier(measured, cost), measured[0].kind.main
    shown = [(place, m) for place, m in enumerate(measured, start=1) if cost.of(m) is not None and (many or m in front)]
    points = [(cost.of(m) or 0.0, metric.scale * m.headline) for _, m in shown]
    texts = [str(place) if many else written(m.arm, 26) for place, m in shown]
    for note, (_, m) in zip(label_points(axes, points, texts), shown, strict=True):
        note.set_fontweight("bold" if many and m in front else "normal")
        tell(note, m, f"{value_of(m, metric)}\n{quantity(cost.of(m))} {cost.unit}")


def front_in_words(measured: Sequence[Measured]) -> str:
    """`On the Pareto front in ms, cheapest first: lora.r=8 (12.6 ms, 68.2 %).`, one sentence for each cost."""
    said = []
    for cost in costs_of(measured):
        front = frontier(measured, cost)
        unit = f" {measured[0].kind.main.unit}" if measured[0].kind.main.unit else ""
        arms = [f"{m.arm.label} ({quantity(cost.of(m))} {cost.unit}, {number(m.kind.main, m.headline)}{unit})" for m in front]
        said.append(f"On the Pareto front in {cost.unit}, cheapest first: {', '.join(arms)}.")
    return " ".join(said)


def curve(arm: Row, key: str) -> tuple[list[float], list[float]]:
    """(optimizer steps, values) of one curve of a run; empty where it was not recorded."""
    rows = [(row["step"], row[key]) for row in curve_files.read(arm.folder) if key in row]
    return [step for step, _ in rows], [value for _, value in rows]


def restarts(arm: Row) -> list[int]:
    """Optimizer steps at which training went on after it was cut off."""
    return sorted({cut["step"] for cut in arm.run.facts.get("interruptions", ()) if cut.get("step")})


def training_curves(measured: Sequence[Measured], width: float = WIDTH) -> Figure | None:
    """Training loss and the headline on minival over optimizer steps, in the arms' colours; None if no arm recorded either."""
    metric = measured[0].kind.main
    lines = [("train/loss", "training loss, nats per answer", 1.0), _minival(metric)]
    drawn = [(*line, [curve(m.arm, line[0]) for m in measured]) for line in lines]
    drawn = [line for line in drawn if any(steps for steps, _ in line[3])]
    if not drawn:
        return None
    figure, axes_of = panels(len(drawn), width, 2.7)
    handles = {}
    for axes, (_, title, scale, curves) in zip(axes_of, drawn, strict=True):
        for place, (m, (steps, values)) in enumerate(zip(measured, curves, strict=True)):
            if steps:
                (handles[place],) = axes.plot(
                    steps, [scale * value for value in values], color=COLOURS[place], marker=MARKERS[place],
                    markevery=max(1, len(steps) // 6), markersize=4,
                )  # fmt: skip
                tell(handles[place], m, f"{title}: {scale * values[-1]:.4g} at step {steps[-1]:g}")
                for step in restarts(m.arm):
                    axes.axvline(step, color=COLOURS[place], linewidth=0.9, linestyle=DOTTED, zorder=1)
        axes.set_xlabel("optimizer steps")
        axes.set_ylabel(title)
    key_below(figure, [handles[place] for place in sorted(handles)], [written(measured[place].arm) for place in sorted(handles)])
    return figure


def _minival(metric: Metric) -> tuple[str, str, float]:
    return f"minival/{metric.name}", metric.title_with("on minival"), metric.scale
