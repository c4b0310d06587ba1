"""Stage 6: box figures in pictures of many sizes, with short answers and statements going on beside it.

The width's positions turn by no more than .003 radians a token (`mrope_section`, `rope_theta`), too little for any attention that
training grows, so after stage 5 the language model knows a visual token's row and not its column. `see_columns` gives one head of
block 2 the bias that shows it. Then each step of the thought is taught by itself:

    block 2   a visual token knows its place and its figure's edges (as in stage 5)
    block 3   of `<|box_start|>`, one head points at the cells that show the figure, and it knows the four edges
    block 4   of the tokens before digits, one head points back at that `<|box_start|>`, and they know the number

Places, edges and numbers are read off fixed directions (`Places`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from lab.data.scenes import CELL
from tools.pretraining.architecture import HIDDEN
from tools.pretraining.concept_stage import attention_logits
from tools.pretraining.grounding_stage import rms
from tools.pretraining.pictures import cells_of, compose_picture
from tools.pretraining.recipe import STREAM, BoxRound, Recipe
from tools.pretraining.sequence_packing import make_prefix
from tools.pretraining.short_answers_stage import (
    PLACING_BLOCK,
    Lessons,
    Read,
    ShortProbes,
    answers_loss,
    branch_of,
    digit_places,
    name_branch,
    question_branch,
    read_lessons,
    taught_loss,
)
from tools.pretraining.short_questions import ask_where

COLUMN_BLOCK, COLUMN_HEAD = 2, 3  # a head without which statements and short answers are as right as with it
FINDING_BLOCK, FINDING_HEAD, WRITING_BLOCK, WRITING_HEAD = 3, 2, 4, 1
SIZES = (*((64, 64),) * 4, *((128, 128),) * 4, *((96, 96),) * 2, (128, 96), (96, 128))
LARGEST = 128  # pixels
NUMBERS = (1, 1, 1, 2, 2, 3)
DIGIT_WEIGHTS = (1.0, 3.0, 1.5, 0.3)  # of no digit, and of the first to third of a number


class Places(nn.Module):
    """Reads numbers off fixed directions of RMS-normed hidden states, the same in every block: nothing here learns.

    A visual token's x and y, and x0, y0, x1, y1 of its figure, in 128 pixels: the picture's size is known after it alone, and so are
    shares of it. Then the number that digits write, in thousandths.
    """

    directions: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        drawn = torch.randn(HIDDEN, 7, generator=torch.Generator().manual_seed(STREAM))
        self.register_buffer("directions", torch.linalg.qr(drawn).Q)

    def forward(self, normed: torch.Tensor, which: slice = slice(0, 6)) -> torch.Tensor:
        return 0.5 + 0.25 * normed @ self.directions[:, which]


def draw_boxes(recipe: Recipe, passing: BoxRound, number: int) -> Lessons:
    """Draw one step's pictures of one size, what is named, asked and boxed of each, from (seed, number) alone."""
    rng = np.random.default_rng([STREAM, recipe.seed, 9, number])
    size = SIZES[int(rng.integers(len(SIZES)))]
    pictures = [compose_picture(rng, size, NUMBERS, recipe.boxes_alike) for _ in range(recipe.boxes_pictures)]
    rows = []
    for picture in pictures:
        row = [name_branch(rng, picture) for _ in range(passing.names)]
        row += [question_branch(rng, recipe, picture, False) for _ in range(recipe.boxes_questions)]
        while len(row) < passing.names + recipe.boxes_questions + recipe.boxes_asked:
            if asked := ask_where(rng, picture, recipe.boxes_every):
                row.append(branch_of(asked, picture, passing.weight))
        rows.append(row)
    return pictures, rows


@dataclass(frozen=True)
class Numbers:
    """Where boxes are written. starts: int64 [N, 2], row and position of every `<|box_start|>`.

    at: int64 [M, 2], row and position of the token before every digit; box: int64 [M], which box it is of; values: float32 [M],
    the number in shares of the picture.
    """

    starts: torch.Tensor
    at: torch.Tensor
    box: torch.Tensor
    values: torch.Tensor


def numbers_of(processor: Qwen2VLProcessor, read: Read) -> Numbers:
    """Find them in the labels."""
    labels = read.layout.labels
    places = digit_places(processor, labels)
    starts = (labels == processor.tokenizer.convert_tokens_to_ids("<|box_start|>")).nonzero() + torch.tensor([0, 1])
    at = (places > 0).nonzero()
    number = (places == 1).flatten().cumsum(0).reshape(places.shape)[places > 0] - 1
    return Numbers(starts, at, number // 4, read.layout.boxes.flatten()[number])


def boxes_loss(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    probes: ShortProbes,
    lessons: Lessons,
    recipe: Recipe,
) -> torch.Tensor:
    """Return the weighted cross-entropy of the answers' tokens plus what is taught by itself."""
    read = read_lessons(model, processor, lessons)
    shares = torch.tensor(DIGIT_WEIGHTS)[digit_places(processor, read.layout.labels)]
    places, numbers = Places(), numbers_of(processor, read)
    taught = taught_loss(model, probes, read, seeing_loss(places, read), whether=True)
    steps = finding_loss(model, places, read, numbers) + writing_loss(model, places, read, numbers)
    return answers_loss(model, read, shares) + recipe.names_weight * taught + recipe.edges_weight * steps


def seeing_loss(places: Places, read: Read) -> torch.Tensor:
    """Return the error of what visual tokens know of their place and their figure's edges, in tenths of 128 pixels."""
    visual = read.hidden[PLACING_BLOCK][:, : len(read.prefix.ids)][:, read.prefix.image_at]
    known = places(visual / rms(visual))
    rows, columns = read.grid
    x, y = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
    centres = torch.tensor(np.stack([x.ravel(), y.ravel()], axis=1) * CELL / LARGEST, dtype=torch.float32)
    edges = torch.full((*known.shape[:2], 4), torch.nan)
    for index, picture in enumerate(read.pictures):
        cells = torch.from_numpy(cells_of(picture, read.grid))
        for number, figure in enumerate(picture.figures):
            edges[index, cells == number] = torch.tensor(figure.box) / LARGEST
    held = ~edges[..., 0].isnan()
    return 10 * ((known[..., :2] - centres).abs().mean() + (known[held][:, 2:] - edges[held]).abs().mean())


def finding_loss(model: Qwen2VLForConditionalGeneration, places: Places, read: Read, numbers: Numbers) -> torch.Tensor:
    """Return the cross-entropy of where `<|box_start|>` points and the error of the edges that it knows, in tenths of 128 pixels."""
    logits = attention_logits(model, read.prefix, read.layout, read.hidden, numbers.starts, FINDING_BLOCK, (FINDING_HEAD,))[:, 0]
    wanted = torch.zeros_like(logits)
    wanted[:, read.prefix.image_at.nonzero().flatten()] = read.layout.boxed_by.float()
    wanted = wanted / wanted.sum(-1, keepdim=True).clamp(min=1)
    pixels = torch.tensor(read.pictures[0].size * 2) / LARGEST
    known = places(_at(read, FINDING_BLOCK, numbers.starts), slice(2, 6))
    return -(wanted * logits.log_softmax(-1)).sum(-1).mean() + 10 * (known - read.layout.boxes * pixels).abs().mean()


def writing_loss(model: Qwen2VLForConditionalGeneration, places: Places, read: Read, numbers: Numbers) -> torch.Tensor:
    """Return the cross-entropy of where tokens before digits point and the error of the number that they know, in tenths."""
    logits = attention_logits(model, read.prefix, read.layout, read.hidden, numbers.at, WRITING_BLOCK, (WRITING_HEAD,))[:, 0]
    start = numbers.starts[numbers.box, 1] + len(read.prefix.ids)
    known = places(_at(read, WRITING_BLOCK, numbers.at), slice(6, 7))[:, 0]
    return functional.cross_entropy(logits, start) + 10 * (known - numbers.values).abs().mean()


def _at(read: Read, block: int, at: torch.Tensor) -> torch.Tensor:
    row, position = at.T
    hidden = read.hidden[block][row, position + len(read.prefix.ids)]
    return hidden / rms(hidden)


@torch.no_grad()
def see_columns(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    slope: float = 0.7,
    middle: float = 4.0,
    height: float = 9.0,
    share: float = 1.0,
) -> None:
    """Let one head's attention to `<|vision_start|>`, against the first token, tell the column of a visual token.

    The logits of those two keys rise by `height` over all others and differ by slope * (d - middle) at d columns' distance.
    Two rotary pairs of their own carry it: the width's fastest for the slope and its slowest, which hardly turns, for the height.
    What is added differs between the two keys by the direction in which `Places` reads x, 2 * `share` as long as what it is added to.
    """
    text = model.model.language_model
    layer = text.layers[COLUMN_BLOCK - 1]
    attention, size = layer.self_attn, layer.self_attn.head_dim
    group = COLUMN_HEAD // attention.num_key_value_groups
    first, start, norm = _keys(model, processor)
    fast = sum(text.config.rope_parameters["mrope_section"][:2])
    pairs = [fast, size // 2 - 1, fast + size // 2, size - 1]
    for linear, heads in (
        (attention.k_proj, [group]),
        (attention.q_proj, range(group * attention.num_key_value_groups, (group + 1) * attention.num_key_value_groups)),
    ):
        for head in heads:
            rows = [head * size + pair for pair in pairs]
            linear.weight[rows], linear.bias[rows] = 0.0, 0.0
    query, key = slice(COLUMN_HEAD * size, (COLUMN_HEAD + 1) * size), group * size
    turn = text.rotary_emb.inv_freq[fast]
    strength, level = (slope / turn / attention.scaling).sqrt(), (height / attention.scaling) ** 0.5
    attention.q_proj.weight[query], attention.q_proj.bias[query] = 0.0, 0.0
    bias = attention.q_proj.bias[query]
    bias[fast], bias[fast + size // 2], bias[size // 2 - 1] = -strength * turn * middle, -strength, level
    attention.k_proj.weight[key + fast] = strength * start
    attention.k_proj.weight[key + size // 2 - 1] = level * (first + start)
    value = size - 1  # the dimension of the head's values that says which of the two is looked at
    attention.v_proj.weight[key + value], attention.v_proj.bias[key + value] = start - first, -1.0  # nothing is added to later text
    for head in range(group * attention.num_key_value_groups, (group + 1) * attention.num_key_value_groups):
        attention.o_proj.weight[:, head * size + value] = 0.0
    attention.o_proj.weight[:, COLUMN_HEAD * size + value] = share * norm * Places().directions[:, 0]


def _keys(model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor) -> tuple[torch.Tensor, ...]:
    """What block 2 reads at the first token and at `<|vision_start|>`, as dual vectors [hidden]: 1 on itself, 0 on the other.

    And the mean norm of what it adds to.
    """
    text = model.model.language_model
    prefix = make_prefix(model, processor, 1)
    last = int(prefix.image_at.nonzero()[0]) - 1
    hidden = text(
        inputs_embeds=model.get_input_embeddings()(prefix.ids[None, : last + 1]),
        position_ids=prefix.positions[:, None, : last + 1],
        use_cache=False,
        output_hidden_states=True,
    ).hidden_states[COLUMN_BLOCK - 1]
    first, start = torch.linalg.pinv(text.layers[COLUMN_BLOCK - 1].input_layernorm(hidden)[0][[0, last]].T)
    return first, start, hidden[0].norm(dim=-1).mean()
