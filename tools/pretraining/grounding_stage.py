"""Stage 1: teach the vision tower and the merger what stands where, in the language model's own words.

Every merged token answers for its cell: which colour word and which shape word (or ` nothing`) is nearest.
The words' fixed embeddings are the classifier, so what the tower says is already in the language model's
terms. With f [tokens, hidden], its direction g = f / rms(f), E rows of the embedding table:

    loss = CE(s g E_colours^T) + CE(s g E_shapes^T) + mean((rms(f) / size - 1)^2)

The last term keeps features as large as word embeddings. Without it they grow tenfold, and what the blocks
add to them (such as which of the two images they belong to) is lost beside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from lab.data.scenes import COLOURS, PALETTES, SHAPES, Scene, compose, compose_pair, draw
from tools.pretraining.architecture import EMBEDDING_STD
from tools.pretraining.recipe import STREAM, Recipe

SIZE = EMBEDDING_STD * 2**0.5  # of a sum of two words
SCALE = 10.0 * SIZE  # s: a cell's right words then reach logits of about 12
NOTHING = " nothing"


class Dictionary:
    """The classifier: embedding rows of the colour and shape words, ` nothing` last in each."""

    def __init__(
        self,
        model: Qwen2VLForConditionalGeneration,
        processor: Qwen2VLProcessor,
        colours: Sequence[str] = COLOURS,
        shapes: Sequence[str] = SHAPES,
    ) -> None:
        table = model.get_input_embeddings().weight.detach()
        self.colours, self.shapes = (
            torch.stack([self._row(table, processor, word) for word in (*(f" {name}" for name in names), NOTHING)])
            for names in (colours, shapes)
        )

    @staticmethod
    def _row(table: torch.Tensor, processor: Qwen2VLProcessor, word: str) -> torch.Tensor:
        """A word of several tokens is their sum, as long as one of them."""
        tokens = processor.tokenizer.encode(word)
        return table[tokens].sum(0) / len(tokens) ** 0.5

    def logits(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score features [tokens, hidden] as colours [tokens, 7] and shapes [tokens, 6], by direction alone."""
        directions = features / rms(features)
        return SCALE * directions @ self.colours.T, SCALE * directions @ self.shapes.T


def rms(features: torch.Tensor) -> torch.Tensor:
    """Root mean square over the last axis, kept."""
    return features.pow(2).mean(-1, keepdim=True).add(1e-12).sqrt()


def see(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, scenes: Sequence[Scene]
) -> torch.Tensor:
    """Draw scenes and pass them through processor, tower and merger: float32 [scenes, 16, hidden]."""
    inputs = processor.image_processor(images=[draw(scene) for scene in scenes], return_tensors="pt")
    features = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
    return torch.stack(list(features))


def targets(scenes: Sequence[Scene]) -> tuple[torch.Tensor, torch.Tensor]:
    """What every cell holds, as indices into the dictionary: int64 [scenes * 16] colours and shapes."""
    cells = [thing for scene in scenes for thing in scene.cells()]
    colours = [len(COLOURS) if thing is None else COLOURS.index(thing.colour) for thing in cells]
    shapes = [len(SHAPES) if thing is None else SHAPES.index(thing.shape) for thing in cells]
    return torch.tensor(colours), torch.tensor(shapes)


def draw_scenes(recipe: Recipe, step: int, number: int, purpose: int = 1) -> list[Scene]:
    """Draw the scenes of one step from (seed, step) alone. purpose: 1 to learn from, 2 to check with."""
    rng = np.random.default_rng([STREAM, recipe.seed, purpose, step])
    return [compose(rng, PALETTES["hard"], []) for _ in range(number)]


def draw_pairs(rng: np.random.Generator, number: int) -> list[tuple[str, tuple[Scene, Scene]]]:
    """Draw pairs of scenes, mostly of medium difficulty; each with the name of its palette."""
    names = rng.choice(["easy", "medium", "hard"], size=number, p=[0.2, 0.5, 0.3]).tolist()
    return [(name, compose_pair(rng, PALETTES[name])) for name in names]


def grounding_loss(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, words: Dictionary, scenes: Sequence[Scene]
) -> torch.Tensor:
    """Return the mean loss per cell."""
    colours, shapes = targets(scenes)
    features = see(model, processor, scenes).flatten(0, 1)
    colour_logits, shape_logits = words.logits(features)
    named = functional.cross_entropy(colour_logits, colours) + functional.cross_entropy(shape_logits, shapes)
    return named + (rms(features) / SIZE - 1).pow(2).mean()


@torch.no_grad()
def cells_right(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, words: Dictionary, scenes: Sequence[Scene]
) -> tuple[float, float]:
    """Return the share of object cells with colour and shape right, and of empty cells called empty."""
    colours, shapes = targets(scenes)
    colour_logits, shape_logits = words.logits(see(model, processor, scenes).flatten(0, 1))
    right = (colour_logits.argmax(-1) == colours) & (shape_logits.argmax(-1) == shapes)
    held = colours < len(COLOURS)
    return right[held].float().mean().item(), right[~held].float().mean().item()
