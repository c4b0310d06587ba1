"""What the base answers to dev untrained, beside every arm that trains from it (`evaluation.zero_shot`).

    <runs_dir>/zero_shot/<digest>/dev.parquet      the predictions: asked once, whatever arms, sweeps and processes want them

The digest stands for all that they depend on: base, processor, prompt, what the dials make of an image, the questions and how they are asked.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

from lab import data
from lab.answers import predictions
from lab.artifacts import contract
from lab.config import Experiment, ImageOrder, adds_modules, asked, trains
from lab.evaluation import asking
from lab.host.files import values_hash
from lab.host.progress import Report
from lab.model import Vlm
from lab.records import Text
from lab.run.assembly import assemble
from lab.statistics import summary
from lab.statistics.metrics import KINDS
from lab.store import runs
from lab.training.datamodule import Examples

log = logging.getLogger(__name__)

NAME = "zero_shot"
"""Among what is asked of a run, and before the names of its numbers."""


def wanted(x: Experiment) -> dict[str, str]:
    """It by `NAME`, with a digest as `lab.config.asked` has it; nothing where it is not asked for, or dev itself is zero-shot."""
    on = x.evaluation.zero_shot
    on = data.named(x.data.name).zero_shot if on is None else on
    return {NAME: values_hash([asked(x)[name] for name in ("dev", "post")], 10)} if on and trains(x) and not adds_modules(x) else {}


def measure(x: Experiment, base: Vlm, dev: Examples, report: Report) -> tuple[dict[str, float], dict[str, float]]:
    """The numbers of the base without adapters, and its row below the arms: its headline by name. Asks where nobody has before."""
    vlm, readout = assemble(x, base), dev.encoder.readout
    path = place(x, vlm, dev)
    with runs.held(path.parent, math.inf):
        if not path.exists():
            part = runs.part_file(path, path.parent.name)
            predictions.write(path, asking.ask(vlm, dev, readout, x.evaluation, "dev, zero-shot", report, part=part))
        elif readout.kind == Text.kind:
            predictions.rewrite(path, "post", x.prompt.post)
        table = predictions.read(path)
    numbers = summary.of_split(NAME, table, x.evaluation.bootstrap)
    shown = f"zero-shot: the base with prompt={x.prompt.name} vision_tokens={x.vision_tokens.name}"
    return numbers, {shown: numbers[f"{NAME}/{KINDS[table.kind].headline}"]}


def place(x: Experiment, vlm: Vlm, dev: Examples) -> Path:
    """Where the predictions lie."""
    described: dict[str, Any] = contract.describe(x, vlm, dev.encoder, dev.encoder.readout)
    base = {key: value for key, value in described["base"].items() if key not in ("path", "revision")}
    answers = {key: value for key, value in described["answers"].items() if key != "post"}
    kept = {key: value for key, value in described.items() if key not in ("lora", "libraries")} | {"base": base, "answers": answers}
    seed = x.seed if x.prompt.image_order is ImageOrder.random else None
    digest = values_hash([kept, seed, data.fingerprint(dev.split), asked(x)["dev"]], 10)
    return Path(x.tracking.runs_dir) / NAME / digest / "dev.parquet"
