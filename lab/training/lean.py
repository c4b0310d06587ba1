"""The same optimizer step in fewer operations; what it computes differs from the plain step by rounding alone.

    adapters     W x + s B (A x) and its gradients as products that accumulate in place. PEFT's own expression makes four more
                 passes over tensors as large as the layer's output, which on a CPU cost as much as the products.
    norms        RMSNorm and its gradient in the fewest passes.
    padding      on the right: no answer then sees any, so that attention is causal and nothing else, without a mask.
    last block   of what it gives, only the answer rows are read: queries, and all behind them, are computed for those alone.

Only while training: validation, scoring and every saved file know nothing of it. A layer that is not plain LoRA in one
precision (dropout, DoRA, a 16-bit or quantised base) keeps PEFT's forward; with gradient checkpointing, whose second forward
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
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lab.lora import ADAPTER
from lab.model import Vlm
from lab.records import Batch


class Adapted(torch.autograd.Function):
    """x [..., in] -> W x + bias + s B (A x) [..., out], of which A [r, in] and B [out, r] train."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        a: torch.Tensor,
        b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        out = F.linear(x, weight, bias)
        flat = x.reshape(-1, x.shape[-1])
        low = flat @ a.T
        out.view(-1, out.shape[-1]).addmm_(low, b.T, alpha=scaling)
        ctx.save_for_backward(flat, weight, a, b, low)
        ctx.scaling = scaling
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, weight, a, b, low = ctx.saved_tensors
        rows = gradient.reshape(-1, gradient.shape[-1])
        low_gradient = (rows @ b).mul_(ctx.scaling)
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (rows @ weight).addmm_(low_gradient, a).view(*gradient.shape[:-1], weight.shape[1])
        return of_x, None, None, low_gradient.T @ flat, (rows.T @ low).mul_(ctx.scaling), None


class Normed(torch.autograd.Function):
    """x [..., D] -> w x / sqrt(mean(x^2) + eps) with a frozen w [D] (RMSNorm, Zhang & Sennrich 2019, 1910.07467)."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        square = torch.linalg.vecdot(x, x).unsqueeze(-1)
        inverse = square.div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, inverse = ctx.saved_tensors
        weighted = gradient * weight
        along = torch.linalg.vecdot(weighted, x).unsqueeze(-1)
        along.mul_(inverse.pow(3)).div_(-x.shape[-1])
        return weighted.mul_(inverse).addcmul_(x, along), None, None


class Lean:
    """What of a model can be trained leanly, found once."""

    def __init__(self, vlm: Vlm) -> None:
        modules = list(vlm.bare.modules())
        self.vlm = vlm
        self.checkpointed = [module for module in modules if hasattr(module, "gradient_checkpointing")]
        self.forwards: list[tuple[nn.Module, Callable[..., torch.Tensor]]] = []
        self.forwards += [(module, partial(adapted, module)) for module in modules if is_plain(module)]
        self.forwards += [(module, partial(normed, module)) for module in modules if is_norm(module)]
        self.last = last_block(vlm)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Of the last `answer_rows` positions of every row of a left-padded batch, [B, rows, vocabulary], for a backward."""
        if any(module.gradient_checkpointing for module in self.checkpointed):
            return self.vlm.logits(batch, batch.answer_rows)
        forwards = list(self.forwards)
        if self.last is not None:
            padding = (batch.attention_mask == 0).sum(dim=1, keepdim=True)
            forwards.append((self.last, partial(shortened, self.last, kept_rows(batch, padding))))
            batch = padded_right(batch, padding)
        with instead(forwards):
            return self.vlm.logits(batch, batch.answer_rows)


@contextlib.contextmanager
def instead(forwards: list[tuple[nn.Module, Callable[..., torch.Tensor]]]) -> Iterator[None]:
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


def adapted(layer: LoraLinear, x: torch.Tensor) -> torch.Tensor:
    """The forward of a plain LoRA layer."""
    base, a, b = layer.get_base_layer(), layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    return Adapted.apply(x, base.weight, base.bias, a.weight, b.weight, layer.scaling[ADAPTER])


def normed(norm: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The forward of an RMSNorm."""
    return Normed.apply(x, norm.weight, norm.variance_epsilon)


def shortened(
    block: nn.Module,
    rows: torch.Tensor,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_: Any,
) -> torch.Tensor:
    """A pre-norm decoder block at `rows` int64 [B, R] of hidden_states [B, T, D] alone: [B, R, D]. Causal, without padding."""
    attention = block.self_attn
    entering = block.input_layernorm(hidden_states)
    cos, sin = position_embeddings
    keys = turned(heads(attention.k_proj(entering), attention.head_dim), cos, sin)
    values = heads(attention.v_proj(entering), attention.head_dim)
    asked = turned(heads(attention.q_proj(at(entering, rows)), attention.head_dim), at(cos, rows), at(sin, rows))
    seen = torch.arange(hidden_states.shape[1], device=rows.device) <= rows[..., None]
    found = F.scaled_dot_product_attention(
        asked, keys, values, attn_mask=seen[:, None], scale=attention.scaling, enable_gqa=True
    )
    kept = at(hidden_states, rows) + attention.o_proj(found.transpose(1, 2).flatten(2))
    return kept + block.mlp(block.post_attention_layernorm(kept))


def at(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """x [B, T, D] at rows int64 [B, R]: [B, R, D]."""
    return x.gather(1, rows[..., None].expand(-1, -1, x.shape[-1]))


def heads(x: torch.Tensor, size: int) -> torch.Tensor:
    """[B, T, heads size] -> [B, heads, T, size]."""
    return x.unflatten(-1, (-1, size)).transpose(1, 2)


def turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions, halves rotated: x [B, heads, T, size], cos and sin [B, T, size]."""
    left, right = x.chunk(2, dim=-1)
    return x * cos[:, None] + torch.cat((-right, left), dim=-1) * sin[:, None]


def is_plain(layer: nn.Module) -> bool:
    """Whether a module is a LoRA layer that computes W x + s B (A x) in one precision and nothing else."""
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
        and base.weight.dtype == a.weight.dtype == b.weight.dtype
    )


def is_norm(module: nn.Module) -> bool:
    """Whether a module is an RMSNorm in float32 whose weight does not train."""
    known = type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")
    return known and module.weight.dtype == torch.float32 and not module.weight.requires_grad


def last_block(vlm: Vlm) -> nn.Module | None:
    """The language model's last block, if it is a pre-norm block that neither a dial nor DeepStack puts anything into."""
    if vlm.conditioner is not None or not vlm.family.single_output:
        return None
    pattern = vlm.family.parts["llm"].block
    found = [module for name, module in vlm.bare.named_modules() if pattern and re.fullmatch(pattern, name)]
    parts = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
    return found[-1] if found and all(hasattr(found[-1], part) for part in parts) else None
