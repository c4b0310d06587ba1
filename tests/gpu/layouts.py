"""`trainer.layout` at the published widths and two blocks: the same samples in rows and as trees, by their losses, seconds and memory."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

from .scale import Scale
from .sheet import Sheet

STEPS = 20
APART = 2e-2
"""Largest relative gap of a loss of `STEPS` steps in bfloat16."""


def layouts(scale: Scale, sheet: Sheet) -> None:
    """An arm of each layout over one order of samples."""
    import torch

    from lab import run as running
    from lab.store import curve_files, runs

    path = scale.checkpoint("qwen2_vl", "2b", num_layers=2, depth=2)
    curves: dict[str, list[dict[str, float]]] = {}
    for layout in ("rows", "trees"):
        x = scale.experiment(
            "qwen2_vl_2b", path, "trainer.batch_size=8", f"trainer.max_steps={STEPS}", "trainer.log_every=1", "data.order=by_image",
            f"trainer.layout={layout}", runs=layout,
        )  # fmt: skip
        if scale.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        run = running.run_alone(x, layout, time.time())
        rows = curve_files.read(runs.folder(Path(x.tracking.runs_dir), run.identity))
        curves[layout] = [row for row in rows if "train/loss" in row]
        sheet.add(f"training, {layout}", run.metrics["train/seconds"], "s", f"{STEPS} steps of 8 questions")
        if scale.device == "cuda":
            sheet.add(f"peak memory, {layout}", torch.cuda.max_memory_allocated() / 2**20, "MiB")
        if layout == "trees":
            sheet.add("fewer tokens in trees", run.metrics["train/tokens_saved"], "times")
    losses = {layout: [row["train/loss"] for row in curve] for layout, curve in curves.items()}
    gap = max(abs(one - other) / abs(other) for one, other in zip(losses["trees"], losses["rows"], strict=True))
    sheet.check("losses of trees = losses of rows", gap <= APART, f"{gap:.1e} of a loss at most, median {statistics.median(losses['rows']):.3f} nats")
