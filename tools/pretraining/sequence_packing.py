"""Many single-turn conversations over the same two images in one forward pass.

A row is the shared prefix (system prompt, two images) and then K branches. Every branch sees the prefix and
itself, and takes the positions it would have alone, so each is exactly the single-turn conversation that
inference sees, at about 40 % of the cost. Branch k has the same length in all rows (padded on its right), so
mask and positions are shared by the batch.

Shapes: B rows, P prefix tokens, T = P + all branches.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from lab.data.scenes import COLOURS, NUM_CELLS, SHAPES, SIDE, Kind

MESSAGES = [
    {
        "role": "user",
        "content": [
            {"type": "image"},
            {"type": "text", "text": "\n"},
            {"type": "image"},
            {"type": "text", "text": "\n"},
        ],
    }
]


@dataclass(frozen=True)
class Prefix:
    """The tokens before the question. ids [P]; positions [3, P]; image_at: bool [P], 32 of them true."""

    ids: torch.Tensor
    positions: torch.Tensor
    image_at: torch.Tensor


def make_prefix(model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor) -> Prefix:
    """Render the prefix through the checkpoint's own chat template and processor."""
    text = processor.apply_chat_template(MESSAGES, tokenize=False)
    text = text[: text.rindex("<|im_end|>")]
    blank = Image.new("RGB", (SIDE, SIDE))
    inputs = processor(text=[text], images=[blank, blank], return_tensors="pt")
    positions, _ = model.model.get_rope_index(
        inputs["input_ids"],
        mm_token_type_ids=inputs["mm_token_type_ids"],
        image_grid_thw=inputs["image_grid_thw"],
        attention_mask=inputs["attention_mask"],
    )
    ids = inputs["input_ids"][0]
    return Prefix(ids, positions[:, 0], ids == model.config.image_token_id)


@dataclass(frozen=True)
class Branch:
    """One question, its answer (None: nothing to answer), and where the question names a kind of thing.

    names: (index of the name's last letter in the question, the kind, which of the 32 cells hold such a thing).
    """

    question: str
    answer: str | None
    names: tuple[tuple[int, Kind, tuple[bool, ...]], ...] = ()


@dataclass(frozen=True)
class Layout:
    """All branches as tokens, side by side.

    ids, labels: int64 [B, T - P]; labels[i] is what position i has to predict, or -100.
    named_at: int64 [M, 2], row and position of the last token of every name.
    kinds: int64 [M, 2], its colour (6: any) and shape (5: any).
    held_by: bool [M, 2, 16], which cells of the left and the right image hold such a thing.
    lengths: of each branch.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    named_at: torch.Tensor
    kinds: torch.Tensor
    held_by: torch.Tensor
    lengths: tuple[int, ...]


def lay_out(processor: Qwen2VLProcessor, rows: list[list[Branch]]) -> Layout:
    """Tokenise rows of branches and set them side by side.

    Short branches come first in every row, so that the branches of one column are nearly equally long.
    """
    tails = [_tokenise(processor, row) for row in rows]
    lengths = tuple(max(len(tail.ids) for tail in column) for column in zip(*tails, strict=True))
    ids, labels, named_at, names = [], [], [], []
    for number, row in enumerate(tails):
        row_ids: list[int] = []
        row_labels: list[int] = []
        for tail, length in zip(row, lengths, strict=True):
            spare = length - len(tail.ids)
            named_at += [(number, len(row_ids) + token) for token, *_ in tail.names]
            names += tail.names
            row_ids += tail.ids + [processor.tokenizer.pad_token_id] * spare
            row_labels += tail.labels + [-100] * spare
        ids.append(row_ids)
        labels.append(row_labels)
    return Layout(
        ids=torch.tensor(ids),
        labels=torch.tensor(labels),
        named_at=torch.tensor(named_at).reshape(-1, 2),
        kinds=torch.tensor([_indices(kind) for _, kind, _ in names]).reshape(-1, 2),
        held_by=torch.tensor([cells for *_, cells in names], dtype=torch.bool).reshape(-1, 2, NUM_CELLS),
        lengths=lengths,
    )


def _indices(kind: Kind) -> tuple[int, int]:
    colour = COLOURS.index(kind.colour) if kind.colour else len(COLOURS)
    return colour, SHAPES.index(kind.shape) if kind.shape else len(SHAPES)


@dataclass(frozen=True)
class _Tail:
    ids: list[int]
    labels: list[int]
    names: list[tuple[int, Kind, tuple[bool, ...]]]


def _tokenise(processor: Qwen2VLProcessor, row: list[Branch]) -> list[_Tail]:
    """Tokenise one row's branches, shortest first."""
    questions = processor.tokenizer([branch.question for branch in row])
    answers = processor.tokenizer([f"{branch.answer or ''}<|im_end|>" for branch in row])["input_ids"]
    tails = []
    for index, branch in enumerate(row):
        question = questions["input_ids"][index]
        answer = [] if branch.answer is None else answers[index]
        names = [(questions.char_to_token(index, letter), *rest) for letter, *rest in branch.names]
        ids = question + answer
        labels = [-100] * (len(question) - 1) + answer + [-100]
        tails.append(_Tail(ids, labels, names))
    return sorted(tails, key=lambda tail: len(tail.ids))


def positions(prefix: Prefix, layout: Layout) -> torch.Tensor:
    """Return int64 [3, T]: every branch starts where the prefix ends."""
    start = int(prefix.positions.max()) + 1
    steps = torch.cat([torch.arange(start, start + length) for length in layout.lengths])
    return torch.cat([prefix.positions, steps.expand(3, -1)], dim=1)


def visible(prefix: Prefix, layout: Layout) -> torch.Tensor:
    """Return bool [T, T]: who (row) may look at whom (column): the prefix and, causally, its own branch."""
    size = len(prefix.ids)
    owner = torch.cat(
        [torch.full((size,), -1)] + [torch.full((length,), k) for k, length in enumerate(layout.lengths)]
    )
    allowed = (owner[:, None] == owner[None]) | (owner[None] == -1)
    return allowed & torch.ones_like(allowed).tril()


def hidden_states(
    model: Qwen2VLForConditionalGeneration, prefix: Prefix, layout: Layout, features: torch.Tensor
) -> tuple[torch.Tensor, ...]:
    """Run the language model; features [B, 32, hidden] of both images.

    Returns what goes into the first block and what comes out of every block, the last one normed: [B, T, hidden].
    """
    rows = len(layout.ids)
    ids = torch.cat([prefix.ids.expand(rows, -1), layout.ids], dim=1)
    embeds = model.get_input_embeddings()(ids)
    embeds[:, : len(prefix.ids)][:, prefix.image_at] = features
    output = model.model.language_model(
        inputs_embeds=embeds,
        position_ids=positions(prefix, layout)[:, None].expand(3, rows, -1),
        attention_mask=visible(prefix, layout).expand(rows, 1, -1, -1),
        use_cache=False,
        output_hidden_states=True,
    )
    return output.hidden_states
