"""`trainer.layout`: whether the samples of a forward may stand as trees (`lab.model.trees`), what that saves, and that it changes nothing.

Which samples make up a step is the order's affair (`data.order`): a layout is chosen afterwards, and moves rounding alone. Before the first
step a changed token of one sample must leave what is predicted of every other equal to the bit, and log p of the labels must be that of rows
within what rows differ by among themselves, padded against alone.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from lab.config import Experiment
from lab.errors import ConfigError, ModelError
from lab.model import Vlm
from lab.model.batching import IGNORED, to_device
from lab.model.encoding import Encoder
from lab.model.family import Family
from lab.model.trees import Tree, row_of, trees_of
from lab.records import Batch
from lab.training.losses import of_labels

if TYPE_CHECKING:
    from lab.training.datamodule import DataModule
    from lab.training.learner import Learner

log = logging.getLogger(__name__)

MASKED = ("sdpa", "eager")
"""Kinds of attention that take a mask of which position reads which."""
FORWARDS = 4
"""First forwards whose tokens are counted."""
COMPARED = 8
"""Samples at most that are held against rows."""
PAYS = {False: 1.1, True: 1.3}
"""By what factor `auto` wants fewer tokens; True: over the float32 step on a CPU, which reads what begins all rows once already."""
TOLERANCE = {torch.float32: 1e-3}
"""Least difference in log p of a label, nats, that is no rounding, by dtype; of 16 bits `TOLERANCE_16`."""
TOLERANCE_16 = 0.25


@dataclass
class Settled:
    """What `trainer.layout` comes to. why: of rows where auto chose them. facts and metrics: as `run.json` keeps them."""

    layout: str = "rows"
    why: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


def why_not(x: Experiment, family: Family) -> str | None:
    """Why trees are refused to an experiment, known before anything loads, as keys, a reason and a remedy; None where they are offered."""
    attention = x.model.attn_implementation or family.attention[0]
    reasons = {
        f"model.family={family.name}: {family.why_not('trees')}": not family.offers("trees"),
        f"model.attn_implementation={attention}: it takes no mask of which token reads which. Set model.attn_implementation=sdpa": (
            attention not in MASKED
        ),
        f"conditioning={x.conditioning.name}: cross-attention reads the images of a row, and a row of several trees has those of all. Set "
        "conditioning=prefix": x.conditioning.name != "prefix",
        "model.quantisation=int8: bitsandbytes looks at all of a row for numbers that it does not round, so one question moves what is computed of "
        "another. Set model.quantisation=nf4": x.model.quantisation.value == "int8",
        "trainer.strategy=fsdp: one device has more rows of a forward than another, and all must gather weights as often. Set trainer.strategy=ddp": (
            x.trainer.sharded
        ),
        "trainer.packing=true: it lays the same rows out otherwise; trees are packed without it. Set trainer.packing=false": x.trainer.packing,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def one_draw(x: Experiment) -> str | None:
    """What is another draw, of equal expectation, than in rows, so that `auto` takes rows; None where nothing is drawn."""
    if not (x.lora.lora_dropout > 0 and x.lora.r > 0):
        return None
    return (
        f"lora.lora_dropout={x.lora.lora_dropout:g}: the questions of a picture share one draw of what is dropped of it, where rows draw for each; "
        "the expected gradient is that of rows"
    )


def why_rows(x: Experiment, family: Family) -> str | None:
    """Why rows are taken whatever the data, known before anything loads."""
    drawn = one_draw(x) if x.trainer.layout == "auto" else None
    return why_not(x, family) or (None if drawn is None else f"{drawn}: trainer.layout=trees takes it so")


def check(x: Experiment, family: Family) -> None:
    """Raise a `ConfigError` where `trainer.layout=trees` is refused before anything loads."""
    if x.trainer.layout == "trees":
        family.require("trees")
    if x.trainer.layout == "trees" and (why := why_not(x, family)):
        raise ConfigError(f"trainer.layout=trees, {why}, or trainer.layout=rows.")


def drops(vlm: Vlm) -> str | None:
    """Why a loaded model that trains is refused: something in it is drawn at random, or reads a window alone."""
    config = vlm.base_model.config.get_text_config()
    if "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        return "its language model reads a window of the last tokens, which a row of several questions would shift"
    own = [module for name, module in vlm.model.named_modules() if isinstance(module, nn.Dropout) and ".lora_dropout" not in name]
    if any(module.p > 0 and module.training for module in own) or getattr(config, "attention_dropout", 0.0):
        return "the checkpoint has dropout of its own, of which the questions of a picture would share one draw"
    return None


def settle(x: Experiment, learner: Learner, data: DataModule, size: int) -> Settled:
    """Choose the layout of an arm's training. size: samples of a forward on one device.

    Raises `ConfigError` or `ModelError` where trees are asked for and would not be exact. Leaves model and random numbers as they were.
    """
    if x.trainer.layout == "rows":
        return Settled()
    family = learner.vlm.family
    why, drawn = why_rows(x, family) or drops(learner.vlm), one_draw(x)
    examples = [] if why else data.upcoming(FORWARDS, first=True)
    forwards = [trees_of(data.train.encoder, examples[start : start + size]) for start in range(0, len(examples), size)]
    saved = tokens_saved(forwards) if forwards else 1.0
    found = Settled("trees", None, {"tokens_saved": saved}, {"train/tokens_saved": saved})
    idle = "" if x.data.order == "by_image" else f" (data.order={x.data.order} shares next to nothing: data.order=by_image brings them together)"
    least = PAYS[bool(learner.fused.blocks)]
    try:
        if why is None and x.trainer.layout == "auto" and saved < least:
            why = f"trees would have {saved:.2f} times fewer tokens, and pay from {least:g} on{idle}"
        if why is None:
            found.facts |= {"one_draw": drawn} if drawn else {}
            found.facts |= held_to_rows(learner, data.train.encoder, list(itertools.chain(*forwards)))
    except ModelError as error:
        if x.trainer.layout == "trees":
            raise
        why = str(error)
    if why is not None:
        if x.trainer.layout == "trees":
            raise ConfigError(f"trainer.layout=trees: {why}. Set trainer.layout=rows.")
        log.info("trainer.layout=auto: a row for each question. %s.", why)
        return Settled(why=why, facts={"why": why, **found.facts})
    if drawn:
        log.warning("trainer.layout=trees, %s.", drawn)
    log.info(
        "trainer.layout=%s: trees, %.2f times fewer tokens in the first %d forwards%s; log p of answers is that of rows to %.1e (rows among "
        "themselves: %.1e)",
        x.trainer.layout, saved, len(forwards), idle, found.facts["gap"], found.facts["gap_of_rows"],
    )  # fmt: skip
    return found


def tokens_saved(forwards: Sequence[Sequence[Tree]]) -> float:
    """How many times fewer tokens trees have than rows without padding."""
    trees = list(itertools.chain(*forwards))
    return sum(tree.length_in_rows for tree in trees) / sum(tree.length for tree in trees)


def held_to_rows(learner: Learner, encoder: Encoder, trees: Sequence[Tree]) -> dict[str, float]:
    """By how much log p of a label differs between trees and rows, at most, and between padded rows and rows alone.

    Raises `ModelError` where samples read each other, or the two layouts differ by more than rounding.
    """
    device, training = learner.vlm.device, learner.training
    if not learner.vlm.spread:
        learner.to(device)
    some = compared(trees)
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        learner.eval()
        try:
            require_isolated(learner, encoder, some)
            examples = [example for tree in some for example in tree.examples]
            alone, padded = (
                torch.cat([log_p(learner, encoder.collate(part, with_answers=True, learned=True)) for part in parts])
                for parts in ([[example] for example in examples], [examples])
            )
            laid = log_p(learner, row_of(encoder, some))  # not laid out anew, which would join trees of one picture from two forwards
        finally:
            learner.train(training)
    gap, among = ((one - alone).abs().max().item() for one in (laid, padded))
    if not gap <= max(10 * among, TOLERANCE.get(learner.vlm.dtype, TOLERANCE_16)):
        raise ModelError(
            f"trainer.layout=trees: log p of an answer's token is another than in a row of its own, by {gap:.2g} nats, where rows differ by "
            f"{among:.2g} among themselves: this checkpoint or this version of Transformers does not take trees. Set trainer.layout=rows."
        )
    return {"gap": gap, "gap_of_rows": among}


def compared(trees: Sequence[Tree]) -> list[Tree]:
    """The largest trees, of `COMPARED` samples together, of a larger tree the first samples."""
    found: list[Tree] = []
    for tree in sorted(trees, key=lambda tree: -len(tree.examples)):
        left = COMPARED - sum(len(one.examples) for one in found)
        if left > 0:
            found.append(replace(tree, examples=tree.examples[:left], rows=tree.rows[:left]))
    return found


def log_p(learner: Learner, batch: Batch) -> torch.Tensor:
    """Of every label that counts, sample by sample, in training's own call."""
    batch = to_device(batch, learner.vlm.device)
    assert batch.target.labels is not None
    found, _ = of_labels(learner.fused.predict(batch), batch.target.labels)
    return found[batch.target.labels != IGNORED]


def require_isolated(learner: Learner, encoder: Encoder, trees: Sequence[Tree]) -> None:
    """Raise a `ModelError` where a changed token of the first sample's own moves what is predicted of another."""
    batch = to_device(row_of(encoder, trees), learner.vlm.device)
    first = trees[0]
    start, stop = first.shared, first.shared + first.branches[0]
    ids = batch.prompt.ids.clone()
    labels, places = batch.target.labels, batch.target.places
    assert labels is not None and places is not None
    ids[0, start] = next(label for label in labels[0] if label != ids[0, start])
    own = (places >= start) & (places < stop)
    before, after = (learner.fused.predict(one) for one in (batch, replace(batch, prompt=replace(batch.prompt, ids=ids))))
    if not before[:, ~own].equal(after[:, ~own]) or before[:, own].equal(after[:, own]):
        attention = learner.vlm.base_model.config._attn_implementation
        raise ModelError(
            f"trainer.layout=trees: with model.attn_implementation={attention} this checkpoint or this version of "
            "Transformers does not keep questions in one row apart: a changed token of one moves what is predicted of another. Set "
            "trainer.layout=rows."
        )
