"""What the laboratory must know of a model family that its checkpoint does not say: which module is which part."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """One part of a vision-language model, by the names of its modules.

    modules: full names of everything that belongs to the part, as a regular expression for `re.fullmatch` on a
        module or parameter name (a parameter's name continues after a dot).
    block: the prefix of one repeated block, with one group for its number; empty where the part has none.
    attention, mlp: names inside a block of its linear layers.
    linears: full names (a regular expression) of linear layers outside any block.
    """

    modules: str
    block: str = ""
    attention: tuple[str, ...] = ()
    mlp: tuple[str, ...] = ()
    linears: str = ""

    def targets(self, preset: str, blocks: str = r"\d+") -> str:
        """Regular expression over full module names for `attention`, `mlp` or `all-linear`; empty if it has none."""
        names = {"attention": self.attention, "mlp": self.mlp, "all-linear": self.attention + self.mlp}[preset]
        patterns = []
        if self.block and names:
            inside = "|".join(re.escape(name) for name in names)
            patterns.append(self.block.replace(r"(\d+)", f"({blocks})") + rf"\.({inside})")
        if self.linears and preset != "attention":
            patterns.append(self.linears)
        return "|".join(f"({pattern})" for pattern in patterns)


@dataclass(frozen=True)
class Family:
    """A model family: the class its checkpoints load as, and its parts.

    model_type: `config.model_type` of its checkpoints. parts: vision, projector, llm.
    """

    name: str
    model_type: str
    parts: dict[str, Part]

    def part_of(self, parameter: str) -> str:
        """The part that a module or parameter belongs to; `other` if none claims it."""
        for name, part in self.parts.items():
            if re.match(rf"({part.modules})(\.|$)", parameter):
                return name
        return "other"
