"""The same forward in less time: every operation of PEFT's and Transformers' own, in their order, on what is read of it.

    sums          in place, which spares large tensors; no gradient needs what is overwritten.
    last block    of what it gives, only the last rows are read: queries, and all behind them, are computed for those alone.
    adapted       W + s B A made once in place of two products a layer: equal to rounding, so only with `evaluation.shared_prefix`.

Bit-identical but for the last (tests/test_scoring.py, tests/test_prefixes.py). Only while scoring. A layer that is not plain LoRA in float32, a
norm that casts, or a block that is not of Llama's kind keeps its own forward.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.cache_utils import Cache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from lab.model import Vlm
from lab.training.fast.autograd_ops import Layer, Stack
from lab.training.fast.fused_step import MOST_KEPT, Forward, blocks, factors, is_fusable, is_norm


def forwards(vlm: Vlm, rows: int | None = None, adapted: bool = False) -> list[Forward]:
    """What of a model has such a forward, for `lab.training.fast.fused_step.instead`. Call it anew when weights have changed.

    rows: how many of the last positions of whatever is read are asked of the head; None: all. adapted: weights with what adapts them, of which
    a copy is kept, up to `MOST_KEPT` numbers.
    """
    modules = [] if vlm.spread else list(vlm.base_model.modules())  # accelerate has forwards of its own there
    layers = {module: factors(module) for module in modules if is_fusable(module)}
    if adapted and sum(layer.weight.numel() for layer in layers.values()) <= MOST_KEPT:
        found: list[Forward] = [(module, partial(F.linear, weight=Stack([layer]).sums().weight, bias=layer.bias)) for module, layer in layers.items()]
    else:
        found = [(module, partial(layer_forward, layer)) for module, layer in layers.items()]
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
    cache: Cache | None = None,
    past_key_values: Cache | None = None,
    **_: Any,
) -> torch.Tensor:
    """A block of Llama's kind over hidden_states [B, T, D]: its last rows, [B, rows, D].

    attention_mask: bool [B, 1, T, S], as Transformers makes it for SDPA; None: causal. cache, in earlier Transformers past_key_values: of the S - T
    tokens before, to which these are added.
    """
    assert position_embeddings is not None
    attention = block.self_attn
    cos, sin = (each.unsqueeze(1) for each in position_embeddings)
    entering = block.input_layernorm(hidden_states)
    asked = heads(attention.q_proj(entering[:, -rows:]), attention.head_dim)
    keys, values = (heads(layer(entering), attention.head_dim) for layer in (attention.k_proj, attention.v_proj))
    keys = turned(keys, cos, sin)
    if (held := past_key_values if cache is None else cache) is not None:
        keys, values = held.update(keys, values, attention.layer_idx)
    if attention_mask is None:
        own, total = hidden_states.shape[1], keys.shape[2]
        attention_mask = torch.ones(own, total, dtype=torch.bool, device=asked.device).tril(total - own)[None, None]
    found = sdpa_attention_forward(
        attention,
        turned(asked, cos[:, :, -rows:], sin[:, :, -rows:]),
        keys,
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
