"""A trained resampler: N latents that each gather one token from an image, whatever the image's size.

The Perceiver resampler of Flamingo (Jaegle et al. 2021, 2103.03206; Alayrac et al. 2022, 2204.14198) in one small layer. Its
latents know where to look at first, as in TokenPacker and Honeybee's locality-aware abstractors (Cha et al. 2024,
2312.06742): a fresh Perceiver emits noise, and a frozen language model then needs far more steps than an adapter is given.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from lab.model.visual import grid_places


def lattice(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`number` points spread over the unit square in rows, in reading order: numerators and denominators int64 [number, 2].

    The point (y, x) is their quotient; as integers, so that the cell a point lies in is exact on every grid.
    """
    rows = math.isqrt(number)
    above, below = [], []
    for row in range(rows):
        columns = (row + 1) * number // rows - row * number // rows
        above += [(2 * row + 1, 2 * column + 1) for column in range(columns)]
        below += [(2 * rows, 2 * columns)] * columns
    return torch.tensor(above), torch.tensor(below)


class Resampler(nn.Module):
    """N latents attend to the tokens of one image.

        a_ni = softmax_i(q_n . k_i / sqrt(d) - s |p_n - p_i|^2)          per head; p: place in the unit square
        y_n  = mean_heads(a) x + O concat_heads(a V(x)) ;   y_n + MLP(y_n)

    q, p, s and all matrices train. At the start q . k is small, p_n lies on a lattice, s = 2 N, and O and the last layer of
    the MLP are zero: the resampler is then a soft local average, N tokens of the projector's own scale, and from more
    latents than tokens an interpolation. Latent n keeps for its place the cell that p_n lies in at the start.

    Everything beyond the first `hidden` features (other levels of the tower) is averaged and not transformed.
    """

    def __init__(self, number: int, hidden: int, width: int, heads: int) -> None:
        super().__init__()
        self.number, self.hidden, self.width, self.heads = number, hidden, width, heads
        self.queries = nn.Parameter(0.02 * torch.randn(number, width))
        above, below = lattice(number)
        self.points = nn.Parameter(above / below)
        self.log_sharpness = nn.Parameter(torch.full((heads, 1, 1), math.log(2.0 * number)))
        self.norm = nn.LayerNorm(hidden)
        self.key = nn.Linear(hidden, width, bias=False)
        self.value = nn.Linear(hidden, width, bias=False)
        self.out = nn.Linear(width, hidden)
        self.mlp = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, width), nn.GELU(), nn.Linear(width, hidden))
        for parameter in (*self.out.parameters(), *self.mlp[3].parameters()):
            nn.init.zeros_(parameter)

    def count(self, h: int, w: int) -> int:
        """The number of latents, also for an image of fewer tokens."""
        return self.number

    def forward(self, features: torch.Tensor, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[n, h w, D] to [n, N, D] and their places."""
        n, length, _ = features.shape
        size = torch.tensor([h, w], device=features.device)
        x = features.to(self.queries.dtype)
        image = self.norm(x[..., : self.hidden])
        key = self.key(image).view(n, length, self.heads, -1).transpose(1, 2)
        value = self.value(image).view(n, length, self.heads, -1).transpose(1, 2)
        query = self.queries.view(self.number, self.heads, -1).transpose(0, 1)
        cells = (grid_places(h, w, features.device) + 0.5) / size
        distance = (self.points.unsqueeze(1) - cells).square().sum(2)
        scores = query @ key.transpose(2, 3) / math.sqrt(self.width // self.heads) - self.log_sharpness.exp() * distance
        weights = scores.softmax(3)
        tokens = weights.mean(1) @ x
        gathered = (weights @ value).transpose(1, 2).flatten(2)
        top = tokens[..., : self.hidden] + self.out(gathered)
        top = top + self.mlp(top)
        tokens = torch.cat([top, tokens[..., self.hidden :]], 2)
        above, below = lattice(self.number)
        places = above * torch.tensor([h, w]) // below
        return tokens.to(features.dtype), places.to(features.device).expand(n, -1, -1)
