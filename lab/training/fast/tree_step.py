"""Blocks of Llama's kind over a row of trees (`lab.model.trees`) or of samples (`trainer.packing`), each a tree without branches, in any dtype.

    attention    tree by tree, so that a row costs no more than its trees do, and none reads another
    last block   of what it gives, only the answer rows are read: queries, and all behind them, are computed for those alone
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from lab.model.text_decoder import added
from lab.records import Batch


class Extent(NamedTuple):
    """A tree of a row: its positions, which of the answer rows it has, and what is added to the scores of each of both over its keys.

    Of a sample mask is None, each position reading those up to its own, and asked_mask bool.
    """

    own: slice
    asked: slice
    mask: torch.Tensor | None
    asked_mask: torch.Tensor


def holds_trees(batch: Batch) -> bool:
    """Whether a batch is one row of trees, or of samples that are told apart."""
    mask = batch.prompt.mask
    return bool(batch.prompt.segments) and (mask is None or mask.ndim == 4)


def extents(batch: Batch, dtype: torch.dtype) -> list[Extent]:
    """The trees of a row."""
    mask, places = batch.prompt.mask, batch.target.places
    assert places is not None
    ends = list(itertools.accumulate(batch.prompt.segments, initial=0))
    asked = torch.searchsorted(places, torch.tensor(ends, device=places.device)).tolist()
    found = []
    for (start, stop), (first, last) in zip(itertools.pairwise(ends), itertools.pairwise(asked), strict=True):
        if mask is None:
            seen = torch.arange(stop - start, device=places.device) <= places[first:last, None] - start
            found.append(Extent(slice(start, stop), slice(first, last), None, seen[None, None]))
            continue
        own = mask[:, :, start:stop, start:stop]
        rows = own[:, :, places[first:last] - start]
        found.append(Extent(slice(start, stop), slice(first, last), added(own, dtype), added(rows, dtype)))
    return found


def forward(
    block: Any,
    trees: list[Extent],
    places: torch.Tensor | None,
    hidden_states: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_: Any,
) -> torch.Tensor:
    """A block over hidden_states [1, N, D]: [1, N, D], or [1, A, D] at places [A]."""
    attention = block.self_attn
    entering, at = block.input_layernorm(hidden_states), slice(None) if places is None else places
    q, k, v = read(attention, entering, at, position_embeddings)
    found = torch.cat([attended(q, k, v, tree, places is not None, attention.scaling) for tree in trees], dim=2)
    kept = hidden_states[:, at] + attention.o_proj(found.transpose(1, 2).flatten(2))
    return kept + block.mlp(block.post_attention_layernorm(kept))


def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tree: Extent, last: bool, scaling: float) -> torch.Tensor:
    """What the positions of a tree, or of the last block its answer rows, find among its keys."""
    asking, mask = (tree.asked, tree.asked_mask) if last else (tree.own, tree.mask)
    keys, values = k[:, :, tree.own], v[:, :, tree.own]
    causal = mask is None
    return F.scaled_dot_product_attention(q[:, :, asking], keys, values, attn_mask=mask, is_causal=causal, scale=scaling, enable_gqa=True)


def read(attention: Any, x: torch.Tensor, at: slice | torch.Tensor, turns: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """Queries at some positions, keys and values [1, H, N, S], turned as Transformers turns them (RoPE, Su et al. 2021, 2104.09864)."""
    cos, sin = (numbers[:, None] for numbers in turns)
    layers = (attention.q_proj, x[:, at]), (attention.k_proj, x), (attention.v_proj, x)
    q, k, v = (layer(given).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for layer, given in layers)
    return rotated(q, cos[:, :, at], sin[:, :, at]), rotated(k, cos, sin), v


def rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Heads [1, H, N, S] turned by their positions [1, 1, N, S]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin
