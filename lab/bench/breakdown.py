"""Where the time of the composed config goes: throughput, parts of a step, share of the ceiling, memory, answering."""

from __future__ import annotations

import statistics

import torch

from lab import run as running
from lab.bench import answering, peak_flops, steps
from lab.bench.results import BenchError, Figure, Round, spread
from lab.config import Experiment, trains
from lab.errors import ConfigError
from lab.evaluation.latency import peak_memory_mb
from lab.host.progress import Report, silent
from lab.run.assembly import attached

REST = "Lightning, logging, bookkeeping"
TRAINED_STEPS = 30
"""Steps before answers are compared, so that a model of random weights has learnt to say an answer word at all."""


def measure(x: Experiment, rounds: int, num_steps: int, report: Report = silent) -> list[Figure]:
    """All figures of the composed config. Raises `BenchError` if the bare loop does not do what the real one does."""
    if not trains(x):
        raise ConfigError("trainer.max_steps=0: nothing is trained, so there is no step to measure. Give it a number of steps.")
    prepared = running.prepare(x, report)
    device = prepared.vlm.device
    top = peak_flops.matrix_product_peak(getattr(torch, x.model.dtype.value), device)
    flops = steps.flops_of_step(x, prepared)
    real, bare = interleave(x, prepared, rounds, num_steps, report)
    figures = step_figures(x, real, bare, flops, top)
    figures.append(Figure("peak memory", peak_memory_mb(device), "MiB", "resident; on a GPU what was allocated"))
    report("training before answering", 0, 1, "")
    with attached(x, prepared.vlm) as vlm:
        steps.bare_steps(steps.lasting(x, TRAINED_STEPS), vlm, prepared.encoded(x)["train"])
        report("training before answering", 1, 1, "")
        return figures + answering.measure(x, vlm, prepared.encoded(x)["dev"], report=report)


def interleave(
    x: Experiment, prepared: running.Prepared, rounds: int, num_steps: int, report: Report
) -> tuple[list[Round], list[Round]]:
    """Interleaved rounds of the real loop and of the bare one, their losses equal to the last bit."""
    real, bare = [], []
    for done in range(rounds):
        real.append(steps.through_lightning(x, prepared, num_steps))
        bare.append(steps.bare(x, prepared, num_steps))
        if real[-1].losses != bare[-1].losses:
            raise BenchError(
                f"the bare loop does not do what the real one does: losses {bare[-1].losses[:3]} against {real[-1].losses[:3]}."
            )
        report(f"rounds of {num_steps} steps, real and bare", done + 1, rounds, "")
    return real, bare


def step_figures(x: Experiment, real: list[Round], bare: list[Round], flops: float, top: float) -> list[Figure]:
    """Step time, its parts, throughput and share of the ceiling.

    The parts are those of the bare loop; the rest is what the real loop takes longer, so that they add up to its step.
    """
    seconds = [one for each in real for one in each.seconds]
    whole = statistics.median(seconds)
    parts = {part: statistics.median([one for each in bare for one in each.parts[part]]) for part in steps.PARTS}
    parts[REST] = whole - sum(parts.values())
    examples = x.trainer.samples_per_step
    figures = [Figure("throughput", examples / whole, "examples/s", f"{examples} a step"), *spread("step", seconds)]
    figures += [Figure(f"  {part}", 1e3 * each, "ms", f"{100 * each / whole:.1f} %") for part, each in parts.items()]
    least = min(one for each in bare for one in each.seconds)
    return [
        *figures,
        Figure(f"{REST} / step, medians", 100 * parts[REST] / whole, "%"),
        Figure(f"{REST} / step, smallest", 100 * (1 - least / min(seconds)), "%"),
        Figure("matrix products of a step", flops / 1e9, "GFLOP", "forward and backward, padding included"),
        Figure("ceiling", top / 1e9, "GFLOP/s", f"fastest matrix product, {x.model.dtype.value}, {x.trainer.threads} threads"),
        Figure("achieved", flops / whole / 1e9, "GFLOP/s"),
        Figure("achieved / ceiling", 100 * flops / whole / top, "%"),
    ]
