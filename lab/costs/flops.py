"""Floating-point operations of one forward pass: the currency in which arms can be matched beside trainable parameters.

Counted are matrix products, 2 for each multiply-add, for one example alone, from pixels to the logits of its answer position:
every linear layer and patch embedding of the base where it is applied, attention (half of it where it is causal), adapters,
and modules that other dials add. Not counted: normalisation, activations, the lookup of embeddings, and the norms that DoRA
takes of whole weights. The numbers follow from configuration and sizes alone, so that no machine or kernel changes them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from lab import conditioning, lora, vision_tokens
from lab.config import LoraDial
from lab.model import Vlm
from lab.records import Shape

if TYPE_CHECKING:
    import torch


def forward(vlm: Vlm, shapes: Sequence[Shape], dial: LoraDial | None = None) -> float:
    """Operations of a forward pass of the model as it is, mean over the examples.

    dial: an adapter that is not attached yet and is counted in.
    """
    sizes = by_place(vlm, dial)
    return sum(sum(by_part(vlm, shape, sizes).values()) + added(vlm, shape) for shape in shapes) / len(shapes)


def by_part(vlm: Vlm, shape: Shape, sizes: Counter[tuple[str, str]] | None = None) -> Counter[str]:
    """Operations of one example in `vision`, `projector`, `llm` and its `head`, adapters included.

    sizes: what `by_place` gives, for many examples of one model.
    """
    config, architecture = vlm.bare.config, vlm.family.architecture
    counts = architecture.counts(config, shape)
    found: Counter[str] = Counter(architecture.attention_flops(config, shape))
    for (part, place), size in (sizes or by_place(vlm)).items():
        found[part] += 2.0 * size * counts[place]
    return found


def added(vlm: Vlm, shape: Shape) -> float:
    """Operations that modules of `vision_tokens` and `conditioning` add."""
    return vision_tokens.extra_flops(vlm, shape) + conditioning.extra_flops(vlm, shape)


def added_per_example(vlm: Vlm, shapes: Sequence[Shape]) -> float:
    """`added`, mean over the examples."""
    return sum(added(vlm, shape) for shape in shapes) / len(shapes)


def by_place(vlm: Vlm, dial: LoraDial | None = None) -> Counter[tuple[str, str]]:
    """Multiply-adds of all matrices of one part that are applied at one place, by part and place.

    dial: as in `forward`.
    """
    head, architecture = vlm.bare.get_output_embeddings(), vlm.family.architecture
    heads = tuple(name for name, module in vlm.bare.named_modules() if module is head)
    found: Counter[tuple[str, str]] = Counter()
    for sizes in (weight_sizes(vlm), {} if dial is None else adapter_sizes(vlm, dial)):
        for name, size in sizes.items():
            part = "head" if name.startswith(heads) else vlm.family.part_of(name)
            found[part, architecture.place(name, part)] += size
    return found


def weight_sizes(vlm: Vlm) -> dict[str, int]:
    """Multiply-adds that every matrix of the model makes each time it is applied, by module name; adapters included."""
    return {name: size for name, module in vlm.bare.named_modules() if (size := multiply_adds(module))}


def multiply_adds(module: torch.nn.Module) -> int:
    """Multiply-adds of one application of a layer; 0 if it is no matrix."""
    from torch import nn

    if lora.is_linear(module):
        return math.prod(lora.features(module))
    if isinstance(module, nn.Conv2d | nn.Conv3d):
        return module.weight.numel()
    return 0


def adapter_sizes(vlm: Vlm, dial: LoraDial) -> dict[str, int]:
    """The same of the adapters that a dial would attach."""
    if not dial.r:
        return {}
    return {name: dial.r * sum(lora.features(vlm.bare.get_submodule(name))) for name in lora.target_names(vlm, dial)}
