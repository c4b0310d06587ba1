"""The same forward in less time: every operation of PEFT's and Transformers' own, in their order, on what is read of it.

    sums          in place, which spares large tensors; no gradient needs what is overwritten.
    last block    of what it gives, only the last rows are read: queries, and all behind them, are computed for those alone.

Bit-identical (tests/test_scoring.py). Only while scoring. A layer that is not plain LoRA in float32, a norm that casts, or a block
that is not of Llama's kind keeps its own forward.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lab.model import Vlm
from lab.training.fast.autograd_ops import Layer
from lab.training.fast.fused_step import Forward, blocks, factors, is_fusable, is_norm


def forwards(vlm: Vlm, rows: int | None = None) -> list[Forward]:
    """What of a model has such a forward, for `lab.training.fast.fused_step.instead`.

    rows: how many of the last positions are read, where prompts are read whole and without a cache; None: all.
    """
    modules = [] if vlm.spread else list(vlm.base_model.modules())  # accelerate has forwards of its own there
    found: list[Forward] = [(module, partial(layer_forward, factors(module))) for module in modules if is_fusable(module)]
    found += [(module, partial(norm_forward, module)) for module in modules if is_norm(module)]
    found += [(module, partial(gated_forward, module)) for module in modules if is_gated(module)]
    if not rows or vlm.spread or vlm.base_model.config._attn_implementation != "sdpa":
        return found
    return found + [(block, partial(block_forward, block, rows)) for block in blocks(vlm)[-1:]]


def layer_forward(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """W x + bias + s B (A x), as PEFT's `Linear` computes it."""
    added = F.linear(F.linear(x, layer.a), layer.b).mul_(layer.scaling)
    return F.linear(x, layer.weight, layer.bias).add_(added)


def norm_forward(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """RMSNorm; its class's own where it casts."""
    if x.dtype != norm.weight.dtype:
        return type(norm).forward(norm, x)
    return x.mul(torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)).mul_(norm.weight)


def gated_forward(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    """down(act(gate(x)) up(x))."""
    return mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)).mul_(mlp.up_proj(x)))


def block_forward(
    block: Any,
    rows: int,
    hidden_states: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
    past_key_values: None = None,
    **_: Any,
) -> torch.Tensor:
    """A block of Llama's kind over hidden_states [B, T, D]: its last rows, [B, rows, D].

    attention_mask: bool [B, 1, T, T], as Transformers makes it for SDPA; None: causal.
    """
    assert position_embeddings is not None and past_key_values is None
    attention, length = block.self_attn, hidden_states.shape[1]
    cos, sin = (each.unsqueeze(1) for each in position_embeddings)
    entering = block.input_layernorm(hidden_states)
    asked = heads(attention.q_proj(entering[:, -rows:]), attention.head_dim)
    keys, values = (heads(layer(entering), attention.head_dim) for layer in (attention.k_proj, attention.v_proj))
    if attention_mask is None:
        attention_mask = torch.ones(length, length, dtype=torch.bool, device=asked.device).tril()[None, None]
    found = sdpa_attention_forward(
        attention,
        turned(asked, cos[:, :, -rows:], sin[:, :, -rows:]),
        turned(keys, cos, sin),
        values,
        attention_mask[:, :, -rows:],
        scaling=attention.scaling,
    )[0]
    kept = attention.o_proj(found.flatten(2)).add_(hidden_states[:, -rows:])
    return block.mlp(block.post_attention_layernorm(kept)).add_(kept)


def heads(x: torch.Tensor, size: int) -> torch.Tensor:
    """[B, T, heads size] -> [B, heads, T, size]."""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions in halves: x [B, heads, T, size], cos and sin [B, 1, T, size]."""
    first, second = x.chunk(2, dim=-1)
    return x.mul(cos).add_(torch.cat((-second, first), dim=-1).mul_(sin))


def is_gated(module: nn.Module) -> bool:
    """Whether a module is a feed-forward of Llama's kind."""
    parts = ("gate_proj", "up_proj", "down_proj", "act_fn")
    return type(module).__name__.endswith("MLP") and all(hasattr(module, part) for part in parts)
