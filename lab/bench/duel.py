"""One arm of ours against the same arm through TRL, step by step, in turns."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from lab import run as running
from lab.bench import bundle, comparing, peer, rounds
from lab.bench.figures import Figure, spread
from lab.bench.rounds import WARM_UP, Taken
from lab.bench.steps import OurArm, lasting
from lab.config import Experiment
from lab.host.progress import Report, silent


def measure(x: Experiment, num_rounds: int, steps: int, report: Report = silent) -> list[Figure]:
    """Step times of ours, of TRL at its defaults and at the fastest of the settings tried, and their ratios.

    Raises `BenchError` instead of a ratio where losses differ, `ConfigError` for an arm that TRL cannot train.
    """
    bundle.require_plain(x)
    threads = x.trainer.threads
    with tempfile.TemporaryDirectory(prefix="lab-bench-") as scratch:
        files = bundle.write(lasting(x, steps), running.prepare(x, report), Path(scratch) / "bundle")
        tried = try_all(files, peer.candidates(tuple(sorted({1, threads}))), steps, report)
        best = fastest(tried)
        peers = {"TRL, defaults": peer.PeerArm(files, peer.defaults(threads)), "TRL, best": peer.PeerArm(files, best)}
        taken = rounds.take_turns({"ours": OurArm(x), **peers}, num_rounds, steps, report)
    ours = taken["ours"]
    examples = x.trainer.batch_size * x.trainer.accumulate_grad_batches
    figures = [
        Figure("throughput, ours", examples / statistics.median(ours.seconds), "examples/s", f"{examples} a step"),
        *spread("step, ours", ours.seconds),
        Figure("processor time a step, ours", 1e3 * ours.cpu_s, "ms", "warm-up included"),
        Figure("peak memory, ours", ours.peak_mb, "MiB", "resident"),
    ]
    for name in peers:
        figures += comparing.against(ours, taken[name], name, examples)
    for each, turn in tried.items():
        figures.append(Figure(f"tried: {each.name}", 1e3 * statistics.median(turn.seconds), "ms", "a step"))
    note = f"{num_rounds} turns, the first {WARM_UP} steps of each left out"
    return [*figures, Figure("steps timed, each arm", float(num_rounds * steps), "steps", note)]


def try_all(files: Path, settings: list[peer.Settings], steps: int, report: Report) -> dict[peer.Settings, Taken]:
    """One turn of TRL in each of the settings."""
    taken = rounds.take_turns({each.name: peer.PeerArm(files, each) for each in settings}, 1, steps, report)
    return {each: taken[each.name] for each in settings}


def fastest(tried: dict[peer.Settings, Taken]) -> peer.Settings:
    """The settings with the shortest median step."""
    return min(tried, key=lambda each: statistics.median(tried[each].seconds))
