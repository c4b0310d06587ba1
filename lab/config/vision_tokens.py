"""The dial `vision_tokens`: how many tokens an image costs the language model."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lab.config.missing import MISSING


class PruneRule(Enum):
    deviation = "deviation"
    norm = "norm"
    diverse = "diverse"


@dataclass
class VisionTokensDial:
    """How many tokens one image costs the language model.

    budget: most tokens of one image; the resampler makes exactly that many.
    rule: which tokens `prune` keeps. width, heads: of the resampler's attention; width None: the model's hidden size.
    """

    name: str = MISSING
    budget: int | None = None
    rule: PruneRule | None = None
    width: int | None = None
    heads: int | None = None
