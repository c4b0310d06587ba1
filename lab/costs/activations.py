"""Bytes that a forward pass keeps for its backward: what decides whether gradient checkpointing is needed.

Counted for one example, where a gradient passes, as PEFT's and Transformers' own layers keep them:

    matrices    what each gives, in the base's dtype: attention keeps queries, keys and values (these as often as there are
                queries: they are repeated where a batch is padded), an activation its input; and what an activation that is
                written out in Python, or the product with its gate, keeps beside that
    adapters    what each reads, in its float32: a copy of its own where the base has 16 bits, else one that neighbours share;
                the r numbers between A and B; with dropout its mask and its result too
    norms       what each reads, in float32 where it is an RMSNorm
    blocks      what attention gives
    head        the logits, and their logarithms in float32

A frozen matrix keeps nothing of what it reads. Not counted: the attention matrix, which SDPA never stores (there is more with
attn_implementation=eager), what DoRA adds to LoRA, modules that `vision_tokens` and `conditioning` add, and what single operations
need for a moment.
`lab.training.fast.fused_step` keeps less. tests/test_activations.py holds this against what autograd keeps.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property

from lab import lora
from lab.config import LoraDial
from lab.model import Vlm
from lab.model.precision import is_norm
from lab.records import Shape

ORDER = ("vision", "projector", "other", "llm", "head")
"""Parts as they run."""
FLOAT32 = 4
BESIDE = {"SiLUActivation": 0.5, "SiLU": 0.5, "QuickGELUActivation": 1.0, "NewGELUActivation": 3.0}
"""Numbers that an activation and its gate keep for each that the matrices before them give."""
FUSED = {"qkv": 2 / 3}
"""Of what a fused projection gives, the share that is kept twice: whole for its values, and its queries and keys once rotated."""
AS_WIDE_AS = {"k_proj": "q_proj", "v_proj": "q_proj", "q_norm": "q_proj", "k_norm": "q_proj"}
"""Modules that come to keep as many numbers as a neighbour gives."""


@dataclass(frozen=True)
class Kept:
    """Bytes of one example. blocks: in all of them. entering: what enters each. largest: in the largest. outside: of blocks."""

    blocks: float
    entering: float
    largest: float
    outside: float

    @property
    def plain(self) -> float:
        """What a step keeps without gradient checkpointing."""
        return self.blocks + self.outside

    @property
    def checkpointed(self) -> float:
        """What it keeps with it: what enters each block, and one block that is computed again."""
        return self.entering + self.largest + self.outside


def kept(vlm: Vlm, shape: Shape, dial: LoraDial | None = None) -> Kept:
    """What a training step keeps of one example. dial: an adapter that is not attached yet and is counted in."""
    walk = Walk(vlm, dial)
    positions = vlm.family.architecture.counts(vlm.bare.config, shape)
    blocks: defaultdict[str | None, float] = defaultdict(float)
    entering: dict[str, float] = {}
    for name in walk.counted:
        block = walk.within.get(name)
        number = positions[vlm.family.architecture.place(name, walk.part_of(name))]
        if block is not None and block not in entering:
            entering[block] = number * walk.size * walk.widths(name)[0]
            blocks[block] += entering[block]  # what attention gives is as wide
        blocks[block] += number * walk.bytes_of(name)
    outside = blocks.pop(None, 0.0)
    return Kept(sum(blocks.values()), sum(entering.values()), max(blocks.values(), default=0.0), outside)


class Walk:
    """The modules of a model that keep something, and how much at one position. dial: as in `kept`.

    ranks: of each layer that has an adapter. within: the block that a module is in.
    """

    def __init__(self, vlm: Vlm, dial: LoraDial | None) -> None:
        from transformers.modeling_layers import GradientCheckpointingLayer

        self.vlm = vlm
        modules = dict(vlm.bare.named_modules())
        self.ranks = {name: max(module.r.values()) for name, module in modules.items() if hasattr(module, "lora_A")}
        inside = tuple(f"{name}." for name in self.ranks)
        self.modules = {name: module for name, module in modules.items() if not name.startswith(inside)}
        self.dropout = any(name.startswith(inside) and getattr(module, "p", 0) for name, module in modules.items())
        if dial is not None and dial.r:
            self.ranks |= dict.fromkeys(lora.target_names(vlm, dial), dial.r)
            self.dropout = dial.lora_dropout > 0
        self.blocks = [name for name, module in modules.items() if isinstance(module, GradientCheckpointingLayer)]
        self.within: dict[str, str] = {}
        block = None
        for name in self.modules:  # what is in a block follows it
            block = name if name in self.blocks else block
            if block is not None and name.startswith(f"{block}."):
                self.within[name] = block
        self.head = next(name for name, module in modules.items() if module is vlm.bare.get_output_embeddings())
        self.size = next(each.element_size() for each in vlm.bare.parameters() if each.is_floating_point())
        self.read: set[tuple[str, int]] = set()

    @cached_property
    def first(self) -> tuple[int, float]:
        """When the first module runs that trains; `extras` train before the language model, or in it."""
        llm = (ORDER.index("llm"), -math.inf)
        return min([*map(self.order, self.ranks), *([llm] if self.vlm.extras or not self.ranks else [])])

    @cached_property
    def counted(self) -> list[str]:
        """Matrices and norms that a gradient passes: something trains in their block or before it."""
        kinds = [name for name, module in self.modules.items() if name in self.ranks or lora.is_linear(module) or is_norm(module)]
        return [name for name in kinds if self.order(name) >= self.first]

    def part_of(self, name: str) -> str:
        """The part that a module is in, the output embedding apart."""
        return "head" if name == self.head else self.vlm.family.part_of(name)

    def order(self, name: str) -> tuple[int, float]:
        """When a module runs: the number of its part, then of its block; what is in none comes last."""
        return ORDER.index(self.part_of(name)), self.blocks.index(self.within[name]) if name in self.within else math.inf

    def widths(self, name: str) -> tuple[int, int]:
        """How many numbers a module takes and gives at one position."""
        parent, _, leaf = name.rpartition(".")
        module = self.modules[name]
        if is_norm(module):
            own = (module.weight.numel(),) * 2
        else:
            own = lora.features(module.get_base_layer() if hasattr(module, "lora_A") else module)
        like = f"{parent}.{AS_WIDE_AS.get(leaf)}"
        return (own[0], self.widths(like)[1]) if like in self.modules else own

    def bytes_of(self, name: str) -> float:
        """Bytes that a module keeps at one position."""
        parent, _, leaf = name.rpartition(".")
        taken, given = self.widths(name)
        if is_norm(self.modules[name]):
            return given * (FLOAT32 if "RMS" in type(self.modules[name]).__name__ else self.size)
        if name == self.head:
            return given * (self.size + 2 * FLOAT32)
        beside = (BESIDE.get(type(child).__name__, 0.0) for child in self.modules[parent].children())
        found = given * self.size * (1.0 + FUSED.get(leaf, max(beside) if given > taken else 0.0))
        return found + (self.adapter_bytes(name, parent, taken) if name in self.ranks else 0.0)

    def adapter_bytes(self, name: str, parent: str, taken: int) -> float:
        """Bytes that an adapter keeps at one position: what it reads, and what is between its matrices."""
        shared = self.size == FLOAT32 and (parent, taken) in self.read
        self.read.add((parent, taken))
        reading = (0 if shared else FLOAT32) + (FLOAT32 + 1 if self.dropout else 0)
        return taken * reading + self.ranks[name] * FLOAT32
