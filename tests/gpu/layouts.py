"""Ways to compute one step at the published widths and two blocks: rows, trees, and rows through Liger's kernels, by losses, seconds, memory."""

from __future__ import annotations

import importlib.util
import statistics
import time
from pathlib import Path

from .scale import Scale
from .sheet import Sheet

STEPS = 20
APART = 2e-2
"""Largest relative gap of a loss of `STEPS` steps in bfloat16."""
WAYS = {"rows": ("trainer.layout=rows",), "trees": ("trainer.layout=trees",), "liger": ("trainer.layout=rows", "trainer.use_liger_kernel=true")}


def layouts(scale: Scale, sheet: Sheet) -> None:
    """An arm of each over one order of samples."""
    import torch

    from lab import run as running
    from lab.store import curve_files, runs

    path = scale.checkpoint("qwen2_vl", "2b", num_layers=2, depth=2)
    losses: dict[str, list[float]] = {}
    for way, keys in WAYS.items():
        if way == "liger" and (scale.device != "cuda" or importlib.util.find_spec("liger_kernel") is None):
            sheet.skip("losses through Liger's kernels = losses of rows", "it takes a GPU and liger-kernel")
            continue
        x = scale.experiment(
            "qwen2_vl_2b", path, "trainer.batch_size=8", f"trainer.max_steps={STEPS}", "trainer.log_every=1", "data.order=by_image", *keys,
            runs=way,
        )  # fmt: skip
        if scale.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        run = running.run_alone(x, way, time.time())
        rows = curve_files.read(runs.folder(Path(x.tracking.runs_dir), run.identity))
        losses[way] = [row["train/loss"] for row in rows if "train/loss" in row]
        sheet.add(f"training, {way}", run.metrics["train/seconds"], "s", f"{STEPS} steps of 8 questions")
        if scale.device == "cuda":
            sheet.add(f"peak memory, {way}", torch.cuda.max_memory_allocated() / 2**20, "MiB")
        if way == "trees":
            sheet.add("fewer tokens in trees", run.metrics["train/tokens_saved"], "times")
    for way in losses.keys() - {"rows"}:
        gap = max(abs(one - other) / abs(other) for one, other in zip(losses[way], losses["rows"], strict=True))
        found = f"{gap:.1e} of a loss at most, median {statistics.median(losses['rows']):.3f} nats"
        sheet.check(f"losses of {way} = losses of rows", gap <= APART, found)
