"""What the base answers to dev untrained, its own and that of other data, beside every arm that trains from it (`evaluation.zero_shot`).

    <runs_dir>/zero_shot/<digest>/dev.parquet      the predictions: asked once, whatever arms, sweeps and processes want them

The digest stands for all that they depend on: base, processor, prompt, what the dials make of an image, the questions and how they are asked.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path

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
from lab.run.other_data import OTHERS, Other, section_of
from lab.statistics import summary
from lab.statistics.metrics import KINDS
from lab.store import runs
from lab.training.examples import Examples

log = logging.getLogger(__name__)

NAME = "zero_shot"
"""Among what is asked of a run, and before the names of its numbers."""


def wanted(x: Experiment) -> dict[str, str]:
    """It by `NAME`, and of other data by `name_of`, with digests as `lab.config.asked` has them; nothing where it is not asked for, or
    dev itself is zero-shot.
    """
    on = x.evaluation.zero_shot
    on = data.named(data.lead(x.data).name).zero_shot if on is None else on
    if not on or not trains(x) or adds_modules(x):
        return {}
    things = asked(x)
    others = {name_of(name): values_hash([digest, things["post"]], 10) for name, digest in things.items() if name.startswith(OTHERS)}
    return {NAME: values_hash([things[name] for name in ("dev", "post")], 10)} | others


def name_of(asked: str) -> str:
    """Its name among what is asked, of other data by their name there."""
    return f"{NAME} {asked}"


def others_of(todo: Collection[str]) -> list[str]:
    """The names of other data of which it is asked, among what is asked."""
    return [name.removeprefix(name_of("")) for name in todo if name.startswith(name_of(""))]


def measure(
    x: Experiment, base: Vlm, dev: Examples, others: Sequence[Other], todo: Collection[str], report: Report
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """The numbers of the base without adapters, and its rows below the arms: its headline by name, by the name of other data, "" of its own.

    others: that are asked. todo: what of all that is asked. Asks where nobody has before.
    """
    numbers, rows = {}, {}
    places = {NAME: ("", dev)} | {name_of(other.asked): (other.part.name, other.examples["dev"]) for other in others}
    for name, (data_name, examples) in places.items():
        if name in todo:
            own, rows[data_name] = measure_one(x, base, examples, f"{data_name}/{NAME}" if data_name else NAME, dev.encoder.readout.kind, report)
            numbers |= own
    return numbers, rows


def measure_one(
    x: Experiment, base: Vlm, dev: Examples, name: str, own: str, report: Report
) -> tuple[dict[str, float], dict[str, float]]:
    """The same of one data set's dev. name: before its numbers. own: the kind of answer of the run."""
    vlm, readout = assemble(x, base), dev.encoder.readout
    x = replace(x, evaluation=section_of(x.evaluation, own, readout.kind))
    path = place(x, vlm, dev)
    with runs.held(path.parent, math.inf):
        if not path.exists():
            part = runs.part_file(path, path.parent.name)
            predictions.write(path, asking.ask(vlm, dev, readout, x.evaluation, f"{name.removesuffix(NAME)}dev, zero-shot", report, part=part))
        elif readout.kind == Text.kind:
            predictions.rewrite(path, "post", dev.encoder.prompt.post)
        table = predictions.read(path)
    numbers = summary.of_split(name, table, x.evaluation.bootstrap)
    shown = f"zero-shot: the base with prompt={dev.encoder.prompt.name} vision_tokens={x.vision_tokens.name}"
    return numbers, {shown: numbers[f"{name}/{KINDS[table.kind].headline}"]}


def place(x: Experiment, vlm: Vlm, dev: Examples) -> Path:
    """Where the predictions lie."""
    kept = contract.of_base(contract.describe(x, vlm, dev.encoder, dev.encoder.readout))
    seed = x.seed if dev.encoder.prompt.image_order is ImageOrder.random else None
    digest = values_hash([kept, seed, data.fingerprint(dev.split), asked(x)["dev"]], 10)
    return Path(x.tracking.runs_dir) / NAME / digest / "dev.parquet"
