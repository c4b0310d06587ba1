"""The dial `conditioning`: where the image enters the language model."""

from __future__ import annotations

from dataclasses import dataclass

from lab.config.missing import MISSING


@dataclass
class ConditioningDial:
    """Where the image enters the language model: in the prompt, or by cross-attention in some of its blocks.

    All keys are of `cross_attention`; `add_cross_attention` is what a checkpoint has, with nothing to choose.
    every, layers: every k-th block, or those with the numbers listed (from 0). parallel: beside self-attention instead of
    before the block. keep_prefix: image tokens stand in the prompt too. width, heads: of the cross-attention; width None:
    the model's hidden size.
    """

    name: str = MISSING
    every: int | None = None
    layers: list[int] | None = None
    parallel: bool = False
    keep_prefix: bool = True
    width: int | None = None
    heads: int | None = None
