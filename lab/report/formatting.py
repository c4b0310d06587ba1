"""Numbers as text, the same in every table: shares in %, intervals in brackets, thousands apart, `–` for what there is not."""

from __future__ import annotations

import math

from lab.statistics.comparing import Comparison
from lab.statistics.intervals import Interval
from lab.statistics.metrics import Metric

NONE = "–"


def percent(share: float | None, digits: int = 1) -> str:
    """0.7123 -> `71.2`."""
    return NONE if share is None or math.isnan(share) else f"{100 * share:.{digits}f}"


def number(metric: Metric, value: float | None) -> str:
    """A metric's value, a share in %."""
    return percent(value) if metric.unit == "%" else decimal(value)


def number_within(metric: Metric, value: float, interval: Interval | None) -> str:
    """`71.2 [69.9, 72.4]`; `71.2 [no interval]` where there should be one and resampling gave none."""
    if interval is None:
        return number(metric, value)
    ends = f"{number(metric, interval.low)}, {number(metric, interval.high)}" if interval.has_ends else "no interval"
    return f"{number(metric, value)} [{ends}]"


def percent_within(share: float, interval: Interval) -> str:
    """The same of a share that is no metric of a table."""
    ends = f"{percent(interval.low)}, {percent(interval.high)}" if interval.has_ends else "no interval"
    return f"{percent(share)} [{ends}]"


def unseen(name: str, accuracy: Interval) -> str | None:
    """What is still possible where all or none of an arm's answers are right, in a sentence; None for any other arm.

    `lora.r=8: 0 of 20 wrong. An error rate of up to 13.9 % is compatible with this (95 % upper bound).`
    """
    if not accuracy.has_ends or 0 < accuracy.estimate < 1:
        return None
    what, rate, bound = "right", "An accuracy", accuracy.high
    if accuracy.estimate == 1:
        what, rate, bound = "wrong", "An error rate", 1 - accuracy.low
    clusters = "" if accuracy.num_clusters == accuracy.num_examples else f", over {accuracy.num_clusters:,} clusters"
    return (
        f"{name}: 0 of {accuracy.num_examples:,} {what}. {rate} of up to {percent(bound)} % is compatible with this "
        f"({100 * accuracy.level:g} % upper bound{clusters})."
    )


def points(difference: float, low: float, high: float) -> str:
    """A difference of shares with its sign: `+2.1 [+1.0, +3.2]`; `+2.1 [no interval]` where its ends are infinite."""
    written = [f"{round(100 * value, 1) + 0.0:+.1f}" for value in (difference, low, high) if math.isfinite(value)]
    return "{} [{}, {}]".format(*written) if len(written) == 3 else f"{written[0]} [no interval]"


def difference_within(metric: Metric, c: Comparison) -> str:
    """A difference in any metric with its sign, shares in points: `+2.1 [+1.0, +3.2]`, `-0.012 [-0.020, -0.004]`."""
    if metric.in_points:
        return points(c.difference, c.low, c.high)
    ends = f"{c.low:+.3f}, {c.high:+.3f}" if c.has_interval else "no interval"
    return f"{c.difference:+.3f} [{ends}]"


def decimal(value: float | None, digits: int = 3) -> str:
    """A plain number."""
    return NONE if value is None or math.isnan(value) else f"{value:.{digits}f}"


def count(value: float | None) -> str:
    """1234567 -> `1,234,567`."""
    return NONE if value is None or math.isnan(value) else f"{value:,.0f}"


def quantity(value: float | None) -> str:
    """Three significant digits, thousands apart: milliseconds, rates, megabytes."""
    if value is None or math.isnan(value):
        return NONE
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def tokens(spent: tuple[float, int, int]) -> str:
    """`196`, or `182.4 (64 to 256)` where images cost different numbers."""
    mean, least, most = spent
    return str(least) if least == most else f"{mean:.1f} ({least} to {most})"


def capital(text: str) -> str:
    """The text as a sentence begins."""
    return text[:1].upper() + text[1:]


def arms(number: int) -> str:
    """`1 arm`, `1,000 arms`."""
    return f"{number:,} arm{'' if number == 1 else 's'}"


def p_value(p: float) -> str:
    """Three decimals; `<0.001` below."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def shorten(text: str, width: int) -> str:
    """One line of at most `width` characters, with an ellipsis where something was cut."""
    flat = " ".join(text.split())
    return flat if len(flat) <= width else flat[: width - 1].rstrip() + "…"
