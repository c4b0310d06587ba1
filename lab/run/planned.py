"""What an arm is expected to take on this machine, kept before it trains, so that its report can hold it against what it took."""

from __future__ import annotations

from typing import Any

from lab import lora
from lab.config import Experiment, trains
from lab.costs import machines, planning
from lab.costs.counting import CostModel
from lab.costs.estimate import Counts, Sizes, estimate
from lab.model.batching import behind_images
from lab.run import forecast
from lab.run.assembly import assemble
from lab.run.sharing import Prepared
from lab.training.capacity import Choice
from lab.training.examples import Examples
from lab.training.steps import num_steps

FACT = "planned"


def planned(x: Experiment, prepared: Prepared, choice: Choice | None) -> dict[str, Any]:
    """`FACT` of a run's record: `train.seconds.low`, `.expected` and `.high`, and the rates that this follows from; of no training nothing.

    choice: of gradient checkpointing. The longest of the first examples is counted, once a process for arms that compute alike.
    """
    if not trains(x):
        return {}
    assert choice is not None
    vlm, train = assemble(x, prepared.vlm), prepared.encoded(x)["train"]
    model = CostModel(vlm, lora.sized(vlm, x.lora))
    size, machine = train.longest, look_at_machine(x)
    trees = forecast.trees_of(x, prepared.splits_of(x), size.length, own_tokens(train))
    learned, ledger = trees.laid_out(size), model.ledger
    work = model.cost(learned).work
    passes = planning.passes_of(x, ledger, choice.on)
    if train.store is None and passes["vision"] == 0:
        passes |= {"vision": 1, "projector": 1}  # of a family whose features cannot be kept
    counts = Counts(
        work, work, planning.unread(model, learned), passes, float(sum(row.trainable for row in ledger)), planning.tensors_of(ledger), choice.on,
        trees.number,
    )  # fmt: skip
    sizes = Sizes(num_steps(x.trainer, train.epoch_length), 0, 0, len(size.tokens), size.length, 1.0)
    found = estimate(x, counts, sizes, machine)
    return {FACT: {"device": machines.HERE, "rates": machine.describe(), "steps": found.steps, "train": {"seconds": found.train.facts()}}}


def look_at_machine(x: Experiment) -> machines.Machine:
    """What this machine does at an arm's dtype; looked at once a process, and by its forks not again."""
    return machines.here(x.model.dtype.value, x.trainer.accelerator, x.trainer.threads)


def own_tokens(train: Examples) -> int:
    """Tokens that the first example has of its own: behind its last image, with its answer."""
    text = train.text(0)
    return len(text.prompt_ids) - behind_images(text.prompt_ids, train.encoder.media_ids) + len(text.answer_ids)
