"""Gated cross-attention from text to all images of a sample, and what a forward pass carries for it.

Shapes: B samples, T positions, M image tokens of the sample that has most, D hidden size, W inner width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from lab.records import Batch

OCTAVES = 4
PLACE_FEATURES = 3 * 2 * OCTAVES


def place_features(places: torch.Tensor, grid: tuple[int, int], image: int) -> torch.Tensor:
    """Sines and cosines that say which image a token is of and where in it: float32 [tokens, PLACE_FEATURES].

    places: int64 [tokens, 2] on the image's own grid, so that one place of the picture reads alike at every resolution. image:
    its number in the sample, as shown; no two of the first thousands read alike.
    """
    steps = torch.arange(OCTAVES, device=places.device)
    size = torch.tensor(grid, device=places.device)
    inside = (places + 0.5) / size
    angles = (inside.unsqueeze(2) * math.pi * 2.0**steps).flatten(1)
    order = (image * 0.25**steps).expand(len(places), -1)
    angles = torch.cat([angles, order], 1)
    return torch.cat([angles.sin(), angles.cos()], 1)


@dataclass(frozen=True)
class Memory:
    """What the text of a batch may attend to.

    tokens: float [B, M, D]; places: float [B, M, PLACE_FEATURES]; seen: bool [B, 1, 1, M], False for padding
    text: float [B, T, 1], 1 where a position takes from the images: text of a sample that has any
    """

    module: CrossAttention
    tokens: torch.Tensor
    places: torch.Tensor
    seen: torch.Tensor
    text: torch.Tensor


class Block(nn.Module):
    """One cross-attention of `heads` heads and inner width W, and in serial form its feed-forward of inner width 2 W.

    serial    h = h + tanh(a) XA(norm(h)) ;  h = h + tanh(b) FF(norm(h))      before a block (Flamingo eq. of sec. 2.2)
    parallel  s = s + tanh(a) XA(h)      h, s: input and output of the block's self-attention (mPLUG-Owl3, hyper attention)
    """

    def __init__(self, hidden: int, width: int, heads: int, parallel: bool) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.Identity() if parallel else nn.LayerNorm(hidden)
        self.norm_images = nn.LayerNorm(hidden)
        self.query = nn.Linear(hidden, width, bias=False)
        self.key_value = nn.Linear(hidden, 2 * width, bias=False)
        self.place = nn.Linear(PLACE_FEATURES, 2 * width, bias=False)
        self.out = nn.Linear(width, hidden, bias=False)
        self.gate = nn.Parameter(torch.zeros(1))
        if not parallel:
            self.feed_forward = nn.Sequential(
                nn.LayerNorm(hidden), nn.Linear(hidden, 2 * width), nn.GELU(), nn.Linear(2 * width, hidden)
            )
            self.feed_forward_gate = nn.Parameter(torch.zeros(1))

    def split(self, x: torch.Tensor) -> torch.Tensor:
        """[B, L, W] to [B, H, L, W / H]."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)

    def attend(self, h: torch.Tensor, memory: Memory) -> torch.Tensor:
        """tanh(a) XA(norm(h)) on text, 0 elsewhere: [B, T, D] in the module's dtype."""
        key, value = (self.key_value(self.norm_images(memory.tokens)) + self.place(memory.places)).chunk(2, 2)
        query = self.split(self.query(self.norm(h)))
        heard = F.scaled_dot_product_attention(query, self.split(key), self.split(value), attn_mask=memory.seen)
        return self.gate.tanh() * self.out(heard.transpose(1, 2).flatten(2)) * memory.text

    def feed(self, h: torch.Tensor, memory: Memory) -> torch.Tensor:
        """tanh(b) FF(h) on text, 0 elsewhere."""
        return self.feed_forward_gate.tanh() * self.feed_forward(h) * memory.text


class CrossAttention(nn.Module):
    """The cross-attention of all chosen blocks of one arm; `Vlm.conditioner` and `Vlm.extras["cross_attention"]`.

    prefix: whether image tokens stand in the prompt too. It computes in its own float32 beside a base of any dtype.
    """

    def __init__(self, layers: Sequence[int], hidden: int, width: int, heads: int, parallel: bool, prefix: bool) -> None:
        super().__init__()
        self.layers = tuple(layers)
        self.hidden, self.width, self.parallel, self.prefix = hidden, width, parallel, prefix
        self.blocks = nn.ModuleDict({str(layer): Block(hidden, width, heads, parallel) for layer in layers})

    def inputs(self, batch: Batch, places: Sequence[torch.Tensor]) -> dict[str, Any]:
        """The keyword `image_memory` that the hooks of `lab.conditioning` listen to."""
        media = batch.media
        assert media.features is not None
        dtype, device = next(self.parameters()).dtype, batch.prompt.ids.device
        tokens, where, image = [], [], 0
        for number in media.counts:
            images = range(image, image + number)
            none = torch.zeros((0, self.hidden), dtype=dtype, device=device)
            tokens.append(torch.cat([none, *(media.features[i][:, : self.hidden].to(dtype) for i in images)]))
            nowhere = torch.zeros((0, PLACE_FEATURES), dtype=dtype, device=device)
            said = [place_features(places[i], media.grids[i], i - image).to(dtype) for i in images]
            where.append(torch.cat([nowhere, *said]))
            image += number
        lengths = torch.tensor([len(one) for one in tokens], device=device)
        most = max(len(one) for one in tokens)
        seen = torch.arange(most, device=device) < lengths.unsqueeze(1)
        any_image = lengths.view(-1, 1) > 0
        text = (batch.prompt.types == 0) & any_image
        memory = Memory(
            module=self,
            tokens=torch.stack([F.pad(one, (0, 0, 0, most - len(one))) for one in tokens]),
            places=torch.stack([F.pad(one, (0, 0, 0, most - len(one))) for one in where]),
            seen=(seen | ~any_image)[:, None, None],
            text=text.unsqueeze(2).to(dtype),
        )
        return {"image_memory": memory}

    def serial(self, layer: int, hidden: torch.Tensor, memory: Memory) -> torch.Tensor:
        """The input of a block with the images in it, [B, T, D]."""
        block = cast(Block, self.blocks[str(layer)])
        h = hidden.to(memory.tokens.dtype)
        h = h + block.attend(h, memory)
        return (h + block.feed(h, memory)).to(hidden.dtype)

    def gated(self, layer: int, hidden: torch.Tensor, memory: Memory) -> torch.Tensor:
        """What the images add to a block's self-attention, [B, T, D]."""
        return cast(Block, self.blocks[str(layer)]).attend(hidden.to(memory.tokens.dtype), memory).to(hidden.dtype)
