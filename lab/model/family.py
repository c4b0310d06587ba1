"""What the laboratory must know of a model family that its checkpoint does not say: which module is which part."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from lab.errors import ConfigError, ModelError
from lab.model.architecture import Architecture
from lab.model.interleaved import Interleaved

MOST_BLOCKS = 128
"""More blocks than any part has."""


@dataclass(frozen=True)
class Part:
    """One part of a vision-language model, by the names of its modules.

    modules: full names of everything that belongs to the part, as a regular expression for `re.fullmatch` on a
        module or parameter name (a parameter's name continues after a dot).
    block: the prefix of one repeated block, with one group for its number; empty where the part has none.
    attention, mlp: names inside a block of its linear layers.
    linears: full names (a regular expression) of linear layers outside any block.
    llama_blocks: a block computes what Llama's does (RMSNorm before attention and before a gated feed-forward, rotary halves,
        no norm of queries or keys) with its names of modules, so that `lab.training.fast.fused_step` may train it.
    """

    modules: str
    block: str = ""
    attention: tuple[str, ...] = ()
    mlp: tuple[str, ...] = ()
    linears: str = ""
    llama_blocks: bool = False

    def num_blocks(self, modules: Iterable[str]) -> int:
        """How many blocks of this part are among the full module names of a model; 0 where the part has none."""
        found = (re.fullmatch(self.block, name) for name in modules) if self.block else ()
        return len({match.group(1) for match in found if match})

    def names(self, blocks: int = MOST_BLOCKS) -> list[str]:
        """Full names of the linear layers inside the first blocks, whether a checkpoint has so many or not."""
        places = [self.block.replace(r"(\d+)", str(block)).replace("\\", "") for block in range(blocks)] if self.block else []
        return [f"{place}.{name}" for place in places for name in self.attention + self.mlp]

    def targets(self, preset: str, blocks: str = r"\d+") -> str:
        """Regular expression over full module names for `attention`, `mlp` or `all-linear`; empty if it has none.

        blocks: a regular expression for the numbers of the blocks that are meant.
        """
        names = {"attention": self.attention, "mlp": self.mlp, "all-linear": self.attention + self.mlp}[preset]
        patterns = []
        if self.block and names:
            inside = "|".join(re.escape(name) for name in names)
            patterns.append(self.block.replace(r"(\d+)", f"({blocks})") + rf"\.({inside})")
        if self.linears and preset != "attention":
            patterns.append(self.linears)
        return "|".join(f"({pattern})" for pattern in patterns)


@dataclass(frozen=True)
class Limit:
    """The options of a dial that are legal with a family, and why no other is."""

    options: tuple[str, ...]
    why: str


NO_FLAG = Limit(
    ("prefix", "cross_attention"),
    "only decoders of GPT-2's and BERT's kind have Hugging Face's add_cross_attention, and this one has not; "
    "conditioning=cross_attention builds gated cross-attention into any decoder",
)


@dataclass(frozen=True)
class Family:
    """A model family: how its checkpoints are recognised, its parts, and what they can be asked for.

    model_type: `config.model_type` of its checkpoints. components: the same of configs inside theirs. parts: vision,
    projector, llm. auto: Transformers' auto class that loads them. architecture: how images and text meet in it.
    single_output: the language model sees one tensor [tokens, hidden] of each image, so that this tensor can be
        cached, pooled or resampled. False where the tower also speaks to later blocks (DeepStack): images then always
        come as pixels.
    unused: names (a regular expression) of parameters that no forward pass needs, so that a checkpoint may lack them.
    conv1d: the linear layers of its language model are GPT-2's Conv1D, whose weight is [in, out]. limits: by dial, where not
        every option is legal.
    """

    name: str
    model_type: str
    parts: dict[str, Part]
    auto: str = "AutoModelForImageTextToText"
    single_output: bool = True
    components: dict[str, str] = field(default_factory=dict)
    architecture: Architecture = field(default_factory=Interleaved)
    unused: str = ""
    conv1d: bool = False
    limits: dict[str, Limit] = field(default_factory=lambda: {"conditioning": NO_FLAG})

    def auto_class(self) -> Any:
        """The class of Transformers that loads such a checkpoint."""
        import transformers

        return getattr(transformers, self.auto)

    def allow(self, dial: str, option: str) -> None:
        """Raise a `ModelError` for an option of a dial that is not legal with this family."""
        limit = self.limits.get(dial)
        if limit is not None and option not in limit.options:
            raise ModelError(
                f"{dial}={option}: model.family={self.name} does not take it: {limit.why}. "
                f"Legal here: {', '.join(f'{dial}={legal}' for legal in limit.options)}."
            )

    def allow_numbered(self) -> None:
        """Raise a `ConfigError` for `prompt.numbered` where no image stands in the prompt."""
        if not self.architecture.in_prompt:
            raise ConfigError(
                f"prompt.numbered=true: with model.family={self.name} no image stands in the prompt to be numbered. Set it to false."
            )

    def part_of(self, parameter: str) -> str:
        """The part that a module or parameter belongs to; `other` if none claims it."""
        for name, part in self.parts.items():
            if re.match(rf"({part.modules})(\.|$)", parameter):
                return name
        return "other"
