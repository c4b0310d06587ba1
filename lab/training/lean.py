"""The same optimizer step in fewer operations; what it computes differs from the plain step by rounding alone.

    products     LoRA layers, norms, gates and rotary positions by `lab.training.products`, in fewer passes over large tensors
                 than PEFT's and Transformers' own expressions make.
    padding      on the right: no answer then sees any, so that attention is causal and nothing else, without a mask.
    last block   of what it gives, only the answer rows are read: queries, and all behind them, are computed for those alone.

Only while training: validation, scoring and every saved file know nothing of it. A layer that is not plain LoRA in
float32 (dropout, DoRA, a 16-bit or quantised base) keeps PEFT's forward; with gradient checkpointing, whose second forward
comes after the step's, nothing is changed at all. Equality with the plain step: tests/test_lean.py.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.nn import functional as F

from lab.lora import ADAPTER
from lab.model import Vlm
from lab.records import Batch
from lab.training.products import Gated, Layer, Normed, Turned, adapted

Forward = tuple[nn.Module, Callable[..., torch.Tensor]]


class Lean:
    """What of a model can be trained leanly, found once."""

    def __init__(self, vlm: Vlm) -> None:
        modules = list(vlm.bare.modules())
        self.vlm = vlm
        self.checkpointed = [module for module in modules if hasattr(module, "gradient_checkpointing")]
        self.layers = {module: factors(module) for module in modules if is_plain(module)}
        self.forwards: list[Forward] = [(module, partial(layer_forward, layer)) for module, layer in self.layers.items()]
        self.forwards += [(module, partial(norm_forward, module)) for module in modules if is_norm(module)]
        self.blocks = blocks(vlm)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Of the last `answer_rows` positions of every row of a left-padded batch, [B, rows, vocabulary], for a backward."""
        if any(module.gradient_checkpointing for module in self.checkpointed):
            return self.vlm.logits(batch, batch.answer_rows)
        forwards = list(self.forwards)
        if self.blocks:
            padding = (batch.attention_mask == 0).sum(dim=1, keepdim=True)
            wanted = [None] * (len(self.blocks) - 1) + [kept_rows(batch, padding)]
            forwards += [(block, partial(self.block, block, rows)) for block, rows in zip(self.blocks, wanted, strict=True)]
            batch = padded_right(batch, padding)
        with instead(forwards):
            return self.vlm.logits(batch, batch.answer_rows)

    def block(
        self,
        block: nn.Module,
        rows: torch.Tensor | None,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **_: Any,
    ) -> torch.Tensor:
        """A block of Llama's kind over hidden_states [B, T, D], causal and without padding.

        rows: int64 [B, R], the positions that are wanted; the result is [B, R, D] then, else [B, T, D].
        """
        attention, mlp = block.self_attn, block.mlp
        cos, sin = position_embeddings
        left, right = sin.chunk(2, dim=-1)
        signed = torch.cat((-left, right), dim=-1)
        entering = block.input_layernorm(hidden_states)
        if rows is None:
            asked, keys, values = self.projected(entering, attention.q_proj, attention.k_proj, attention.v_proj)
            residual, seen, of_asked = hidden_states, None, (cos, signed)
        else:
            keys, values = self.projected(entering, attention.k_proj, attention.v_proj)
            (asked,) = self.projected(at(entering, rows), attention.q_proj)
            residual, of_asked = at(hidden_states, rows), (at(cos, rows), at(signed, rows))
            seen = (torch.arange(hidden_states.shape[1], device=rows.device) <= rows[..., None])[:, None]
        size = attention.head_dim
        found = F.scaled_dot_product_attention(
            turned(heads(asked, size), *of_asked),
            turned(heads(keys, size), cos, signed),
            heads(values, size),
            attn_mask=seen,
            is_causal=seen is None,
            scale=attention.scaling,
            enable_gqa=True,
        )
        kept = residual + attention.o_proj(found.transpose(1, 2).flatten(2))
        gate, up = self.projected(block.post_attention_layernorm(kept), mlp.gate_proj, mlp.up_proj)
        return kept + mlp.down_proj(Gated.apply(gate, up))

    def projected(self, x: torch.Tensor, *layers: nn.Module) -> tuple[torch.Tensor, ...]:
        """Each layer of x, together where all are plain LoRA."""
        found = [self.layers.get(layer) for layer in layers]
        if None not in found:
            return adapted(x, found)
        return tuple(layer(x) for layer in layers)


@contextlib.contextmanager
def instead(forwards: list[Forward]) -> Iterator[None]:
    """Within it, modules have other forwards; they are left as they were."""
    for module, forward in forwards:
        module.forward = forward
    try:
        yield
    finally:
        for module, _ in forwards:
            del module.forward  # the class's own shows again


def padded_right(batch: Batch, padding: torch.Tensor) -> Batch:
    """A left-padded batch, padding int64 [B, 1] long, with the same rows padded on the right; no mask is needed then."""
    length = batch.input_ids.shape[1]
    source = (torch.arange(length, device=padding.device) + padding) % length

    def rolled(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.gather(-1, source.expand_as(tensor))

    return replace(
        batch,
        input_ids=rolled(batch.input_ids),
        mm_token_type_ids=rolled(batch.mm_token_type_ids),
        position_ids=rolled(batch.position_ids),
        attention_mask=None,
    )


def kept_rows(batch: Batch, padding: torch.Tensor) -> torch.Tensor:
    """Where the answer rows stand once padding int64 [B, 1] has moved to the right, int64 [B, rows]."""
    length = batch.input_ids.shape[1]
    return torch.arange(length - batch.answer_rows, length, device=padding.device) - padding


def layer_forward(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """The forward of a plain LoRA layer."""
    return adapted(x, [layer])[0]


def norm_forward(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The forward of an RMSNorm; its class's own where it casts."""
    if x.dtype != norm.weight.dtype:
        return type(norm).forward(norm, x)
    return Normed.apply(x, norm.weight, norm.variance_epsilon)


def factors(layer: LoraLinear) -> Layer:
    """What a plain LoRA layer computes with."""
    base, a, b = layer.get_base_layer(), layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    return Layer(base.weight, base.bias, a.weight, b.weight, layer.scaling[ADAPTER])


def at(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """x [B, T, D] at rows int64 [B, R]: [B, R, D]."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


def heads(x: torch.Tensor, size: int) -> torch.Tensor:
    """[B, T, heads size] -> [B, heads, T, size]."""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


def turned(x: torch.Tensor, cos: torch.Tensor, signed: torch.Tensor) -> torch.Tensor:
    """Rotary positions: x [B, heads, T, size], cos and signed sin [B, T, size]."""
    return Turned.apply(x, cos[:, None], signed[:, None])


def is_plain(layer: nn.Module) -> bool:
    """Whether a module is a LoRA layer that computes W x + s B (A x) in float32 and nothing else."""
    if type(layer) is not LoraLinear or list(layer.lora_A) != [ADAPTER] or layer.active_adapters != [ADAPTER]:
        return False
    base, a, b = layer.get_base_layer(), layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    return (
        type(base) is nn.Linear
        and not layer.fan_in_fan_out
        and ADAPTER not in layer.lora_variant
        and isinstance(layer.lora_dropout[ADAPTER], nn.Identity)
        and a.bias is None
        and b.bias is None
        and base.weight.dtype == a.weight.dtype == b.weight.dtype == torch.float32
    )


def is_norm(module: nn.Module) -> bool:
    """Whether a module is an RMSNorm in float32 whose weight does not train."""
    known = type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")
    return known and module.weight.dtype == torch.float32 and not module.weight.requires_grad


def blocks(vlm: Vlm) -> list[nn.Module]:
    """The language model's blocks in order, if they are of Llama's kind and no dial puts anything into them; else none."""
    part = vlm.family.parts["llm"]
    if vlm.conditioner is not None or not part.llama_blocks:
        return []
    found = [module for name, module in vlm.bare.named_modules() if re.fullmatch(part.block, name)]
    silu = vlm.bare.config.get_text_config().hidden_act == "silu"
    plain = silu and all(not block.self_attn.attention_dropout and block.self_attn.sliding_window is None for block in found)
    return found if plain else []
