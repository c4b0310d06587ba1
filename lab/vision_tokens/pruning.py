"""Keep the tokens that say most about an image, as they are and where they are; drop the others.

Rules, all on features f_i after the projector, none trained:

    deviation   |f_i - mean f|: what differs from the image's average (its background)
    norm        |f_i|: what the tower and projector make large (ToFu, Kim et al. 2023, 2312.01026, drops by norm)
    diverse     farthest points by cosine distance: begin with the token of greatest deviation, then always the one
                least like any kept (DivPrune, Alvar et al. 2025, 2503.02175)

Equal scores keep the token that is read first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.config import PruneRule
from lab.model.visual import grid_places

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Prune:
    """Keep `budget` tokens in reading order, each at its own place. hidden: features beyond it do not vote."""

    budget: int
    rule: PruneRule
    hidden: int

    def count(self, h: int, w: int) -> int:
        """The budget, or all there are."""
        return min(self.budget, h * w)

    def __call__(self, features: torch.Tensor, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[n, h w, D] to [n, budget, D] and their places."""
        places = grid_places(h, w, features.device).expand(len(features), -1, -1)
        if self.budget >= h * w:
            return features, places
        kept = keep(features[..., : self.hidden].detach().float(), self.budget, self.rule).unsqueeze(2)
        return features.gather(1, kept.expand(-1, -1, features.shape[2])), places.gather(1, kept.expand(-1, -1, 2))


def keep(features: torch.Tensor, number: int, rule: PruneRule) -> torch.Tensor:
    """Indices of the kept tokens in ascending order: [n, L, D] to int64 [n, number]."""
    deviation = (features - features.mean(1, keepdim=True)).norm(dim=2)
    match rule:
        case PruneRule.diverse:
            chosen = farthest_points(features, number, deviation.argmax(1))
        case PruneRule.norm:
            chosen = features.norm(dim=2).argsort(dim=1, descending=True, stable=True)[:, :number]
        case PruneRule.deviation:
            chosen = deviation.argsort(dim=1, descending=True, stable=True)[:, :number]
    return chosen.sort(1).values


def farthest_points(features: torch.Tensor, number: int, first: torch.Tensor) -> torch.Tensor:
    """Greedy max-min selection by cosine distance from the token `first` of each image: int64 [n, number]."""
    import torch
    from torch.nn.functional import normalize

    unit = normalize(features, dim=2)
    rows = torch.arange(len(features), device=features.device)
    chosen = [first]
    nearest = torch.full(features.shape[:2], torch.inf, device=features.device)
    for _ in range(number - 1):
        distance = 1.0 - (unit * unit[rows, chosen[-1]].unsqueeze(1)).sum(2)
        nearest = torch.minimum(nearest, distance)
        nearest[rows, chosen[-1]] = -torch.inf
        chosen.append(nearest.argmax(1))
    return torch.stack(chosen, 1)
