"""Average pooling of the merged grid: neighbouring tokens become one, and the picture keeps its shape.

DeCo (Yao et al. 2024, 2405.20985) finds adaptive average pooling after the tower a match for learned compressors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.model.visual import grid_places

if TYPE_CHECKING:
    import torch


def pooled_grid(h: int, w: int, budget: int) -> tuple[int, int]:
    """The grid h' x w' of at most `budget` cells that an h x w grid is pooled to.

    Among all with h' <= h, w' <= w, h' w' <= budget: the one whose coarser axis keeps most, max min(h'/h, w'/w), and of
    those the one with most cells. A square stays a square and a strip a strip.
    """
    legal = [(rows, min(w, budget // rows)) for rows in range(1, min(h, budget) + 1)]
    return max(legal, key=lambda grid: (min(grid[0] * w, grid[1] * h), grid[0] * grid[1]))


def cell_centres(length: int, cells: int) -> list[int]:
    """The middle index of each pooled cell, halves rounded down: cell i covers [floor(i n/m), ceil((i+1) n/m))."""
    return [(i * length // cells - (-(i + 1) * length // cells) - 1) // 2 for i in range(cells)]


@dataclass(frozen=True)
class Pool:
    """Adaptive average pooling to the `pooled_grid`. A token's place is the centre of its cell."""

    budget: int

    def count(self, h: int, w: int) -> int:
        """Cells of the pooled grid."""
        rows, columns = pooled_grid(h, w, self.budget)
        return rows * columns

    def __call__(self, features: torch.Tensor, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[n, h w, D] to [n, h' w', D] and their places."""
        import torch
        from torch.nn.functional import adaptive_avg_pool2d

        n = len(features)
        rows, columns = pooled_grid(h, w, self.budget)
        if (rows, columns) == (h, w):
            return features, grid_places(h, w, features.device).expand(n, -1, -1)
        grid = features.transpose(1, 2).unflatten(2, (h, w))
        pooled = adaptive_avg_pool2d(grid, (rows, columns)).flatten(2).transpose(1, 2)
        ys = torch.tensor(cell_centres(h, rows), device=features.device)
        xs = torch.tensor(cell_centres(w, columns), device=features.device)
        return pooled, torch.cartesian_prod(ys, xs).reshape(-1, 2).expand(n, -1, -1)
