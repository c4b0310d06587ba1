"""The same optimizer step in fewer operations; what it computes differs from the plain step by rounding alone.

    products     LoRA layers, norms, gates and attention by `lab.training.fast.autograd_ops`, in fewer passes over large tensors
                 than PEFT's and Transformers' own expressions make.
    rows         packed (`lab.training.fast.packing`): what begins all rows is read once, of trees (`trainer.layout=trees`) the images of each
                 once too, what ends them not at all, and nothing is padding.
    last block   of what it gives, only the answer rows are read: queries, and all behind them, are computed for those alone.

Only while training: validation, scoring and every saved file know nothing of it. It is written for float32 alone: over a model
that computes in 16 bits the step is PEFT's and Transformers' own. A layer that is not plain LoRA (dropout, DoRA, a quantised
base) keeps PEFT's forward; with gradient checkpointing, whose second forward comes after the step's, and where the language model trains
whole (`lora.full`) or the model lies in shares on several devices, nothing is changed at all. A row of several samples (`trainer.packing`), and in
16 bits or with dropout one of trees, goes by `lab.training.fast.tree_step`, also where the language model trains whole.
Equality with the plain step, in every dtype: tests/test_lean.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lab.conditioning import decoder_blocks
from lab.lora import ADAPTER
from lab.model import Vlm
from lab.records import Batch
from lab.training.fast import tree_step
from lab.training.fast.attention import Attention
from lab.training.fast.autograd_ops import Gated, Layer, Normed, Stack, adapted
from lab.training.fast.heads import HeadIndex, Joined, Level, Read
from lab.training.fast.packing import Layout, pack, pack_trees

Forward = tuple[nn.Module, Callable[..., torch.Tensor]]

MOST_KEPT = 1 << 26
"""Numbers in adapted weights of which a copy, with what is adapted in it, is kept from a step's forward to its backward."""


class FusedStep:
    """What of a model can be trained leanly, found once; nothing where it is not to be."""

    def __init__(self, vlm: Vlm, lean: bool = True) -> None:
        self.vlm = vlm
        self.unused = False  # while blocks are compiled as they are (`lab.training.compiling`)
        self.checkpointed = [module for module in vlm.base_model.modules() if hasattr(module, "gradient_checkpointing")]
        reads_whole = any(own.trains and vlm.family.part_of(name) == "llm" for name, own in vlm.full.items())
        known = lean and vlm.dtype == torch.float32 and not vlm.spread and not reads_whole
        modules = list(vlm.base_model.modules()) if known else []
        self.layers = {module: factors(module) for module in modules if is_fusable(module)}
        self.keeps = sum(layer.weight.numel() for layer in self.layers.values()) <= MOST_KEPT
        self.stacks: dict[tuple[Any, ...], Stack | None] = {}
        self.forwards: list[Forward] = [(module, partial(layer_forward, Stack([layer], self.keeps))) for module, layer in self.layers.items()]
        self.forwards += [(module, partial(norm_forward, module)) for module in modules if is_norm(module)]
        self.blocks = blocks(vlm) if known else []
        self.of_trees = blocks(vlm) if not vlm.spread else []
        self.random = any(isinstance(module, nn.Dropout) and module.p > 0 for module in modules)  # then no two tokens are alike
        self.turned = {
            layer: pairing(layer, block.self_attn.head_dim)
            for block in self.blocks
            for layer in (block.self_attn.q_proj, block.self_attn.k_proj)
        }

    def predict(self, batch: Batch) -> torch.Tensor:
        """`Vlm.predict` of a batch with labels, for a backward."""
        if self.unused or any(module.gradient_checkpointing for module in self.checkpointed):
            return self.vlm.predict(batch)
        if self.blocks and batch.prompt.branches and not self.random:
            return self.over(*pack_trees(batch))
        if self.of_trees and tree_step.holds_trees(batch):
            with instead([*self.forwards, *self.over_trees(batch)]):
                return self.vlm.logits(batch, batch.target.rows)
        if not self.blocks or batch.target.places is not None:
            with instead(self.forwards):
                return self.vlm.predict(batch)
        return self.over(*pack(replace(batch, shared=0) if self.random else batch)).unflatten(1, (len(batch.sample_ids), -1))[0]

    def over(self, packed: Batch, layout: Layout) -> torch.Tensor:
        """What a packed batch predicts at the answers of its layout, [1, answers, V]."""
        last = [False] * (len(self.blocks) - 1) + [True]
        forwards = [(block, partial(self.block, block, layout, ends)) for block, ends in zip(self.blocks, last, strict=True)]
        with instead(self.forwards + forwards):
            return self.vlm.logits(packed, layout.answers.numel())

    def over_trees(self, batch: Batch) -> Iterator[Forward]:
        """The forwards of blocks over a row of trees."""
        trees = tree_step.extents(batch, self.vlm.dtype)
        for block in self.of_trees:
            places = batch.target.places if block is self.of_trees[-1] else None
            yield block, partial(tree_step.forward, block, trees, places)

    def block(
        self,
        block: Any,
        layout: Layout,
        last: bool,
        hidden_states: torch.Tensor,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        **_: Any,
    ) -> torch.Tensor:
        """A block of Llama's kind over packed hidden_states [1, N, D], causal in every row and without padding.

        The result is [1, N, D]; of the last block [1, answers, D].
        """
        attention, mlp, size = block.self_attn, block.mlp, block.self_attn.head_dim
        short = keeps_weights(block, hidden_states, layout.length)
        heads = tuple(layer.out_features // size for layer in (attention.q_proj, attention.k_proj))
        angles = torch.complex(*(numbers[0, :, : size // 2] for numbers in position_embeddings))
        entering, residual = block.input_layernorm(hidden_states), hidden_states
        if last:
            at, (asking, standing) = layout.answers, layout.index_of_last(*heads)
            (kv,), (asked,) = self.projected(entering, [attention.k_proj, attention.v_proj]), self.projected(entering[:, at], [attention.q_proj])
            (q,) = asking.of_queries(Read.apply(asked, asking, angles[at])[0])
            (k,), (v,) = (standing.of_keys(each) for each in Read.apply(kv, standing, angles)[1:])
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=layout.reads, scale=attention.scaling, enable_gqa=True)
            found, residual = Joined.apply(out.reshape(-1, size), asking), hidden_states[:, at]
        else:
            (x,) = self.projected(entering, [attention.q_proj, attention.k_proj, attention.v_proj])
            way: Callable[..., torch.Tensor] = Attention.apply if short else recomputed
            found = way(x, layout.index(*heads, folded=short), angles, attention.scaling)
        kept = residual + attention.o_proj(found)
        gate, up = self.projected(block.post_attention_layernorm(kept), [mlp.gate_proj], [mlp.up_proj])
        return kept + mlp.down_proj(Gated.apply(gate, up))

    def projected(self, x: torch.Tensor, *groups: list[Any]) -> tuple[torch.Tensor, ...]:
        """What layers make of x, those of a group side by side in one tensor: one product where all are plain.

        What will be turned comes in the order of `pairing`.
        """
        stacks = [self.stack(tuple(group)) for group in groups]
        if None not in stacks:
            return adapted(x, [stack for stack in stacks if stack is not None])
        return tuple(torch.cat([self.paired(layer, layer(x)) for layer in group], dim=-1) for group in groups)

    def stack(self, group: tuple[Any, ...]) -> Stack | None:
        """A group of layers, made once; None if one of them is not plain."""
        if group not in self.stacks:
            found = [self.layers.get(layer) or untouched(layer) for layer in group]
            plain = [replace(each, order=self.turned.get(layer)) for each, layer in zip(found, group, strict=True) if each is not None]
            self.stacks[group] = Stack(plain, self.keeps) if len(plain) == len(group) else None
        return self.stacks[group]

    def paired(self, layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
        """What a layer gives [..., out] in the order of `pairing` if it will be turned."""
        return x.index_select(-1, self.turned[layer]) if layer in self.turned else x


def recomputed(x: torch.Tensor, at: HeadIndex, angles: torch.Tensor, scaling: float) -> torch.Tensor:
    """As `Attention`, by PyTorch's own, which keeps no weights. at: with queries not folded."""
    queries, keys, values = Read.apply(x, at, angles)
    found = []
    for q, k, v, level in zip(at.of_queries(queries), at.of_keys(keys), at.of_keys(values), at.levels, strict=True):
        mask = behind(level)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scaling, enable_gqa=True)
        found.append(out.reshape(-1, x.shape[-1] // (at.queries + 2 * at.keys)))
    return Joined.apply(torch.cat(found), at)


def behind(level: Level) -> torch.Tensor | None:
    """Which positions those of a level read that ask, bool [B or 1, 1, A, T]; None where all ask."""
    length, asking = level.tokens.shape[1], level.asked.shape[1]
    if asking == length:
        return None
    steps = torch.arange(length, device=level.tokens.device)
    seen = (steps <= steps[-asking:, None])[None, None]
    return seen if level.filled is None else seen & ~F.pad(level.filled, (0, asking))[:, None, None]


@contextlib.contextmanager
def instead(forwards: list[Forward]) -> Iterator[None]:
    """Within it, modules have other forwards; they are left as they were."""
    for module, forward in forwards:
        module.__dict__["forward"] = forward  # what `Module.__setattr__` comes to, after asking four times what it is given
    try:
        yield
    finally:
        for module, _ in forwards:
            del module.__dict__["forward"]  # the class's own shows again


def layer_forward(stack: Stack, x: torch.Tensor) -> torch.Tensor:
    """The forward of a plain LoRA layer."""
    return adapted(x, [stack])[0]


def norm_forward(norm: Any, x: torch.Tensor) -> torch.Tensor:
    """The forward of an RMSNorm; its class's own where it casts."""
    if x.dtype != norm.weight.dtype:
        return type(norm).forward(norm, x)
    return Normed.apply(x, norm.weight, norm.variance_epsilon)


def factors(layer: Any) -> Layer:
    """What a plain LoRA layer (`is_fusable`) computes with."""
    base, a, b = layer.get_base_layer(), layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]
    return Layer(base.weight, base.bias, a.weight, b.weight, layer.scaling[ADAPTER])


def untouched(layer: nn.Module) -> Layer | None:
    """A linear layer in float32 that nothing adapts, as one of rank 0."""
    if type(layer) is not nn.Linear or layer.weight.dtype != torch.float32 or layer.weight.requires_grad:
        return None
    weight = layer.weight
    return Layer(weight, layer.bias, weight.new_empty(0, weight.shape[1]), weight.new_empty(weight.shape[0], 0), 0.0)


def pairing(layer: Any, size: int) -> torch.Tensor:
    """For heads of so many numbers, int64 [outputs]: what rotary positions turn together side by side, 0, S / 2, 1, S / 2 + 1, ..."""
    order = torch.arange(layer.out_features, device=layer.weight.device)
    return order.view(-1, 2, size // 2).mT.flatten()


def keeps_weights(block: Any, x: torch.Tensor, length: int) -> bool:
    """Whether attention over rows of so many positions keeps its weights: on a CPU, and fewer numbers than the feed-forward keeps."""
    heads = block.self_attn.q_proj.out_features // block.self_attn.head_dim
    return x.device.type == "cpu" and heads * length <= 3 * block.mlp.gate_proj.out_features


def is_fusable(layer: nn.Module) -> bool:
    """Whether a module is a LoRA layer that computes W x + s B (A x) in float32 and nothing else."""
    from peft.tuners.lora import Linear as LoraLinear

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


def is_rms_norm(module: nn.Module) -> bool:
    """Whether a module is an RMSNorm as Llama has it: its numbers over their root mean square, times a weight in their own dtype."""
    return type(module).__name__.endswith("RMSNorm") and hasattr(module, "variance_epsilon")


def is_norm(module: Any) -> bool:
    """Whether a module is an RMSNorm in float32 whose weight does not train."""
    return is_rms_norm(module) and module.weight.dtype == torch.float32 and not module.weight.requires_grad


def blocks(vlm: Vlm) -> list[Any]:
    """The language model's blocks in order, if they are of Llama's kind and no dial puts anything into them; else none.

    Llama's: RMSNorm before attention and before a gated feed-forward, rotary halves, no norm of queries or keys.
    """
    if vlm.conditioner is not None or not vlm.family.offers("fast_step"):
        return []
    found: list[Any] = decoder_blocks(vlm)
    config = vlm.base_model.config.get_text_config()
    window = getattr(config, "use_sliding_window", True) and getattr(config, "sliding_window", None)
    silu = getattr(config, "hidden_act", None) == "silu"
    plain = silu and not window and not any(block.self_attn.attention_dropout or hasattr(block.self_attn, "q_norm") for block in found)
    return found if plain else []
