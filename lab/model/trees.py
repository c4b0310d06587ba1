"""Questions about the same images in one row, which reads the images once: `trainer.layout=trees`.

    a tree    [ what begins all prompts alike, images in it | question and answer 1 | ... | question and answer K ]
    a row     trees one after another, up to `trainer.token_budget` tokens

A token reads what stands before it in its own tree, of branches its own alone, by an explicit mask. Positions are those that each sample
has in a row of its own, so every branch goes on where the prefix ends. What predicts an answer stands in its branch, and each label says
which position predicts it; the last token of a sample predicts nothing and is left out. As Molmo2's message trees and Prefix Grouper
(2506.05433) have it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from lab.model.batching import behind_images, labels_of, media_of, prompt_of, rows_of
from lab.model.labels import IGNORED
from lab.records import Batch, Rows, Target, Tokens

if TYPE_CHECKING:
    import numpy as np
    import torch

    from lab.model.encoded import Example
    from lab.model.encoding import Encoder


class OwnRow(NamedTuple):
    """A sample in a row of its own, its answer at the end. ids, types: int64 [T]; positions: int64 [axes, T] or [T].

    labels: int64 [A], of its last tokens.
    """

    ids: np.ndarray
    positions: np.ndarray
    types: np.ndarray
    labels: np.ndarray

    @property
    def places(self) -> np.ndarray:
        """Which positions predict labels that count, int64."""
        return len(self.ids) - 1 - len(self.labels) + (self.labels != IGNORED).nonzero()[0]


@dataclass(frozen=True, slots=True)
class Tree:
    """Samples of which the first `shared` tokens are read once. rows: each by itself."""

    examples: tuple[Example, ...]
    rows: tuple[OwnRow, ...]
    shared: int

    @property
    def branches(self) -> list[int]:
        """Tokens of each branch."""
        return [len(row.ids) - 1 - self.shared for row in self.rows]

    @property
    def length(self) -> int:
        """Tokens in all."""
        return self.shared + sum(self.branches)

    @property
    def length_in_rows(self) -> int:
        """Tokens of its samples in a row each, without padding."""
        return sum(len(row.ids) for row in self.rows)


def trees_of(encoder: Encoder, examples: Sequence[Example]) -> list[Tree]:
    """Samples as trees, in the order of the first of each; one that shares no images with another is a tree by itself."""
    found, rows = [], dict(zip(map(id, examples), own_rows(encoder, examples), strict=True))
    for group in groups(encoder, examples):
        own = [rows[id(example)] for example in group]
        if shared := shared_tokens(own):
            found.append(Tree(tuple(group), tuple(own), shared))
        else:
            found += [Tree((example,), (row,), 0) for example, row in zip(group, own, strict=True)]
    return found


def own_rows(encoder: Encoder, examples: Sequence[Example]) -> list[OwnRow]:
    """What each sample is by itself."""
    rows, kinds, _ = rows_of(encoder, examples, with_answers=True)
    prompt = prompt_of(encoder, examples, rows, kinds, encoder.architecture.padding_side, align=1)
    ids, positions, types = prompt.ids.numpy(), prompt.positions.numpy(), prompt.types.numpy()
    found = []
    for number, (row, example) in enumerate(zip(rows, examples, strict=True)):
        at = slice(-len(row), None) if encoder.architecture.padding_side == "left" else slice(len(row))
        found.append(OwnRow(ids[number, at], positions[..., number, at], types[number, at], labels_of(encoder, example)))
    return found


def groups(encoder: Encoder, examples: Sequence[Example]) -> list[list[Example]]:
    """Samples whose prompts are alike up to their last image, and whose images are equal to the bit as the model is shown them."""
    found: list[list[Example]] = []
    known: dict[tuple[bytes, object, object], list[list[Example]]] = {}
    for example in examples:
        head = example.text.prompt_ids[: behind_images(example.text.prompt_ids, encoder.media_ids)].tobytes()
        those = known.setdefault((head, example.grids, example.text.steps), [])
        group = next((group for group in those if same_images(group[0], example)), None) if head else None
        if group is None:
            found.append([])
            those.append(group := found[-1])
        group.append(example)
    return found


def same_images(one: Example, other: Example) -> bool:
    """Whether two samples of equal grids show the same."""
    import torch

    return all(map(torch.equal, (*one.pixels, *one.features), (*other.pixels, *other.features)))


def shared_tokens(rows: Sequence[OwnRow]) -> int:
    """How many tokens begin several samples alike, before any that predicts a label; 0 where an image stands behind them, or of one sample."""
    import numpy as np

    if len(rows) == 1:
        return 0
    most = min(len(row.ids) - 1 - len(row.labels) for row in rows)
    ids = np.stack([row.ids[:most] for row in rows])
    alike = (ids == ids[0]).all(axis=0)
    number = most if alike.all() else int(alike.argmin())
    return 0 if any(row.types[number:].any() for row in rows) else number


def lay_out(encoder: Encoder, examples: Sequence[Example], budget: int | None) -> Rows:
    """The samples of a forward as trees in rows. budget: most tokens of a row that holds several trees; None: one row holds all."""
    return Rows(tuple(row_of(encoder, trees) for trees in filled(trees_of(encoder, examples), budget)))


def filled(trees: Sequence[Tree], budget: int | None) -> Iterator[list[Tree]]:
    """Trees in their order, as many to a row as the budget lets."""
    row: list[Tree] = []
    for tree in trees:
        if row and budget is not None and sum(each.length for each in row) + tree.length > budget:
            yield row
            row = []
        row.append(tree)
    yield row


def row_of(encoder: Encoder, trees: Sequence[Tree]) -> Batch:
    """Trees one after another as a batch of one row."""
    import numpy as np
    import torch

    parts, places, length = [], [], 0
    for tree in trees:
        parts += [(tree.rows[0], 0, tree.shared)] if tree.shared else []
        length += tree.shared
        for row, count in zip(tree.rows, tree.branches, strict=True):
            parts.append((row, tree.shared, tree.shared + count))
            places.append(row.places + length - tree.shared)
            length += count
    rows = [row for tree in trees for row in tree.rows]
    ids, positions, types = (
        torch.from_numpy(np.concatenate([getattr(row, name)[..., start:stop] for row, start, stop in parts], axis=-1)).unsqueeze(-2)
        for name in ("ids", "positions", "types")
    )
    learned = torch.from_numpy(np.concatenate([row.labels[row.labels != IGNORED] for row in rows]))[None]
    examples = [example for tree in trees for example in tree.examples]
    shown = [tree.examples[0] for tree in trees]
    lengths, own = tuple(tree.length for tree in trees), tuple((tree.shared, *tree.branches) for tree in trees)
    return Batch(
        sample_ids=tuple(example.sample_id for example in examples),
        prompt=Tokens(ids, readable(own), positions, types, lengths, own),
        media=media_of(encoder, shown),
        target=Target(learned, learned.shape[1], learned.shape[1], torch.from_numpy(np.concatenate(places))),
        media_order=tuple(example.text.image_order for example in shown),
    )


def readable(trees: Sequence[tuple[int, ...]]) -> torch.Tensor:
    """Which positions each position reads, bool [1, 1, N, N], of its tree and its branch. trees: as `Tokens.branches`."""
    import numpy as np
    import torch

    length = sum(map(sum, trees))
    found, before, start = np.zeros((length, length), dtype=bool), np.tri(length, dtype=bool), 0
    for shared, *branches in trees:
        trunk = slice(start, start + shared)
        for part in itertools.pairwise(itertools.accumulate([shared, *branches], initial=start)):
            own = slice(*part)
            found[own, trunk], found[own, own] = True, before[own, own]
        start += shared + sum(branches)
    return torch.from_numpy(found)[None, None]
