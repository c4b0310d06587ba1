"""The same forward with fewer large tensors: every operation of PEFT's and Transformers' own, in their order, sums in place.

Bit-identical (tests/test_scoring.py). Only while scoring, where no gradient needs what is overwritten. A layer that is not plain
LoRA in float32, or a norm that casts, keeps its own forward.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from lab.model import Vlm
from lab.training.lean import Forward, factors, is_norm, is_plain
from lab.training.products import Layer


def forwards(vlm: Vlm) -> list[Forward]:
    """What of a model has a forward in place, for `lab.training.lean.instead`."""
    modules = list(vlm.bare.modules())
    found: list[Forward] = [(module, partial(layer_forward, factors(module))) for module in modules if is_plain(module)]
    found += [(module, partial(norm_forward, module)) for module in modules if is_norm(module)]
    return found + [(module, partial(gated_forward, module)) for module in modules if is_gated(module)]


def layer_forward(layer: Layer, x: torch.Tensor) -> torch.Tensor:
    """W x + bias + s B (A x), as PEFT's `Linear` computes it."""
    added = F.linear(F.linear(x, layer.a), layer.b).mul_(layer.scaling)
    return F.linear(x, layer.weight, layer.bias).add_(added)


def norm_forward(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """RMSNorm; its class's own where it casts."""
    if x.dtype != norm.weight.dtype:
        return type(norm).forward(norm, x)
    return x.mul(torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)).mul_(norm.weight)


def gated_forward(mlp: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """down(act(gate(x)) up(x))."""
    return mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)).mul_(mlp.up_proj(x)))


def is_gated(module: nn.Module) -> bool:
    """Whether a module is a feed-forward of Llama's kind."""
    parts = ("gate_proj", "up_proj", "down_proj", "act_fn")
    return type(module).__name__.endswith("MLP") and all(hasattr(module, part) for part in parts)
