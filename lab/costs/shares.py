"""What a device holds of a model that lies in shares on several (`trainer.strategy=fsdp`)."""

from __future__ import annotations

import re
from collections import Counter

from lab import lora
from lab.config import LoraDial
from lab.model import Vlm

TRAINED = 8
"""Bytes of a number that trains while it is gathered: itself and its gradient, float32."""


def gathered_bytes(vlm: Vlm, dial: LoraDial | None) -> float:
    """Bytes that a device holds whole at once: all but the language model's blocks, and two of those, the one that computes and the next, with
    the gradients of what trains. Adapters that are not there yet are left out.

    dial: of whole parts that are not the arm's own yet.
    """
    whole = set() if dial is None else set(lora.full_names(vlm, dial))
    block = re.compile(vlm.family.parts["llm"].block + r"\.")
    held: Counter[str] = Counter()
    for name, parameter in vlm.base_model.named_parameters():
        found = block.match(name)
        size = TRAINED if name in whole or parameter.requires_grad else parameter.itemsize
        held[found.group() if found else ""] += parameter.numel() * size
    return held.pop("", 0) + 2.0 * max(held.values(), default=0)
