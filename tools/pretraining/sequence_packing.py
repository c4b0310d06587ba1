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

from lab.data.scenes import SIDE, Kind

IMAGE = [{"type": "image"}, {"type": "text", "text": "\n"}]
MESSAGES = [{"role": "user", "content": IMAGE * 2}]  # before a statement about two images


@dataclass(frozen=True)
class Prefix:
    """The tokens before the question. ids [P]; positions [3, P]; image_at: bool [P], true at every visual token."""

    ids: torch.Tensor
    positions: torch.Tensor
    image_at: torch.Tensor


def make_prefix(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    images: int = 2,
    size: tuple[int, int] = (SIDE, SIDE),
) -> Prefix:
    """Render the prefix of images of one size through the checkpoint's own chat template and processor."""
    text = processor.apply_chat_template([{"role": "user", "content": IMAGE * images}], tokenize=False)
    text = text[: text.rindex("<|im_end|>")]
    inputs = processor(text=[text], images=[Image.new("RGB", size)] * images, return_tensors="pt")
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

    names: (index of the name's last letter in the question, the kind, which cells of all images hold such a thing).
    weight: of each of its answer's tokens in the loss of stage 5.
    whether: of a question with yes or no: is there such a thing, and is that denied.
    boxes: of each box in the answer: which cells of the image show its figure; x0, y0, x1, y1 in shares of the image.
    """

    question: str
    answer: str | None
    names: tuple[tuple[int, Kind, tuple[bool, ...]], ...] = ()
    weight: float = 1.0
    whether: tuple[bool, bool] | None = None
    boxes: tuple[tuple[tuple[bool, ...], tuple[float, ...]], ...] = ()


@dataclass(frozen=True)
class Layout:
    """All branches as tokens, side by side.

    ids, labels: int64 [B, T - P]; labels[i] is what position i has to predict, or -100. weights: float32, alike.
    named_at: int64 [M, 2], row and position of the last token of every name.
    kinds: M, what each names. held_by: bool [M, images, cells], which cells of each image hold such a thing.
    whether_at: int64 [W, 2], row and position of the last token before every answer of yes or no; whether: int64 [W, 2].
    boxed_by: bool [N, cells], boxes: float32 [N, 4], of the boxes of all answers in the order of their tokens, row after row.
    lengths: of each branch.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor
    named_at: torch.Tensor
    kinds: tuple[Kind, ...]
    held_by: torch.Tensor
    whether_at: torch.Tensor
    whether: torch.Tensor
    boxed_by: torch.Tensor
    boxes: torch.Tensor
    lengths: tuple[int, ...]


def lay_out(processor: Qwen2VLProcessor, rows: list[list[Branch]], images: int = 2) -> Layout:
    """Tokenise rows of branches and set them side by side.

    Short branches come first in every row, so that the branches of one column are nearly equally long.
    """
    tails = [_tokenise(processor, row) for row in rows]
    lengths = tuple(max(len(tail.ids) for tail in column) for column in zip(*tails, strict=True))
    ids, labels, weights, named_at, names, whether_at, whether, boxes = [], [], [], [], [], [], [], []
    for number, row in enumerate(tails):
        row_ids: list[int] = []
        row_labels: list[int] = []
        row_weights: list[float] = []
        for tail, length in zip(row, lengths, strict=True):
            spare = length - len(tail.ids)
            named_at += [(number, len(row_ids) + token) for token, *_ in tail.names]
            names += tail.names
            boxes += tail.boxes
            if tail.whether is not None:
                whether_at.append((number, len(row_ids) + tail.asked))
                whether.append(tail.whether)
            row_ids += tail.ids + [processor.tokenizer.pad_token_id] * spare
            row_labels += tail.labels + [-100] * spare
            row_weights += [tail.weight] * length
        ids.append(row_ids)
        labels.append(row_labels)
        weights.append(row_weights)
    return Layout(
        ids=torch.tensor(ids),
        labels=torch.tensor(labels),
        weights=torch.tensor(weights),
        named_at=torch.tensor(named_at).reshape(-1, 2),
        kinds=tuple(kind for _, kind, _ in names),
        held_by=torch.tensor([cells for *_, cells in names], dtype=torch.bool).unflatten(-1, (images, -1)),
        whether_at=torch.tensor(whether_at, dtype=torch.int64).reshape(-1, 2),
        whether=torch.tensor(whether, dtype=torch.int64).reshape(-1, 2),
        boxed_by=torch.tensor([cells for cells, _ in boxes], dtype=torch.bool),
        boxes=torch.tensor([sides for _, sides in boxes], dtype=torch.float32).reshape(-1, 4),
        lengths=lengths,
    )


@dataclass(frozen=True)
class _Tail:
    ids: list[int]
    labels: list[int]
    names: list[tuple[int, Kind, tuple[bool, ...]]]
    weight: float
    whether: tuple[bool, bool] | None
    asked: int
    boxes: tuple[tuple[tuple[bool, ...], tuple[float, ...]], ...]


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
        tails.append(_Tail(ids, labels, names, branch.weight, branch.whether, len(question) - 1, branch.boxes))
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
    """Run the language model; features [B, visual tokens, hidden] of all images.

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
