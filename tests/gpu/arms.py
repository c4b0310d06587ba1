"""Three arms at the published widths and two blocks: one after another over one base, as a sweep has them, and each a process of its own.

What a step costs by these and in one forward for all arms: `tests.gpu.arms_step`.
"""

from __future__ import annotations

import subprocess
import sys
import time

from .scale import Scale
from .sheet import ROOT, Sheet

RANKS = (8, 16, 32)
STEPS = 20


def arms(scale: Scale, sheet: Sheet) -> None:
    """Seconds from the command to the last arm's end, by both ways, and that both train the same."""
    from lab.store import runs

    path = scale.checkpoint("qwen2_vl", "2b", num_layers=2, depth=2)
    given = ("trainer.batch_size=8", f"trainer.max_steps={STEPS}", "trainer.feature_cache=false", "sweep.self_check=false")
    losses: dict[str, list[float]] = {}
    commands = {
        "one after another over one base": [f"lora.r={','.join(map(str, RANKS))} -m"],
        "each a process of its own": [f"lora.r={rank}" for rank in RANKS],
    }
    for way, asked in commands.items():
        folder = way.replace(" ", "-")
        values, start = [*scale.overrides("qwen2_vl_2b", path, folder), *given], time.perf_counter()
        wait([command(*values, *words.split()) for words in asked])
        sheet.add(f"{len(RANKS)} arms, {way}", time.perf_counter() - start, "s", f"{STEPS} steps of 8, with imports, loading and evaluation")
        found = sorted(runs.all_runs(scale.home / folder), key=lambda run: run.config["lora"]["r"])
        losses[way] = [run.metrics["train/loss"] for run in found]
    gap = max(abs(one - other) for one, other in zip(*losses.values(), strict=True))
    sheet.check("both train the same", gap <= (0.05 if scale.device == "cuda" else 0.0), f"losses at most {gap:.2e} nats apart")


def command(*overrides: str) -> subprocess.Popen[bytes]:
    """`python -m lab.train`, begun."""
    return subprocess.Popen([sys.executable, "-m", "lab.train", *overrides], cwd=ROOT, stdout=subprocess.DEVNULL)


def wait(begun: list[subprocess.Popen[bytes]]) -> None:
    """For all; raises where one fails."""
    codes = [process.wait() for process in begun]
    if any(codes):
        raise RuntimeError(f"exit codes {codes}")
