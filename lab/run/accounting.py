"""What an arm costs, counted before it trains: trainable parameters, operations, visual tokens, and which samples it sees."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lab import lora
from lab.config import Experiment, LoraDial, trains
from lab.costs.counting import CostModel
from lab.model import Vlm
from lab.records import ExampleSize
from lab.run.assembly import assemble
from lab.run.sharing import Prepared
from lab.training.examples import Examples

LOOKED_AT, COUNTED = 16, 4
"""Examples that are looked at where no feature is cached, so that images must be decoded to know their size; of these, how many first
ones have their operations counted."""


def sizes_of(examples: Examples) -> list[ExampleSize]:
    """Sizes of a split's examples: of all where features are cached, else of the first `LOOKED_AT`."""
    number = len(examples) if examples.store is not None else min(LOOKED_AT, len(examples))
    return [examples.encoder.size(examples[i]) for i in range(number)]


def costs(x: Experiment, prepared: Prepared) -> dict[str, float]:
    """Operations of one forward pass of an arm's model with its adapter, and what dials add to it, mean over dev's first examples.

    The adapter is not attached yet. Arms that compute alike are counted once a process.
    """
    vlm, examples = assemble(x, prepared.vlm), prepared.encoded(x)["dev"]
    model = CostModel(vlm, lora.sized(vlm, x.lora) if trains(x) else None)
    flops = model.flops([examples.encoder.size(examples[i]) for i in range(min(COUNTED, len(examples)))])
    return {"flops/forward_per_example": float(sum(flops.values())), "flops/added_per_example": float(flops["added"])}


def trainable_parameters(vlm: Vlm, dial: LoraDial) -> int:
    """What trains of an arm's model: modules that dials have added, whole parts, and the adapter that is to be attached."""
    return lora.added_parameters(vlm, dial) + (lora.adapter_parameters(vlm, dial) if dial.r else 0)


def foresee(x: Experiment, prepared: Prepared) -> dict[str, float]:
    """What an arm will record of its costs, counted over its shared base; no adapter is attached.

    Visual tokens are left out where not every image of dev was decoded. Raises `ConfigError` if no adapter could be attached.
    """
    vlm = assemble(x, prepared.vlm)
    dial = lora.verify(vlm, x.lora)
    examples = prepared.encoded(x)["dev"]
    sizes = sizes_of(examples)
    found = {
        "parameters/trainable": float(trainable_parameters(vlm, dial)),
        **costs(x, prepared),
    }
    return found | (visual_tokens([size.tokens for size in sizes]) if len(sizes) == len(examples) else {})


def visual_tokens(examples: Iterable[Sequence[int]]) -> dict[str, float]:
    """Tokens that an image costs, of those of every example's images; nothing where no example has one."""
    counts = [count for tokens in examples for count in tokens]
    if not counts:
        return {}
    ends = {"visual_tokens/min": float(min(counts)), "visual_tokens/max": float(max(counts))}
    return {"visual_tokens/mean": sum(counts) / len(counts), **ends}
