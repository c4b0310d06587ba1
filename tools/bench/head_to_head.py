"""One arm of ours against the same arm through TRL, step by step, interleaved; a ratio only where both did the same arithmetic."""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import run as running
from lab.bench.results import WARM_UP, BenchError, Figure, Round, spread
from lab.bench.steps import lasting, through_lightning
from lab.config import Experiment
from lab.host.progress import Report, silent
from tools.bench import bundle, trl_baseline
from tools.bench.interleaved_runs import Measured, interleave

TOLERANCE = 1e-5
"""Largest difference of two losses of one step in float32, times the loss where that is above 1."""
COMPARED = 5
"""First steps whose losses are compared: later ones drift apart by rounding alone."""


@dataclass(frozen=True)
class OurArm:
    """One arm as `lab.train` trains it, features cached."""

    x: Experiment

    def open(self) -> Callable[[int], Round]:
        """Load base and data, compute features that the cache lacks."""
        prepared = running.prepare(self.x)
        return lambda steps: through_lightning(self.x, prepared, steps)


def measure(x: Experiment, num_rounds: int, steps: int, report: Report = silent) -> list[Figure]:
    """Step times of ours, of TRL at its defaults and at the fastest of the settings tried, and their ratios.

    Raises `BenchError` instead of a ratio where losses differ, `ConfigError` for an arm that TRL cannot train.
    """
    bundle.require_plain(x)
    threads = x.trainer.threads
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as scratch:
        files = bundle.write(lasting(x, steps), running.prepare(x, report), Path(scratch) / "bundle")
        tried = try_all(files, trl_baseline.candidates(tuple(sorted({1, threads}))), steps, report)
        peers = {"TRL, defaults": trl_baseline.defaults(threads), "TRL, best": fastest(tried)}
        arms = {name: trl_baseline.TrlArm(files, settings) for name, settings in peers.items()}
        measured = interleave({"ours": OurArm(x), **arms}, num_rounds, steps, report)
    ours = measured["ours"]
    examples = x.trainer.batch_size * x.trainer.accumulate_grad_batches
    figures = speed_figures("ours", ours, examples)
    for name in peers:
        figures += [*speed_figures(name, measured[name], examples), *ratios(ours, measured[name], name)]
    figures += [Figure(f"tried: {each.name}", 1e3 * statistics.median(one.seconds), "ms", "a step") for each, one in tried.items()]
    note = f"{num_rounds} rounds, the first {WARM_UP} steps of each left out"
    return [*figures, Figure("steps timed, each arm", float(num_rounds * steps), "steps", note)]


def try_all(
    files: Path, settings: Sequence[trl_baseline.Settings], steps: int, report: Report
) -> dict[trl_baseline.Settings, Measured]:
    """One round of TRL in each of the settings."""
    measured = interleave({each.name: trl_baseline.TrlArm(files, each) for each in settings}, 1, steps, report)
    return {each: measured[each.name] for each in settings}


def fastest(tried: dict[trl_baseline.Settings, Measured]) -> trl_baseline.Settings:
    """The settings with the shortest median step."""
    return min(tried, key=lambda each: statistics.median(tried[each].seconds))


def speed_figures(name: str, arm: Measured, examples: int) -> list[Figure]:
    """Step time, throughput, processor time and memory. examples: in one step."""
    return [
        *spread(f"step, {name}", arm.seconds),
        Figure(f"throughput, {name}", examples / statistics.median(arm.seconds), "examples/s", f"{examples} a step"),
        Figure(f"processor time a step, {name}", 1e3 * arm.cpu_s, "ms", "all processes of the arm, warm-up included"),
        Figure(f"peak memory, {name}", arm.peak_mb, "MiB", "resident, main process"),
    ]


def ratios(ours: Measured, theirs: Measured, name: str) -> list[Figure]:
    """Step times of a peer over ours. Raises `BenchError` where losses differ."""
    pairs = zip(ours.rounds, theirs.rounds, strict=True)
    difference = max(require_same_losses(mine.losses, other.losses, name) for mine, other in pairs)
    note = f"losses of {COMPARED} steps differ by {difference:.1e} at most"
    ways = (("medians", statistics.median), ("smallest", min))
    return [Figure(f"{name} / ours, {what}", how(theirs.seconds) / how(ours.seconds), "times", note) for what, how in ways]


def gap(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative difference of the losses of the first steps; infinite where one is no number."""
    pairs = list(zip(ours, theirs, strict=False))[:COMPARED]
    return max(abs(a - b) / max(abs(a), 1e-3) if math.isfinite(a) and math.isfinite(b) else math.inf for a, b in pairs)


def require_same_losses(ours: Sequence[float], theirs: Sequence[float], name: str) -> float:
    """The largest difference. Raises `BenchError` if it is above `TOLERANCE` or not a number: the arms did not do the same work."""
    pairs = list(zip(ours, theirs, strict=False))[:COMPARED]
    difference = max(abs(a - b) / max(1.0, abs(a)) if math.isfinite(a) and math.isfinite(b) else math.inf for a, b in pairs)
    if difference > TOLERANCE:
        rows = "\n".join(f"  step {step}: ours {a:.7f}, {name} {b:.7f}" for step, (a, b) in enumerate(pairs, 1))
        raise BenchError(
            f"no ratio is printed: the losses of the first steps differ by {difference:.2g}, more than {TOLERANCE:.0e}, "
            f"so ours and {name} have not done the same work.\n{rows}"
        )
    return difference
