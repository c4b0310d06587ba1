"""Ground words, as the tower was grounded: a name must find what it names in the pictures.

From the answers alone the language model stays at chance for 400 steps of 96 statements: one bit a statement
is too little to find out that words match what they name in one of two images. So each step of that thought
is taught by itself, in every sequence of stages 2 and 3, wherever a text names a kind (`red circle`):

    block 1   a visual token knows its image, and the last token of a name knows the whole name (linear probes)
    block 2   pointing: of the last token of a name, one head for the left image and one for the right share
              their attention equally among the n cells that hold such a thing and the sequence's first token,
              which so gets 1 / (n + 1): the attention counts
    block 3   the last token of a name knows n in either image (linear probes)

The probes are thrown away when the base is saved. Losses are means of cross-entropies, in nats.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.modeling_qwen2_vl import rotate_half

from lab.data.scenes import COLOURS, SHAPES, Kind
from tools.pretraining.architecture import HIDDEN
from tools.pretraining.sequence_packing import Layout, Prefix, positions, visible

NAMING_BLOCK, POINTING_BLOCK, COUNTING_BLOCK = 1, 2, 3  # counted from 1
POINTERS = (0, 2)  # query heads for the left and the right image, of different key heads
MOST = 5  # larger numbers count as this one


class Probes(nn.Module):
    """Linear read-outs of RMS-normed hidden states: image of a visual token, words of a name, numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Linear(HIDDEN, 2)
        self.colour = nn.Linear(HIDDEN, len(COLOURS) + 1)
        self.shape = nn.Linear(HIDDEN, len(SHAPES) + 1)
        self.numbers = nn.Linear(HIDDEN, 2 * (MOST + 1))
        for linear in self.children():
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)


def words_loss(
    model: Qwen2VLForConditionalGeneration,
    probes: Probes,
    prefix: Prefix,
    layout: Layout,
    hidden: tuple[torch.Tensor, ...],
) -> torch.Tensor:
    """Return the sum of all that this module teaches."""
    row, position = layout.named_at.T
    position = position + len(prefix.ids)
    visual = _normed(hidden[NAMING_BLOCK][:, : len(prefix.ids)][:, prefix.image_at])
    which = torch.arange(2).repeat_interleave(visual.shape[1] // 2).expand(len(visual), -1)
    named = _normed(hidden[NAMING_BLOCK][row, position])
    kinds = indices(layout.kinds)
    losses = [
        functional.cross_entropy(probes.image(visual).flatten(0, 1), which.flatten()),
        functional.cross_entropy(probes.colour(named), kinds[:, 0]),
        functional.cross_entropy(probes.shape(named), kinds[:, 1]),
        pointing_loss(model, prefix, layout, hidden),
        functional.cross_entropy(
            count(probes, prefix, layout, hidden).flatten(0, 1), layout.held_by.sum(-1).clamp(max=MOST).flatten()
        ),
    ]
    return torch.stack(losses).sum()


def indices(kinds: Sequence[Kind]) -> torch.Tensor:
    """Return int64 [M, 2], the colour (6: any) and shape (5: any) of every kind."""
    pairs = [
        (COLOURS.index(kind.colour) if kind.colour else len(COLOURS), SHAPES.index(kind.shape) if kind.shape else len(SHAPES))
        for kind in kinds
    ]
    return torch.tensor(pairs)


def count(probes: Probes, prefix: Prefix, layout: Layout, hidden: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Score the numbers 0..5 of every name in either image: [M, 2, 6]."""
    row, position = layout.named_at.T
    named = _normed(hidden[COUNTING_BLOCK][row, position + len(prefix.ids)])
    return probes.numbers(named).unflatten(-1, (2, MOST + 1))


def _normed(hidden: torch.Tensor) -> torch.Tensor:
    return hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + 1e-6)


def pointing_loss(
    model: Qwen2VLForConditionalGeneration, prefix: Prefix, layout: Layout, hidden: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """Return the mean cross-entropy of the pointers' attention, one for each image, against the cells to be found."""
    images = layout.held_by.shape[1]
    logits = pointer_logits(model, prefix, layout, hidden)[:, :images]
    wanted = torch.zeros_like(logits)
    for image, cells in enumerate(prefix.image_at.nonzero().flatten().unflatten(0, (images, -1))):
        wanted[:, image, cells] = layout.held_by[:, image].float()
    wanted[..., 0] = 1.0
    wanted = wanted / wanted.sum(-1, keepdim=True)
    return -(wanted * logits.log_softmax(-1)).sum(-1).mean()


def pointer_logits(
    model: Qwen2VLForConditionalGeneration, prefix: Prefix, layout: Layout, hidden: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    """Return the attention logits of the pointers at every name, as block 2 itself computes them: [M, 2, T]."""
    return attention_logits(model, prefix, layout, hidden, layout.named_at, POINTING_BLOCK, POINTERS)


def attention_logits(
    model: Qwen2VLForConditionalGeneration,
    prefix: Prefix,
    layout: Layout,
    hidden: tuple[torch.Tensor, ...],
    at: torch.Tensor,
    number: int,
    heads: Sequence[int],
) -> torch.Tensor:
    """Return the attention logits of a block's heads as it computes them itself: [M, heads, T]. at: int64 [M, 2], row and position."""
    text = model.model.language_model
    block = text.layers[number - 1]
    attention = block.self_attn
    normed = block.input_layernorm(hidden[number - 1])
    row, position = at.T
    position = position + len(prefix.ids)
    cos, sin = (table[0] for table in text.rotary_emb(normed, positions(prefix, layout)[:, None]))  # [T, head_dim]
    groups = attention.config.num_attention_heads // attention.config.num_key_value_heads
    scores = []
    for head in heads:
        query = _head(attention.q_proj, head, attention.head_dim, normed[row, position])
        key = _head(attention.k_proj, head // groups, attention.head_dim, normed)
        query = query * cos[position] + rotate_half(query) * sin[position]
        key = key * cos + rotate_half(key) * sin
        scores.append((key[row] @ query.unsqueeze(-1)).squeeze(-1))
    seen = visible(prefix, layout)[position].unsqueeze(1)
    return (attention.scaling * torch.stack(scores, dim=1)).masked_fill(~seen, -1e4)


def _head(linear: nn.Linear, head: int, size: int, inputs: torch.Tensor) -> torch.Tensor:
    rows = slice(head * size, (head + 1) * size)
    return functional.linear(inputs, linear.weight[rows], linear.bias[rows])
