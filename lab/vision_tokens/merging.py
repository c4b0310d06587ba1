"""Merge tokens that are alike until few enough remain: ToMe (Bolya et al. 2023, 2210.09461) after the projector.

Each round splits the tokens, in reading order, into A (even) and B (odd), finds for each a in A its most similar b in B by
cosine, and merges the r most similar pairs, r <= |A|. A merged token is the average over all original tokens in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.model.visual import grid_places

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Merge:
    """Merge down to `budget` tokens, in reading order. hidden: features beyond it do not vote.

    A token's place is that of its destination, the token of B that the others joined: places stay distinct.
    """

    budget: int
    hidden: int

    def count(self, h: int, w: int) -> int:
        """The budget, or all there are."""
        return min(self.budget, h * w)

    def __call__(self, features: torch.Tensor, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[n, h w, D] to [n, budget, D] and their places."""
        import torch

        n, length, _ = features.shape
        places = grid_places(h, w, features.device).expand(n, -1, -1)
        if self.budget >= length:
            return features, places
        tokens = features.float()
        sizes = torch.ones((n, length, 1), device=features.device)
        anchors = torch.arange(length, device=features.device).expand(n, -1)
        while tokens.shape[1] > self.budget:
            joined, kept = assign(tokens[..., : self.hidden].detach(), tokens.shape[1] - self.budget)
            total = joined @ sizes
            tokens = joined @ (tokens * sizes) / total
            anchors = anchors.gather(1, kept)
            sizes = total
        return tokens.to(features.dtype), places.gather(1, anchors.unsqueeze(2).expand(-1, -1, 2))


def assign(tokens: torch.Tensor, excess: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One round of bipartite soft matching: merge min(excess, |A|) pairs; ties go to what is read first.

    Returns which of m tokens goes into which kept one, float 0/1 [n, kept, m], and the kept ones, ascending int64 [n, kept].
    """
    import torch
    from torch.nn.functional import normalize

    n, m, _ = tokens.shape
    unit = normalize(tokens, dim=2)
    best, partner = (unit[:, 0::2] @ unit[:, 1::2].transpose(1, 2)).max(2)
    sources = best.argsort(dim=1, descending=True, stable=True)[:, :excess]
    target = torch.arange(m, device=tokens.device).repeat(n, 1)
    target.scatter_(1, 2 * sources, 2 * partner.gather(1, sources) + 1)
    gone = torch.zeros((n, m), device=tokens.device).scatter_(1, 2 * sources, 1.0)
    kept = gone.argsort(dim=1, stable=True)[:, : m - sources.shape[1]]
    return (kept.unsqueeze(2) == target.unsqueeze(1)).to(tokens.dtype), kept
