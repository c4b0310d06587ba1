"""Colours and sizes of all figures. Arms have those of Okabe and Ito (2008), told apart in the common forms of colour blindness."""

from __future__ import annotations

from typing import Any

WIDTH, NARROW = 7.6, 4.1
"""Inches of a figure on a page and on a phone, for 100 % zoom: 9 pt text."""
DOTS = 150
"""Pixels per inch of the PNG files."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6BB1")
ON_ANY_GROUND = tuple("#7A7A7A" if colour == "#000000" else colour for colour in COLOURS)
"""The same where they cannot follow the page's ground, as in MLflow, whose dark page hides black."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
PAPER, INK, AXIS, QUIET, GRID, STRIP = "#ffffff", "#1a1a1a", "#444444", "#6b6b6b", "#e6e6e6", "#b9d3e6"
VARIABLES = {colour.lower(): f"var(--c{place})" for place, colour in enumerate(COLOURS)} | {
    PAPER: "var(--paper)", INK: "var(--ink)", AXIS: "var(--axis)", QUIET: "var(--quiet)", GRID: "var(--grid)", STRIP: "var(--strip)",
}  # fmt: skip
"""What `page.css` calls each of them."""
DASHED, DOTTED = (0, (4, 3)), (0, (1, 2))

STYLE: dict[Any, Any] = {
    "text.parse_math": False,  # a name may hold a dollar sign
    "text.color": INK,
    "font.size": 9.0,
    "axes.titlesize": 9.0,
    "axes.labelsize": 9.0,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": AXIS,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": AXIS,
    "ytick.color": AXIS,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.4,
    "lines.markersize": 5.0,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "svg.fonttype": "none",
}
