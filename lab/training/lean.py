"""The same optimizer step in fewer operations; what it computes differs from the plain step by rounding alone.

    adapters     W x + s B (A x) and its gradients as products that accumulate in place. PEFT's own expression makes four more
                 passes over tensors as large as the layer's output, which on a CPU cost as much as the products.
    last block   of what the last block gives, only the answer rows are read, so its feed-forward runs on those only.

Only while training: validation, scoring and every saved file know nothing of it. A layer that is not plain LoRA in one
precision (dropout, DoRA, a 16-bit or quantised base) keeps PEFT's forward. With gradient checkpointing nothing is changed,
because the second forward comes later. Equality with the plain step: tests/test_lean.py.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from lab.lora import ADAPTER
from lab.model import Vlm


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


class Lean:
    """What of a model can be trained leanly, found once."""

    def __init__(self, vlm: Vlm) -> None:
        modules = list(vlm.bare.modules())
        self.checkpointed = [module for module in modules if hasattr(module, "gradient_checkpointing")]
        self.layers = [module for module in modules if is_plain(module)]
        self.block = last_block(vlm)

    @contextlib.contextmanager
    def step(self, rows: int) -> Iterator[None]:
        """Within it, a forward whose last `rows` positions alone are read. Leaves the model as it was."""
        if any(module.gradient_checkpointing for module in self.checkpointed):
            yield
            return
        changed: list[nn.Module] = list(self.layers)
        for layer in self.layers:
            layer.forward = partial(adapted, layer)
        if self.block is not None:
            self.block.forward = partial(shortened, self.block, rows)
            changed.append(self.block)
        try:
            yield
        finally:
            for module in changed:
                del module.forward  # the class's own shows again


def adapted(layer: LoraLinear, x: torch.Tensor) -> torch.Tensor:
    """The forward of a plain LoRA layer."""
    base, a, b = layer.get_base_layer(), layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    return Adapted.apply(x, base.weight, base.bias, a.weight, b.weight, layer.scaling[ADAPTER])


def shortened(block: nn.Module, rows: int, hidden_states: torch.Tensor, **given: Any) -> torch.Tensor:
    """A pre-norm decoder block whose last `rows` outputs alone are wanted, [B, rows, hidden]."""
    attended, _ = block.self_attn(hidden_states=block.input_layernorm(hidden_states), **given)
    kept = hidden_states[:, -rows:] + attended[:, -rows:]
    return kept + block.mlp(block.post_attention_layernorm(kept))


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


def last_block(vlm: Vlm) -> nn.Module | None:
    """The language model's last block, if it is a pre-norm block that neither a dial nor DeepStack puts anything into."""
    if vlm.conditioner is not None or not vlm.family.single_output:
        return None
    pattern = vlm.family.parts["llm"].block
    found = [module for name, module in vlm.bare.named_modules() if pattern and re.fullmatch(pattern, name)]
    parts = ("self_attn", "mlp", "input_layernorm", "post_attention_layernorm")
    return found[-1] if found and all(hasattr(found[-1], part) for part in parts) else None
