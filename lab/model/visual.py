"""From a batch's images to what the language model is given of them: the seams that two dials fill.

`vision_tokens` puts a `Reducer` on the model (fewer tokens an image), `conditioning` a `Conditioner` (another way in than
the prompt). A place is the (h, w) of the grid cell, before reduction, that a token stands for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from lab.records import Batch

if TYPE_CHECKING:
    import torch


class Reducer(Protocol):
    """Makes fewer tokens of an image, after the projector."""

    def count(self, h: int, w: int) -> int:
        """How many tokens an image of h x w tokens costs afterwards."""
        ...

    def __call__(self, features: torch.Tensor, h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
        """[n, h w, D] of n images to tokens [n, count, D] and places int64 [n, count, 2]."""
        ...


class Conditioner(Protocol):
    """Lets images enter the language model elsewhere than in the prompt.

    prefix: whether their tokens stand in the prompt all the same.
    """

    prefix: bool

    def inputs(self, batch: Batch, places: Sequence[torch.Tensor]) -> dict[str, Any]:
        """Keyword arguments for the model's forward. `batch.media.features`: [tokens, D] each; places: [tokens, 2] each."""
        ...


def grid_places(h: int, w: int, device: torch.device | None = None) -> torch.Tensor:
    """The places of an h x w grid in reading order: int64 [h w, 2]."""
    import torch

    return torch.cartesian_prod(torch.arange(h, device=device), torch.arange(w, device=device)).reshape(h * w, 2)


def reduce_images(
    features: Sequence[torch.Tensor], grids: Sequence[tuple[int, int]], reducer: Reducer | None
) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Reduce each image, those of one grid together; tokens [n_i, D] and places int64 [n_i, 2] in the order given."""
    import torch

    if reducer is None:
        return tuple(features), tuple(grid_places(*grid, one.device) for grid, one in zip(grids, features, strict=True))
    members: dict[tuple[int, int], list[int]] = {}
    for i, grid in enumerate(grids):
        members.setdefault(grid, []).append(i)
    tokens: dict[int, torch.Tensor] = {}
    places: dict[int, torch.Tensor] = {}
    for grid, images in members.items():
        made, where = reducer(torch.stack([features[i] for i in images]), *grid)
        tokens |= dict(zip(images, made, strict=True))
        places |= dict(zip(images, where, strict=True))
    return tuple(tokens[i] for i in range(len(grids))), tuple(places[i] for i in range(len(grids)))


def at_places(batch: Batch, places: Sequence[torch.Tensor]) -> Batch:
    """The batch with each image token at the (h, w) it stands for; as it is where positions are counted in a row.

    `Encoder.collate` has put every token of a reduced image at its image's start p, that is (t, h, w) = (p, p, p), and the
    text after it where it would stand after the whole grid.
    """
    import torch

    if batch.prompt.positions.ndim == 2:
        return batch
    positions = batch.prompt.positions.clone()
    positions[1:, batch.prompt.types.bool()] += torch.cat(tuple(places)).T.to(positions)
    return replace(batch, prompt=replace(batch.prompt, positions=positions))
