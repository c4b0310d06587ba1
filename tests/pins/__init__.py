"""What True/False arms give to the last bit: `python -m pins` (with tests/ on the path) writes it down again, for a change meant to move it.

    arms.json   two small arms: losses, scores and answers by column, metrics, adapters, data fingerprints; with what this machine's
                arithmetic gives, since another processor rounds otherwise
    report.md   the report over the made-up runs of synthetic_runs.py, without its stamp
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from synthetic_runs import write_example

from lab import run as running
from lab.answers import predictions
from lab.answers.choice import ChoiceTable
from lab.config import Experiment, identity
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.store import curve_files, runs

ARMS_FILE, REPORT_FILE = Path(__file__).with_name("arms.json"), Path(__file__).with_name("report.md")
SMALL = (
    "data.num_train=64", "data.num_minival=32", "data.num_dev=64", "trainer.max_steps=12", "trainer.batch_size=8", "trainer.val_every=4",
    "optim.lr=0.01", "evaluation.batch_size=16", "evaluation.latency_examples=0", "tracking.enabled=false",
)  # fmt: skip
ARMS = {
    "llm": ("lora.r=4", "evaluation.swap=true", "evaluation.controls=[blank,text_only]", "trainer.restore_best=true"),
    "resampler": (
        "lora=all", "lora.r=2", "lora.lora_dropout=0.1", "prompt=qa", "vision_tokens=resampler", "vision_tokens.budget=4",
        "vision_tokens.width=16", "vision_tokens.heads=2", "trainer.accumulate_grad_batches=2", "trainer.gradient_checkpointing=true",
    ),
}  # fmt: skip
CURVES = ("step", "train/loss", "minival/loss", "minival/nll", "minival/accuracy")
UNSTEADY = ("latency", "quick_latency", "time", "memory", "flops")
"""Metrics that are times or sizes of this process, or counted anew by intent."""


def digest(values: Any) -> str:
    """SHA-256 of an array's bytes, or of anything else as JSON."""
    if isinstance(values, np.ndarray) and values.dtype != object:
        return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]
    plain = values.tolist() if isinstance(values, np.ndarray) else values
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()[:16]


def arithmetic() -> str:
    """What this machine gives for sums whose order, and for functions whose last bit, are the processor's own."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((257, 193)).astype(np.float32) for _ in range(2))
    product = torch.from_numpy(a) @ torch.from_numpy(b).T
    parts = (product.numpy(), product.softmax(1).numpy(), torch.nn.functional.silu(product).numpy(), np.exp(a), np.log(np.exp(a.astype(float))))
    return digest([digest(part) for part in parts])


def arm(x: Experiment) -> dict[str, Any]:
    """Train an arm and write down what it gives."""
    run = running.run_alone(x, "command", time.time())
    folder = runs.folder(Path(x.tracking.runs_dir), identity(x))
    tables = {path.stem.rpartition(".")[2]: predictions.read(path) for path in sorted((folder / "predictions").glob("*.parquet"))}
    steady = {key: repr(value) for key, value in sorted(run.metrics.items()) if key.split("/")[0] not in UNSTEADY and "second" not in key}
    curves = [
        {key: repr(value) for key, value in row.items() if key in CURVES} for row in curve_files.read(folder)
    ]
    return {
        "metrics": steady,
        "curves": curves,
        "predictions": {name: columns(table) for name, table in tables.items()},
        "weights": {
            path.name: {name: digest(value) for name, value in load_file(path).items()}
            for path in sorted((folder / "adapter").glob("*.safetensors"))
        },
        "samples": run.facts["data"]["samples"],
    }


def columns(table: ChoiceTable) -> dict[str, str]:
    """Digests of the columns of a table of True/False predictions."""
    named = {
        "sample_id": table.sample_id, "image_set": table.image_set, "sentence_group": table.question_group, "subset": table.subset,
        "label": table.label, "log_p_true": table.log_p_true, "log_p_false": table.log_p_false, "captured_mass": table.captured_mass,
        "prediction": table.prediction == 0, "image_order": table.image_order, "visual_tokens": table.visual_tokens,
    }  # fmt: skip
    return {name: digest(values) for name, values in named.items()}


def arms(make: Callable[..., Experiment], folder: Path) -> dict[str, Any]:
    """Every pinned arm, with files below a folder."""
    own = (f"tracking.runs_dir={folder}/runs", f"tracking.cache_dir={folder}/cache")
    return {name: arm(make(*SMALL, *options, *own)) for name, options in ARMS.items()}


def report(folder: Path) -> str:
    """The report over made-up runs, without its stamp."""
    sweep = write_example(folder / "runs")
    out = write_report(choose(folder / "runs", sweep.identity), folder / "report")
    lines = (out / "report.md").read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith("<!--")).replace(str(folder), "FOLDER")


def one_thread() -> None:
    """Sums in the order of one thread."""
    torch.set_num_threads(1)
