"""How many arms fit beside one another in the memory of this machine. They share base, features and data; the rest is each one's own."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from lab import lora
from lab.config import Experiment, trains
from lab.run.assembly import assemble
from lab.run.sharing import Prepared
from lab.training import capacity

log = logging.getLogger(__name__)

SURROUNDINGS = 400 * 2**20
"""Bytes of an arm's process beside what `own_bytes` counts: pages of the shared heap that it writes, training loop, evaluation (seen with
the tiny base: 190 to 220 MB in all)."""

GATE_COPIES = 2
"""Of the base, in the equivalence gate: loaded again and merged, and loaded from what was merged."""


def max_concurrent_arms(arms: Sequence[Experiment], prepared: Prepared, limit: int, wanted: int | None = None) -> int:
    """How many arms of one shared base run at once: `limit`, or fewer where memory has no room for so many, but one.

    wanted: so many at least, or it is told that memory has no room for them; None: `limit`.
    """
    wanted = limit if wanted is None else wanted
    kinds = {repr((x.lora, x.prompt, x.vision_tokens, x.conditioning, x.trainer, x.evaluation)): x for x in arms}
    need = max(own_bytes(x, prepared) for x in kinds.values())
    there = capacity.room()
    fitting = max(1, int(min(limit, there // need)))
    if fitting < wanted:
        log.warning(
            "memory: an arm needs about %.1f GB of its own and %.1f GB are there: %d run at once, not %d. "
            "hydra.launcher.max_arms=N says otherwise.", need / 1e9, there / 1e9, fitting, wanted,
        )  # fmt: skip
    return fitting


def own_bytes(x: Experiment, prepared: Prepared) -> float:
    """Bytes of memory that an arm's process needs beside what it shares: adapters, activations, the gate's copies."""
    weights = sum(parameter.nbytes for parameter in prepared.vlm.base_model.parameters())
    gate = GATE_COPIES * weights if x.evaluation.verify else 0.0
    choice = checkpointing_choice(x, prepared)
    return SURROUNDINGS + gate + (0.0 if choice is None else choice.needed - weights)


def checkpointing_choice(x: Experiment, prepared: Prepared) -> capacity.Choice | None:
    """Whether an arm trains with gradient checkpointing, counted before its adapter is attached; None for one that does not train.

    What a step keeps is counted once a process for arms that compute alike.
    """
    if not trains(x):
        return None
    vlm = assemble(x, prepared.vlm)
    return capacity.choose(x.trainer, x.optim, vlm, prepared.encoded(x)["train"], lora.sized(vlm, x.lora))
