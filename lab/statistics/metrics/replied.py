"""Metrics of replies that come without probabilities: those of `text` that need none."""

from __future__ import annotations

from dataclasses import replace

from lab.statistics.metrics import text

UNTOLD = {"log_p", "log_p_reference"}
METRICS = {name: metric for name, metric in text.KIND.metrics.items() if not UNTOLD & set(metric.needs)}

KIND = replace(
    text.KIND, name="replied", metrics=METRICS, shown=[name for name in text.KIND.shown if name in METRICS], watched=text.KIND.headline, own=[],
)  # fmt: skip
