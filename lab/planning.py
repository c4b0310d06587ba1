"""What an experiment would cost and what its comparison could see, before any weight is loaded.

The arithmetic, for one example, in operations of `lab.flops`:

    evaluation     one forward pass, adapters and added modules included
    language model twice its forward pass: there is no gradient of frozen weights; a third time with gradient checkpointing
    head           the same, for two answer rows
    adapters       three times their forward pass (forward, and both gradients), as added modules
    tower          its forward pass while it is frozen, twice that if an adapter sits in it; nothing where its features are cached

Memory is weights, adapters with float32 gradient and two AdamW moments, and stored activations:
about (34 H + 5 heads T / 2) bytes per token and layer at 2 bytes (Korthikanti et al. 2022, 2205.05198, section 4.1, without
the attention matrix that SDPA never stores), or 2 H where gradient checkpointing is on.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lab import conditioning, flops, lora, model, vision_tokens
from lab.config import Experiment, trains
from lab.data.images import decode
from lab.errors import ConfigError, did_you_mean
from lab.records import Sample

if TYPE_CHECKING:
    from transformers import PretrainedConfig

DEVICES = {
    "h200": (990e12, 141e9),
    "h100": (990e12, 80e9),
    "a100": (312e12, 80e9),
    "l40s": (362e12, 48e9),
    "rtx4090": (165e12, 24e9),
    "t4": (65e12, 16e9),
}
"""Dense bfloat16 (T4: float16) FLOP/s and bytes of memory by the makers' data sheets."""
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Plan:
    """An experiment's size. tokens: positions of the language model; image_tokens: of one image; FLOPs of one example; bytes."""

    ledger: list[lora.LedgerRow]
    tokens: int
    image_tokens: int
    train_flops: float
    eval_flops: float
    weight_bytes: float
    adapter_bytes: float
    activation_bytes: float

    @property
    def memory_bytes(self) -> float:
        """Everything that training keeps on the device."""
        return self.weight_bytes + self.adapter_bytes + self.activation_bytes


def on_meta(x: Experiment) -> model.Vlm:
    """The model of an experiment without its weights, with what `vision_tokens` and `conditioning` add; no adapter yet."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    family = model.family(x.model.family)
    if x.model.path is None:
        raise ConfigError(f"model.path=null: give your checkpoint's folder; conf/model/{x.model.name}.yaml says of what kind.")
    try:
        config = AutoConfig.from_pretrained(model.locate(x.model.path), revision=x.model.revision)
    except OSError as error:
        first = str(error).strip().split("\n")[0]
        raise ConfigError(f"model.path={x.model.path}: its config.json cannot be read ({first}).") from None
    family.allow("vision_tokens", x.vision_tokens.name)
    with torch.device("meta"):
        bare = AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
        bare.requires_grad_(False)
        vlm = model.Vlm(bare, None, family)  # no processor is needed to count
        if x.vision_tokens.name == "resampler":
            vision_tokens.install(vlm, x.vision_tokens)
        conditioning.install(vlm, x.conditioning)
    return vlm


def seen_tokens(x: Experiment, sample: Sample) -> int | None:
    """Tokens of the largest image of a sample, if the checkpoint's processor lies on this machine."""
    from transformers import AutoConfig

    family, options = model.family(x.model.family), {"revision": x.model.revision, "local_files_only": True}
    where = model.locate(x.model.path)
    try:
        config = AutoConfig.from_pretrained(where, **options)
        processor = family.architecture.processor(where, config, options)
    except OSError:
        return None
    _, grids = family.architecture.pixels(processor, config, [decode(picture) for picture in sample.images])
    return max((math.prod(family.architecture.merged(config, grid)) for grid in grids), default=None)


def plan(x: Experiment, tokens_per_image: int, images: int, text_tokens: int) -> Plan:
    """Count parameters, FLOPs and bytes of an experiment whose examples have so many images and tokens."""
    import torch

    vlm = on_meta(x)
    config, architecture = vlm.bare.config, vlm.family.architecture
    shape = architecture.shape(config, text_tokens, images, tokens_per_image)
    if vlm.conditioner is not None and not vlm.conditioner.prefix:
        shape = replace(shape, length=text_tokens)
    parts, added = flops.by_part(vlm, shape), flops.added(vlm, shape)
    with torch.device("meta"):
        lora.attach(vlm, x.lora)
    forward = flops.forward(vlm, [shape])
    adapters = forward - sum(parts.values()) - added
    ledger = lora.ledger(vlm)
    trainable = sum(row.trainable for row in ledger)
    trained_tower = any(row.trainable for row in ledger if row.part in ("vision", "projector"))
    cached = x.trainer.feature_cache and not trained_tower
    tower = parts["vision"] + parts["projector"]
    steps = (3.0 if x.trainer.gradient_checkpointing else 2.0) * parts["llm"] + 4.0 * parts["head"] + 3.0 * (adapters + added)
    steps += 0.0 if cached else tower * (2.0 if trained_tower else 1.0)
    size = BYTES[x.model.dtype.value]
    return Plan(
        ledger=ledger,
        tokens=shape.length,
        image_tokens=shape.tokens[0] if shape.tokens else 0,
        train_flops=steps if trains(x) else 0.0,
        eval_flops=forward,
        weight_bytes=float(sum(row.total - row.trainable for row in ledger) * size),
        adapter_bytes=adapter_bytes(x, trainable),
        activation_bytes=activation_bytes(x, config, shape.length),
    )


def adapter_bytes(x: Experiment, trainable: int) -> float:
    """Bytes of so many trainable parameters with their gradients and moments."""
    return 16.0 * trainable if trains(x) else 0.0


def activation_bytes(x: Experiment, config: PretrainedConfig, length: int) -> float:
    """Bytes of the activations that one forward keeps for its backward, with prompts of so many positions."""
    text = config.get_text_config()
    per_layer = (2 if x.trainer.gradient_checkpointing else 17) * text.hidden_size
    stored = x.trainer.batch_size * length * text.num_hidden_layers * per_layer * BYTES[x.model.dtype.value]
    return float(stored) if trains(x) else 0.0


def device(name: str) -> tuple[float, float]:
    """FLOP/s and bytes of a device by name."""
    if name not in DEVICES:
        raise ConfigError(f"--device {name}: there is no such device.{did_you_mean(name, DEVICES)} Legal: {', '.join(DEVICES)}.")
    return DEVICES[name]
