"""Bytes that weights, what trains, and the activations of a step take on a device."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from lab import lora, model
from lab.config import ModelDial, Optim, TrainerSection
from lab.costs.counting import Kept
from lab.model import precision

if TYPE_CHECKING:
    from transformers import PretrainedConfig


BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
FLOAT32 = 4.0
"""Bytes of a trainable parameter, and of its gradient."""
FILLS = 0.9
"""Share of a device's memory that a step may plan with: the rest is the driver's, the allocator's gaps, and what we do not count."""


def trainable_bytes(optim: Optim) -> float:
    """Bytes of a number that trains: itself, its gradient, and the optimizer's state."""
    return 2 * FLOAT32 + state_bytes(optim)


def state_bytes(optim: Optim) -> float:
    """Bytes of an optimizer's state for each number that trains, small tensors of 8-bit ones left out."""
    momentum = optim.optimizer_kwargs.get("momentum")
    match optim.optimizer:
        case "SGD":
            return 4.0 if momentum else 0.0
        case "AdamW8bit" | "PagedAdamW8bit":
            return 2.0 * (1.0 + 4.0 / 256)  # a float32 scale for 256 numbers
        case "Adagrad":
            return 4.0
        case "RMSprop":
            return 4.0 + (4.0 if momentum else 0.0) + (4.0 if optim.optimizer_kwargs.get("centered") else 0.0)
        case "Adafactor":
            return 0.0  # rows and columns of a matrix
        case _:
            return 12.0 if optim.optimizer_kwargs.get("amsgrad") else 8.0


def cache_bytes(config: PretrainedConfig, length: int, size: int) -> float:
    """Bytes of keys and values of so many positions, numbers of so many bytes."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return 2.0 * text.num_hidden_layers * heads * width * length * size


def saved_bytes(dial: ModelDial, vlm: model.Vlm) -> float:
    """Bytes that quantisation takes from the weights of a model without adapters: it is the language model's blocks that are quantised."""
    size = precision.bytes_a_weight(dial)
    if size is None:
        return 0.0
    block = re.compile(vlm.family.parts["llm"].block + r"\.")
    weights = sum(math.prod(lora.features(each)) for name, each in vlm.base_model.named_modules() if block.match(name) and lora.is_linear(each))
    return weights * (BYTES[dial.dtype.value] - size)


def norm_bytes(dial: ModelDial, vlm: model.Vlm) -> float:
    """Bytes that `model.fp32_layernorms` adds."""
    norms = [module for module in vlm.base_model.modules() if dial.fp32_layernorms and precision.is_norm(module)]
    return sum(parameter.numel() for norm in norms for parameter in norm.parameters()) * (FLOAT32 - BYTES[dial.dtype.value])


def activation_bytes(section: TrainerSection, kept: Kept, recomputing: bool) -> float:
    """Bytes that one forward on one device keeps for its backward. kept: of one example."""
    return section.batch_size // section.devices * (kept.checkpointed if recomputing else kept.plain)


def recomputes(section: TrainerSection, fixed: float, kept: Kept, memory: float) -> bool:
    """Whether a training runs with gradient checkpointing: as asked, else where a step would not fit without.

    fixed: bytes of weights and of all that belongs to adapters. memory: bytes of the device.
    """
    asked = section.gradient_checkpointing
    return fixed + activation_bytes(section, kept, False) > FILLS * memory if asked is None else asked
