"""What an experiment would cost and what its comparison could see, before any weight is loaded.

The arithmetic, for one example with T tokens of text and images, P patches and a language model of N parameters outside
embedding and head (L layers, hidden H, vocabulary V, R answer rows):

    forward        2 N T + 4 L T^2 H / 2 + 2 H V R          (causal attention: half of T^2)
    backward       the same again for activations; no gradient of frozen weights
    adapters       6 p T for p adapter parameters (forward, and both gradients)
    tower          2 N_v P + 4 L_v P_i^2 H_v per image i    forward only while it is frozen; nothing where its features are cached

Memory is weights, adapters with float32 gradient and two AdamW moments, and stored activations:
about (34 H + 5 heads T / 2) bytes per token and layer at 2 bytes (Korthikanti et al. 2022, 2205.05198, section 4.1, without
the attention matrix that SDPA never stores), or 2 H where gradient checkpointing is on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab import lora, model
from lab.config import Experiment, trains
from lab.errors import ConfigError, did_you_mean

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
    """An experiment's size. Counts of parameters, FLOPs of one training example, bytes, examples per epoch."""

    ledger: list[lora.LedgerRow]
    tokens: int
    train_flops: float
    eval_flops: float
    weight_bytes: float
    adapter_bytes: float
    activation_bytes: float

    @property
    def memory_bytes(self) -> float:
        """Everything that training keeps on the device."""
        return self.weight_bytes + self.adapter_bytes + self.activation_bytes


def on_meta(x: Experiment) -> tuple[model.Vlm, PretrainedConfig]:
    """The model of an experiment without its weights, adapters attached."""
    import torch
    from transformers import AutoConfig, AutoModelForImageTextToText

    family = model.family(x.model.family)
    try:
        config = AutoConfig.from_pretrained(model.locate(x.model.path), revision=x.model.revision)
    except OSError as error:
        first = str(error).strip().split("\n")[0]
        raise ConfigError(f"model.path={x.model.path}: its config.json cannot be read ({first}).") from None
    with torch.device("meta"):
        bare = AutoModelForImageTextToText.from_config(config, attn_implementation="eager")
        bare.requires_grad_(False)
        vlm = model.Vlm(bare, None, family)  # no processor is needed to count
        lora.attach(vlm, x.lora)
    return vlm, config


def plan(x: Experiment, tokens_per_image: int, images: int, text_tokens: int) -> Plan:
    """Count parameters, FLOPs and bytes of an experiment whose examples have so many images and tokens."""
    vlm, config = on_meta(x)
    ledger = lora.ledger(vlm)
    text, vision = config.get_text_config(), config.vision_config
    total = {row.part: row.total - row.trainable for row in ledger}
    adapters = sum(row.trainable for row in ledger)
    vocabulary = text.vocab_size * text.hidden_size
    copies = 1 if getattr(config, "tie_word_embeddings", False) or getattr(text, "tie_word_embeddings", False) else 2
    body = total["llm"] - copies * vocabulary
    tokens = text_tokens + images * tokens_per_image
    attention = 2.0 * text.num_hidden_layers * tokens**2 * text.hidden_size
    forward = 2.0 * body * tokens + attention
    merge = vision.spatial_merge_size**2
    patches = tokens_per_image * merge
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    tower = images * (
        2.0 * total["vision"] * patches + 2.0 * total["projector"] * tokens_per_image + 4.0 * vision.depth * patches**2 * width
    )
    trained_tower = any(row.trainable for row in ledger if row.part in ("vision", "projector"))
    cached = x.trainer.feature_cache and not trained_tower
    steps = 2.0 * forward + 6.0 * adapters * tokens + 3 * 2.0 * vocabulary * 2
    steps += 0.0 if cached else tower * (2.0 if trained_tower else 1.0)
    steps += forward if x.trainer.gradient_checkpointing else 0.0
    size = BYTES[x.model.dtype.value]
    per_layer = 2 * text.hidden_size if x.trainer.gradient_checkpointing else 17 * text.hidden_size
    activations = x.trainer.batch_size * tokens * text.num_hidden_layers * per_layer * size
    return Plan(
        ledger=ledger,
        tokens=tokens,
        train_flops=steps if trains(x) else 0.0,
        eval_flops=forward + tower + 2.0 * vocabulary,
        weight_bytes=float(sum(total.values()) * size),
        adapter_bytes=16.0 * adapters if trains(x) else 0.0,
        activation_bytes=float(activations) if trains(x) else 0.0,
    )


def device(name: str) -> tuple[float, float]:
    """FLOP/s and bytes of a device by name."""
    if name not in DEVICES:
        raise ConfigError(f"--device {name}: there is no such device.{did_you_mean(name, DEVICES)} Legal: {', '.join(DEVICES)}.")
    return DEVICES[name]
