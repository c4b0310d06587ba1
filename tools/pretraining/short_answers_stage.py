"""Stage 5: with the tower frozen, answer short questions about one picture and box its figures.

Statements about two images go on beside it, as in stage 3. Here too each step of the thought is taught by itself:

    block 2   a visual token knows where it stands and where its figure's edges are, in shares of the picture (linear probe);
              pointing: of the last token of a name, one head shares its attention among the cells that show such a figure
    block 3   the last token of a name knows whether there is one, and, of the only one, colour and shape; the last token
              before a yes or no knows whether there is one and whether the question denies it (linear probes)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from lab.data.scenes import CELL, SIDE, Kind
from lab.data.statements import article
from tools.pretraining.architecture import HIDDEN
from tools.pretraining.concept_stage import pointing_loss
from tools.pretraining.curriculum import TURN
from tools.pretraining.grounding_stage import rms
from tools.pretraining.lean_tower import features_of, to_patches
from tools.pretraining.pictures import COLOURS, SHAPES, SIZES, Picture, cells_of, compose_picture, draw_picture
from tools.pretraining.recipe import STREAM, Recipe, Round
from tools.pretraining.sequence_packing import Branch, Layout, Prefix, hidden_states, lay_out, make_prefix
from tools.pretraining.short_questions import Asked, ask, draw_kind, fits, in_order, kind_name

PLACING_BLOCK, KNOWING_BLOCK = 2, 3  # counted from 1
UNASKED = -100

Lessons = tuple[list[Picture], list[list[Branch]]]


class ShortProbes(nn.Module):
    """Linear read-outs of RMS-normed hidden states; thrown away at the end.

    places: x, y of a visual token and x0, y0, x1, y1 of its figure, in shares of the picture. whether: of the
    last token before a yes or no. The others: of names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Linear(HIDDEN, 6)
        self.whether = nn.Linear(HIDDEN, 2)
        self.present = nn.Linear(HIDDEN, 2)
        self.colour = nn.Linear(HIDDEN, len(COLOURS))
        self.shape = nn.Linear(HIDDEN, len(SHAPES))
        for linear in self.children():
            nn.init.zeros_(linear.weight)
            nn.init.zeros_(linear.bias)


def draw_short(recipe: Recipe, passing: Round, number: int) -> Lessons:
    """Draw one step's pictures of one size, what is named beside each and asked of each, from (seed, number) alone."""
    rng = np.random.default_rng([STREAM, recipe.seed, 8, number])
    size = SIZES[int(rng.integers(len(SIZES)))] if rng.random() < recipe.other_sizes else (SIDE, SIDE)
    pictures = [compose_picture(rng, size) for _ in range(recipe.short_pictures)]
    opening, boxes = number < passing.names_until, number >= passing.boxes_from
    names, questions = (3 * recipe.short_names, 0) if opening else (recipe.short_names, recipe.short_branches)
    rows = [
        [name_branch(rng, picture) for _ in range(names)] + [question_branch(rng, recipe, picture, boxes) for _ in range(questions)]
        for picture in pictures
    ]
    return pictures, rows


def name_branch(rng: np.random.Generator, picture: Picture) -> Branch:
    """Name a kind, there or not, with nothing to answer: ` a teal rectangle`."""
    kind = None
    while kind is None:
        kind = draw_kind(rng, picture, bool(rng.random() < 0.6))
    name = kind_name(rng, *kind)
    text = f" {article(name)}" if rng.random() < 0.6 else f" {name}s"
    return Branch(text, None, _named(text, name, Kind(*kind), picture))


def question_branch(rng: np.random.Generator, recipe: Recipe, picture: Picture, boxes: bool) -> Branch:
    """Ask one question of a picture."""
    return branch_of(ask(rng, picture, boxes), picture, recipe.boxes_weight)


def branch_of(asked: Asked, picture: Picture, boxes_weight: float) -> Branch:
    """A question with all that is taught of it. boxes_weight: of each token of an answer with boxes."""
    question, answer, named = asked
    weight = boxes_weight if "(" in answer else 1.0
    if named is None:
        return Branch(question + TURN, answer, (), weight)
    name, *kind = named
    names = _named(question, name, Kind(*kind), picture)
    present = any(fits(figure, *kind) for figure in picture.figures)
    whether = (present, present != (answer == "yes")) if answer in ("yes", "no") else None
    return Branch(question + TURN, answer, names, weight, whether, _boxes(picture, *kind) if "(" in answer else ())


def _boxes(picture: Picture, colour: str | None, shape: str | None) -> tuple[tuple[tuple[bool, ...], tuple[float, ...]], ...]:
    cells = cells_of(picture, grid_of(picture))
    return tuple(
        (tuple((cells == picture.figures.index(figure)).tolist()), tuple(side / 1000 for side in figure.thousandths(picture.size)))
        for figure in in_order(picture, colour, shape)
    )


def _named(text: str, name: str, kind: Kind, picture: Picture) -> tuple[tuple[int, Kind, tuple[bool, ...]], ...]:
    cells = cells_of(picture, grid_of(picture))
    held = [index for index, figure in enumerate(picture.figures) if fits(figure, kind.colour, kind.shape)]
    return ((text.index(name) + len(name) - 1, kind, tuple(np.isin(cells, held).tolist())),)


def grid_of(picture: Picture) -> tuple[int, int]:
    """Rows and columns of cells."""
    return round(picture.size[1] / CELL), round(picture.size[0] / CELL)


def short_loss(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    probes: ShortProbes,
    lessons: Lessons,
    names_weight: float,
    whether: bool,
) -> torch.Tensor:
    """Return the weighted cross-entropy of the answers' tokens, `<|im_end|>` included, plus what is taught by itself.

    A number's last of three digits says less than a pixel and weighs a fifth.
    """
    read = read_lessons(model, processor, lessons)
    places = places_loss(probes, read.prefix, read.hidden, read.pictures, read.grid)
    taught = taught_loss(model, probes, read, places, whether)
    if not (read.layout.labels != -100).any():
        return taught
    shares = torch.where(digit_places(processor, read.layout.labels) == 3, 0.2, 1.0)
    return answers_loss(model, read, shares) + names_weight * taught


@dataclass(frozen=True)
class Read:
    """Lessons as the model reads them. grid: rows and columns of cells; hidden: of `hidden_states`."""

    pictures: list[Picture]
    grid: tuple[int, int]
    prefix: Prefix
    layout: Layout
    hidden: tuple[torch.Tensor, ...]


def read_lessons(model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, lessons: Lessons) -> Read:
    """Draw the pictures, see them by the frozen tower, and run the language model."""
    pictures, rows = lessons
    prefix = make_prefix(model, processor, 1, pictures[0].size)
    layout = lay_out(processor, rows, 1)
    with torch.no_grad():
        patches, grid = to_patches(processor, [draw_picture(picture) for picture in pictures])
        features = features_of(model, patches, grid)
    return Read(pictures, grid, prefix, layout, hidden_states(model, prefix, layout, features))


def taught_loss(
    model: Qwen2VLForConditionalGeneration, probes: ShortProbes, read: Read, places: torch.Tensor, whether: bool
) -> torch.Tensor:
    """Return the sum of what is taught beside the answers. places: the loss of what visual tokens know of them."""
    taught = (
        places
        + pointing_loss(model, read.prefix, read.layout, read.hidden)
        + names_loss(probes, read.prefix, read.layout, read.hidden, read.pictures)
    )
    return taught + whether_loss(probes, read.prefix, read.layout, read.hidden) if whether else taught


def answers_loss(model: Qwen2VLForConditionalGeneration, read: Read, shares: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy of the answers' tokens, weighted by their branch and `shares` [B, T - P]."""
    layout = read.layout
    taken = layout.labels != -100
    answers = model.lm_head(read.hidden[-1][:, len(read.prefix.ids) :][taken])
    each = functional.cross_entropy(answers, layout.labels[taken], reduction="none")
    weights = (layout.weights * shares)[taken]
    return (each * weights).sum() / weights.sum()


def names_loss(
    probes: ShortProbes, prefix: Prefix, layout: Layout, hidden: tuple[torch.Tensor, ...], pictures: list[Picture]
) -> torch.Tensor:
    """Return the sum of the mean cross-entropies of what the last token of a name knows."""
    row, position = layout.named_at.T
    named = hidden[KNOWING_BLOCK][row, position + len(prefix.ids)]
    named = named / rms(named)
    targets = torch.tensor([_known(pictures[index], kind) for index, kind in zip(row.tolist(), layout.kinds, strict=True)])
    read = (probes.present(named), probes.colour(named), probes.shape(named))
    losses = [
        functional.cross_entropy(logits, target, ignore_index=UNASKED) for logits, target in zip(read, targets.T, strict=True)
    ]
    return torch.stack(losses).sum()


def whether_loss(probes: ShortProbes, prefix: Prefix, layout: Layout, hidden: tuple[torch.Tensor, ...]) -> torch.Tensor:
    """Return the sum of the mean cross-entropies of what the last token before a yes or no knows; 0 where none is asked."""
    if not len(layout.whether):
        return torch.zeros(())
    row, position = layout.whether_at.T
    asked = hidden[KNOWING_BLOCK][row, position + len(prefix.ids)]
    return 2 * functional.binary_cross_entropy_with_logits(probes.whether(asked / rms(asked)), layout.whether.float())


def _known(picture: Picture, kind: Kind) -> tuple[int, int, int]:
    held = [figure for figure in picture.figures if fits(figure, kind.colour, kind.shape)]
    if len(held) != 1:
        return int(bool(held)), UNASKED, UNASKED
    return 1, COLOURS.index(held[0].colour), SHAPES.index(held[0].shape)


def digit_places(processor: Qwen2VLProcessor, labels: torch.Tensor) -> torch.Tensor:
    """Which digit of a number a label is, 1 to 3, or 0 for no digit: int64 [B, T - P]."""
    digits = torch.isin(labels, torch.tensor(processor.tokenizer.convert_tokens_to_ids(list("0123456789")))).long()
    places = digits.clone()
    for _ in range(2):
        places[:, 1:] = digits[:, 1:] * (1 + places[:, :-1])
    return places


def places_loss(
    probes: ShortProbes, prefix: Prefix, hidden: tuple[torch.Tensor, ...], pictures: list[Picture], grid: tuple[int, int]
) -> torch.Tensor:
    """Return the mean squared errors of what the probe reads, in thirds of a picture."""
    visual = hidden[PLACING_BLOCK][:, : len(prefix.ids)][:, prefix.image_at]
    read = probes.places(visual / rms(visual))
    rows, columns = grid
    x, y = np.meshgrid((np.arange(columns) + 0.5) / columns, (np.arange(rows) + 0.5) / rows)
    centres = torch.tensor(np.stack([x.ravel(), y.ravel()], axis=1), dtype=torch.float32)
    boxes = torch.full((*read.shape[:2], 4), torch.nan)
    for index, picture in enumerate(pictures):
        cells = torch.from_numpy(cells_of(picture, grid))
        for number, figure in enumerate(picture.figures):
            boxes[index, cells == number] = torch.tensor(figure.thousandths(picture.size)) / 1000
    held = ~boxes[..., 0].isnan()
    return 9 * ((read[..., :2] - centres).pow(2).mean() + (read[held][:, 2:] - boxes[held]).pow(2).mean())
