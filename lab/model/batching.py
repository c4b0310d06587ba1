"""`Example -> Batch`: padding, labels, positions, and what the examples of a batch share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from lab.model import turns
from lab.model.labels import IGNORED
from lab.records import Batch, Media, Rows, Target, Tokens, on_tensors

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lab.model.encoded import Example
    from lab.model.encoding import Encoder

Forward = TypeVar("Forward", bound=Batch | Rows)

ALIGN = 16
"""Tokens; float32 lanes of the widest CPU vector. A sum over the keys is taken in vector lanes, so shifting a prompt by other than
a multiple of it regroups the sum and moves the last bits; prompts so aligned give one score in every batch."""
ROWS = 16
"""Positions of each sequence that go through the head where one is read: a product with few rows takes another kernel than one with
many, and scores must not depend on the batch. At most 3 % of the forward pass of Qwen2-VL-2B at 16 tokens an image."""


def collate(
    encoder: Encoder, examples: Sequence[Example], with_answers: bool, padding_side: str, align: int, learned: bool = False
) -> Batch:
    """Pad and stack. With answers, they are the labels and, where they stand inline, end every row; else rows end with the prompt.

    learned: with answers, what is learned of prompts is labelled too.
    padding_side: left or right; with answers inline left. align: without answers, every prompt ends at a multiple of so many tokens
    (`ALIGN`), unless it begins at position 0 in every batch, as it does where only the right may be padded.
    """
    rows, kinds, answers = rows_of(encoder, examples, with_answers)
    targets = [labels_of(encoder, one) for one in examples] if learned else answers
    align = 1 if with_answers or encoder.architecture.padding_side == "right" else align
    prompt = prompt_of(encoder, examples, rows, kinds, padding_side, align)
    length, most = prompt.ids.shape[1], max(map(len, targets))
    computed = most + 1 if with_answers else min(ROWS, length) if padding_side == "left" else length
    computed = computed if encoder.inline else max(1, most)
    together = with_answers and encoder.inline
    return Batch(
        sample_ids=tuple(example.sample_id for example in examples),
        prompt=prompt,
        media=media_of(encoder, examples),
        target=Target(
            ending_together(targets, IGNORED)[0] if with_answers else None, computed,
            sum(one.text.targets for one in examples) if learned else sum(map(len, answers)),
            shares=shares_of(encoder, examples) if with_answers else None,
        ),
        media_order=tuple(example.text.image_order for example in examples),
        shared=max(0, min(opening(examples, encoder.media_ids), *(len(row) - computed for row in rows))) if together else 0,
        answer=None if encoder.starts is None else begun(encoder.starts, answers, encoder.pad_id),
    )


def pack(encoder: Encoder, examples: Sequence[Example]) -> Batch:
    """All samples one after another in one row, none split and none left out, with what is learned of each and positions of its own.

    The seam is in no label: the token before a sample's first predicts nothing.
    """
    import torch

    each = [collate(encoder, [example], True, encoder.architecture.padding_side, 1, learned=True) for example in examples]
    lengths = tuple(batch.prompt.ids.shape[1] for batch in each)
    ends = itertools.accumulate(lengths)
    labels = torch.cat([batch.target.labels for batch in each if batch.target.labels is not None], dim=1)
    places = torch.cat([torch.arange(end - batch.target.rows, end - 1) for end, batch in zip(ends, each, strict=True)])
    counted = labels[0] != IGNORED
    ids, positions, types = (torch.cat([getattr(batch.prompt, name) for batch in each], dim=-1) for name in ("ids", "positions", "types"))
    return Batch(
        sample_ids=tuple(example.sample_id for example in examples),
        prompt=Tokens(ids, None, positions, types, lengths),
        media=media_of(encoder, examples),
        target=Target(labels[:, counted], int(counted.sum()), int(counted.sum()), places[counted]),
        media_order=tuple(example.text.image_order for example in examples),
    )


def prompt_of(
    encoder: Encoder, examples: Sequence[Example], rows: Sequence[np.ndarray], kinds: Sequence[np.ndarray], padding_side: str, align: int
) -> Tokens:
    """Rows of `rows_of`, padded, with their positions."""
    import torch

    ids, attention, types = padded(rows, kinds, encoder.pad_id, padding_side, align)
    grids = [grid for example in examples for grid in example.grids]
    grid_thw = torch.tensor(grids, dtype=torch.int64).reshape(-1, 3) if grids else None
    return Tokens(ids, attention, positions(encoder, examples, ids, types, attention, grid_thw, steps_of(examples)), types)


def media_of(encoder: Encoder, examples: Sequence[Example]) -> Media:
    """The images of all examples."""
    grids = [grid for example in examples for grid in example.grids]
    pixels = [each for example in examples for each in example.pixels]
    counts = tuple(len(example.grids) for example in examples)
    second = encoder.architecture.stack_second([example.text.second_ids for example in examples], counts)
    return Media(
        counts=counts,
        grids=tuple(encoder.merged(grid) for grid in grids),
        tokens=tuple(encoder.tokens(grid) for grid in grids),
        pixels=encoder.architecture.stack(pixels, grids) | second if pixels else None,
        features=tuple(feature for example in examples for feature in example.features) or None,
        clips=tuple(step > 0 for step in steps_of(examples)),
    )


def rows_of(
    encoder: Encoder, examples: Sequence[Example], with_answers: bool
) -> tuple[list[np.ndarray], list[np.ndarray], list[np.ndarray]]:
    """What the language model reads of each example, which of its prompt's tokens stand for images, and its answer, empty without answers."""
    import numpy as np

    rows, kinds, answers = [], [], []
    for example in examples:
        ids = expand(example.text.prompt_ids, encoder.media_ids, costs(encoder, example))
        kinds.append(is_one_of(ids, encoder.media_ids[:1]).astype(np.int64) + 2 * is_one_of(ids, encoder.media_ids[1:]))
        answers.append(example.text.answer_ids if with_answers else ids[:0])
        rows.append(np.concatenate([ids, answers[-1]]) if encoder.inline else ids)
    return rows, kinds, answers


def costs(encoder: Encoder, example: Example) -> list[int]:
    """How many tokens stand in a prompt for each placeholder: of an image, or of a run of a clip."""
    found = []
    for grid, step in zip(example.grids if encoder.architecture.in_prompt else (), steps_of([example]) or itertools.repeat(0.0), strict=False):
        clips = encoder.architecture.clips if step else None
        runs = encoder.architecture.tiles(grid) if clips is None else clips.runs(grid)
        found += [encoder.tokens(grid) // runs if encoder.prefix else 0] * runs
    return found


def steps_of(examples: Sequence[Example]) -> tuple[float, ...]:
    """`TokenizedPrompt.steps` of all images; () where none is a clip."""
    if not any(example.text.steps for example in examples):
        return ()
    return tuple(step for example in examples for step in example.text.steps or (0.0,) * len(example.grids))


def labels_of(encoder: Encoder, example: Example) -> np.ndarray:
    """What is learned of an example, int64: from its first learned token to its last, `IGNORED` between turns."""
    import numpy as np

    text = example.text
    if not text.learned:
        return text.answer_ids
    labels = turns.labels(text.prompt_ids, text.learned, int(text.answer_ids[-1]), IGNORED)
    labels = np.repeat(labels, repeats(text.prompt_ids, encoder.media_ids, costs(encoder, example)))
    return np.concatenate([labels[int((labels != IGNORED).argmax()) :], text.answer_ids])


def shares_of(encoder: Encoder, examples: Sequence[Example]) -> torch.Tensor | None:
    """`Target.shares`: of an answer without votes 1 for its label, if it has one; None where nobody voted."""
    import torch

    if encoder.labels is None or not any(one.text.shares for one in examples):
        return None
    shares = torch.zeros(len(examples), len(encoder.labels.names))
    for row, one in zip(shares, examples, strict=True):
        for place, share in one.text.shares or [(int(label), 1.0) for label in one.text.answer_ids if label != IGNORED]:
            row[place] = share
    return shares


def padded(
    rows: Sequence[np.ndarray], kinds: Sequence[np.ndarray], pad_id: int, padding_side: str, align: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, mask and types [B, T] of rows of which each ends at a multiple of `align`. kinds: types of the first tokens of each."""
    import numpy as np
    import torch

    ends = [-(-len(row) // align) * align for row in rows]
    length = max(ends)
    ids = np.full((len(rows), length), pad_id, dtype=np.int64)
    mask, types = np.zeros_like(ids), np.zeros_like(ids)
    for b, (row, kind) in enumerate(zip(rows, kinds, strict=True)):
        start = (length if padding_side == "left" else ends[b]) - len(row)
        ids[b, start : start + len(row)] = row
        mask[b, start : start + len(row)] = 1
        types[b, start : start + len(kind)] = kind
    return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(types)


def ending_together(rows: Sequence[Sequence[int] | np.ndarray], filler: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows behind a filler, int64 [B, most], and which are not filled, int64."""
    import numpy as np
    import torch

    most = max(map(len, rows))
    values = np.full((len(rows), most), filler, dtype=np.int64)
    mask = np.zeros_like(values)
    for to, real, row in zip(values, mask, rows, strict=True):
        to[most - len(row) :], real[most - len(row) :] = row, 1
    return torch.from_numpy(values), torch.from_numpy(mask)


def begun(start: int, answers: Sequence[np.ndarray], pad_id: int) -> Tokens:
    """What a decoder reads before each token of its answer, [B, most]: its start and all tokens but the last; the start alone of none."""
    import torch

    ids, mask = ending_together([[start, *answer[:-1].tolist()] for answer in answers], pad_id)
    return Tokens(ids, mask, (mask.cumsum(dim=1) - 1).clamp(min=0), torch.zeros_like(ids))


def positions(
    encoder: Encoder,
    examples: Sequence[Example],
    ids: torch.Tensor,
    types: torch.Tensor,
    attention: torch.Tensor,
    grid_thw: torch.Tensor | None,
    steps: Sequence[float],
) -> torch.Tensor:
    """Positions by the checkpoint's own rule: M-RoPE int64 [3, B, T], or int64 [B, T].

    Where images are reduced, the rule is applied to the unreduced row: text keeps the position it has there, so the text
    after an image stands at start + max(h, w) of the original grid, and every image token gets its image's start,
    to which `Vlm.condition` adds the place it stands for.
    """
    import numpy as np
    import torch

    if not encoder.prefix:
        return encoder.rule(ids, types, None, attention)
    if encoder.reducer is None or grid_thw is None or encoder.architecture.position_axes == 1:
        return encoder.rule(ids, types, grid_thw, attention, steps)
    placed = torch.zeros((3, *ids.shape), dtype=torch.int64)
    for b, example in enumerate(examples):
        prompt = example.text.prompt_ids
        native, kept = np.ones(len(prompt), dtype=np.int64), np.ones(len(prompt), dtype=np.int64)
        native[prompt == encoder.image_id] = [math.prod(encoder.merged(grid)) for grid in example.grids]
        kept[prompt == encoder.image_id] = [encoder.tokens(grid) for grid in example.grids]
        whole = torch.from_numpy(np.repeat(prompt, native))[None]
        grids = torch.tensor(example.grids, dtype=torch.int64).reshape(-1, 3)
        rope = encoder.rule(whole, (whole == encoder.image_id).long(), grids if len(grids) else None, None)
        index = torch.from_numpy(np.repeat(np.cumsum(native) - native, kept))
        start = int(attention[b].argmax())
        end, stop = start + len(index), start + int(attention[b].sum())
        placed[:, b, start:end] = rope[:, 0, index]
        placed[:, b, end:stop] = torch.arange(stop - end) + placed[:, b, end - 1].max() + 1
    return placed


def opening(examples: Sequence[Example], media_ids: Sequence[int]) -> int:
    """How many tokens begin all prompts alike, before any image."""
    prompts = [example.text.prompt_ids for example in examples]
    for number, tokens in enumerate(zip(*(prompt.tolist() for prompt in prompts), strict=False)):
        if tokens[0] in media_ids or len(set(tokens)) > 1:
            return number
    return min(len(prompt) for prompt in prompts)


def expand(ids: np.ndarray, media_ids: Sequence[int], counts: Sequence[int]) -> np.ndarray:
    """Repeat the k-th placeholder `counts[k]` times."""
    import numpy as np

    return np.repeat(ids, repeats(ids, media_ids, counts))


def repeats(ids: np.ndarray, media_ids: Sequence[int], counts: Sequence[int]) -> np.ndarray:
    """How often each token stands in its row, int64: the k-th placeholder `counts[k]` times, others once."""
    import numpy as np

    found = np.ones(len(ids), dtype=np.int64)
    found[is_one_of(ids, media_ids)] = counts
    return found


def is_one_of(ids: np.ndarray, few: Sequence[int]) -> np.ndarray:
    """Where one of a few tokens stands, bool; a tenth of what `numpy.isin` takes for a prompt."""
    import numpy as np

    found = np.zeros(len(ids), dtype=bool)
    for one in few:
        found |= ids == one
    return found


def behind_images(ids: np.ndarray, media_ids: Sequence[int]) -> int:
    """Where the last placeholder of an image ends in a prompt; 0 where none stands."""
    places = is_one_of(ids, media_ids).nonzero()[0]
    return int(places[-1]) + 1 if len(places) else 0


def to_device(batch: Forward, device: torch.device) -> Forward:
    """Move every tensor of what a forward takes."""
    return on_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)
