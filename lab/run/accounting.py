"""What an arm costs, counted before it trains: trainable parameters, operations, visual tokens, and which samples it sees."""

from __future__ import annotations

from lab import lora
from lab.config import Experiment, LoraDial
from lab.costs import flops
from lab.model import Vlm
from lab.records import Shape
from lab.run.assembly import assemble
from lab.run.sharing import Prepared
from lab.training.datamodule import Examples

DECODED = 16
"""Examples that are looked at where no feature is cached, so that images must be decoded to know their size."""


def shapes(examples: Examples) -> list[Shape]:
    """Sizes of a split's examples: of all where features are cached, else of the first `DECODED`."""
    number = len(examples) if examples.store is not None else min(DECODED, len(examples))
    return [examples.encoder.shape(examples[i]) for i in range(number)]


def costs(vlm: Vlm, examples: Examples) -> dict[str, float]:
    """Operations of one forward pass of an arm's model with its adapters, and what dials add to it, mean over the examples."""
    sizes = shapes(examples)
    return {
        "flops/forward_per_example": flops.forward(vlm, sizes),
        "flops/added_per_example": flops.added_per_example(vlm, sizes),
    }


def trainable_parameters(vlm: Vlm, dial: LoraDial) -> int:
    """What trains of an arm's model: modules that dials have added, and the adapter that is to be attached."""
    return lora.added_parameters(vlm) + (lora.adapter_parameters(vlm, dial) if dial.r else 0)


def foresee(x: Experiment, prepared: Prepared) -> dict[str, float]:
    """What an arm will record of its costs, counted over its shared base; no adapter is attached.

    Visual tokens are left out where not every image of dev was decoded. Raises `ConfigError` if no adapter could be attached.
    """
    vlm = assemble(x, prepared.vlm)
    dial = lora.verify(vlm, x.lora)
    examples = prepared.encoded(x)["dev"]
    sizes = shapes(examples)
    found = {
        "parameters/trainable": float(trainable_parameters(vlm, dial)),
        "flops/forward_per_example": flops.forward(vlm, sizes, dial),
    }
    counts = [count for shape in sizes for count in shape.tokens]
    if len(sizes) == len(examples) and counts:
        found |= {"visual_tokens/mean": sum(counts) / len(counts)}
        found |= {"visual_tokens/min": float(min(counts)), "visual_tokens/max": float(max(counts))}
    return found
