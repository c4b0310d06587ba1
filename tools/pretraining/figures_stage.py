"""Stage 4: with the tower alone, see figures of any place, size and more colours, without forgetting the scenes.

As in stage 1 every merged token says what it shows, in the language model's own words: each cell that a figure covers
enough says its colour and shape, empty cells ` nothing`. Beside it, a linear probe (thrown away at the end) reads from
each such cell where the figure's edges are, in cells from the cell's own centre: the tower knows no absolute places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from lab.data import scenes as plain
from lab.data.scenes import SIDE, Scene
from tools.pretraining.architecture import HIDDEN
from tools.pretraining.grounding_stage import SIZE, Dictionary, draw_scenes, rms, targets
from tools.pretraining.lean_tower import features_of, to_patches
from tools.pretraining.pictures import COLOURS, SHAPES, SIZES, Picture, compose_picture, coverage, draw_picture, shown
from tools.pretraining.recipe import STREAM, Recipe

UNASKED = -100
SMALL, FEW, MANY = (48, 48), (1, 1, 2), (1, 3, 4, 5, 6)  # a size; numbers of figures


class Edges(nn.Linear):
    """Reads x0, y0, x1, y1 of a cell's figure from its direction."""

    def __init__(self) -> None:
        super().__init__(HIDDEN, 4)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


@dataclass(frozen=True)
class Cells:
    """What cells show. colours, shapes: int64 [N], UNASKED where not asked; edges: float32 [N, 4], nan without a figure."""

    colours: torch.Tensor
    shapes: torch.Tensor
    edges: torch.Tensor


def picture_cells(pictures: Sequence[Picture], grid: tuple[int, int]) -> Cells:
    """What the cells of pictures of one grid (rows, columns) show, picture after picture in reading order."""
    parts = [_cells(picture, grid) for picture in pictures]
    return Cells(*(torch.from_numpy(np.concatenate(column)) for column in zip(*parts, strict=True)))


def _cells(picture: Picture, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    cells = shown(coverage(picture, grid))
    rows, columns = grid
    colours, shapes = np.full(len(cells), len(COLOURS)), np.full(len(cells), len(SHAPES))
    edges = np.full((len(cells), 4), np.nan, dtype=np.float32)
    x, y = (axis.ravel() + 0.5 for axis in np.meshgrid(np.arange(columns), np.arange(rows)))
    centre = np.stack([x, y, x, y], axis=1)
    scale = np.array([columns / picture.size[0], rows / picture.size[1]] * 2)
    for index, figure in enumerate(picture.figures):
        at = cells == index
        colours[at], shapes[at] = COLOURS.index(figure.colour), SHAPES.index(figure.shape)
        edges[at] = np.array(figure.box) * scale - centre[at]
    colours[cells == -2] = shapes[cells == -2] = UNASKED
    return colours, shapes, edges


def scene_cells(scenes: Sequence[Scene]) -> Cells:
    """The same of stage 1's scenes, whose edges are not asked."""
    colours, shapes = targets(scenes)
    colours[colours == len(plain.COLOURS)] = len(COLOURS)
    shapes[shapes == len(plain.SHAPES)] = len(SHAPES)
    return Cells(colours, shapes, torch.full((len(colours), 4), torch.nan))


def draw_figures(recipe: Recipe, step: int, purpose: int = 5) -> tuple[list[Picture], list[Scene]]:
    """Draw one step's pictures, all of one size, and scenes where that is theirs, from (seed, step) alone.

    In turn small pictures of one figure and pictures of many: the tower learns from figures, and empty cells cost as much.
    """
    rng = np.random.default_rng([STREAM, recipe.seed, purpose, step])
    if rng.random() < recipe.other_sizes:
        size = SIZES[int(rng.integers(len(SIZES)))]
        return [compose_picture(rng, size, MANY) for _ in range(recipe.figures_pictures // 2)], []
    if step % 2:
        return [compose_picture(rng, SMALL, FEW) for _ in range(2 * recipe.figures_pictures)], []
    pictures = [compose_picture(rng, (SIDE, SIDE), MANY) for _ in range(recipe.figures_pictures)]
    return pictures, draw_scenes(recipe, step, recipe.figures_scenes, purpose=6)


def figures_loss(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    words: Dictionary,
    edges: Edges,
    drawn: tuple[list[Picture], list[Scene]],
) -> torch.Tensor:
    """Return the loss of stage 1 plus the mean absolute error of the edges, in cells."""
    pictures, scenes = drawn
    images = [draw_picture(picture) for picture in pictures] + [plain.draw(scene) for scene in scenes]
    patches, grid = to_patches(processor, images)
    features = features_of(model, patches, grid).flatten(0, 1)
    parts = [picture_cells(pictures, grid)] + ([scene_cells(scenes)] if scenes else [])
    colours, shapes, sides = (torch.cat([getattr(part, name) for part in parts]) for name in ("colours", "shapes", "edges"))
    size = rms(features)
    held, empty = (colours >= 0) & (colours < len(COLOURS)), colours == len(COLOURS)
    sided = ~sides[:, 0].isnan()
    named = [
        share * functional.cross_entropy(logits[at], wanted[at])
        for logits, wanted in zip(words.logits(features), (colours, shapes), strict=True)
        for at, share in ((held, 1.0), (empty, 0.5))
    ]
    return (
        torch.stack(named).sum()
        + (size / SIZE - 1).pow(2).mean()
        + (edges((features / size)[sided]) - sides[sided]).abs().mean()
    )
