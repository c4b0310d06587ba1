"""The dial `lora`: which weights change, and how."""

from __future__ import annotations

from dataclasses import dataclass, field

from lab.config.missing import MISSING

PARTS = ("vision", "projector", "llm")
"""Parts of a model, by the names that `lora.where` and `lora.full` take."""


@dataclass
class LoraDial:
    """What may change: LoRA (Hu et al. 2021, 2106.09685), in PEFT's names. `r=0` attaches nothing.

    trainable_parameters: instead of r, so that arms match: the largest rank that keeps to so many, modules that
        other dials add counted in. use_dora: Liu et al. 2024, 2402.09353. use_rslora: Kalajdzievski 2023, 2312.03732.
    top_k_blocks: of every part in `where` that has blocks, only the last k; None: all of them. full: parts (`PARTS`, or a head of a
    task, `Family.whole`) of which every weight trains, kept in float32, beside adapters or without any; none gets an adapter too.
    """

    name: str = MISSING
    r: int = 16
    trainable_parameters: int | None = None
    lora_alpha: int | None = None
    lora_dropout: float = 0.0
    where: list[str] = field(default_factory=lambda: ["llm"])
    target_modules: str = "all-linear"
    top_k_blocks: int | None = None
    use_dora: bool = False
    use_rslora: bool = False
    init_lora_weights: str = "default"
    full: list[str] = field(default_factory=list)
