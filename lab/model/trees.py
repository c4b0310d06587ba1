"""Questions about the same images in one row, which reads the images once: `trainer.layout=trees`.

    a tree    [ what begins all prompts alike, images in it | question and answer 1 | ... | question and answer K ]
    a row     trees one after another, up to `trainer.token_budget` tokens

A token reads what stands before it in its own tree, of branches its own alone, by an explicit mask. Positions are those that each sample
has in a row of its own, so every branch goes on where the prefix ends. What predicts an answer stands in its branch, and each label says
which position predicts it; the last token of a sample predicts nothing and is left out. As Molmo2's message trees and Prefix Grouper
(2506.05433) have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lab.model.batching import behind_images, media_of
from lab.model.labels import IGNORED
from lab.records import Batch, Rows, Target, Tokens

if TYPE_CHECKING:
    import torch

    from lab.model.encoded import Example
    from lab.model.encoding import Encoder


@dataclass(frozen=True, slots=True)
class Tree:
    """Samples of which the first `shared` tokens are read once. alone: each as a batch by itself."""

    examples: tuple[Example, ...]
    alone: tuple[Batch, ...]
    shared: int

    @property
    def branches(self) -> list[int]:
        """Tokens of each branch."""
        return [batch.prompt.ids.shape[1] - 1 - self.shared for batch in self.alone]

    @property
    def length(self) -> int:
        """Tokens in all."""
        return self.shared + sum(self.branches)

    @property
    def length_in_rows(self) -> int:
        """Tokens of its samples in a row each, without padding."""
        return sum(batch.prompt.ids.shape[1] for batch in self.alone)


def trees_of(encoder: Encoder, examples: Sequence[Example]) -> list[Tree]:
    """Samples as trees, in the order of the first of each; one that shares no images with another is a tree by itself."""
    found = []
    for group in groups(encoder, examples):
        alone = [encoder.collate([example], True, encoder.architecture.padding_side, 1, learned=True) for example in group]
        if shared := shared_tokens(alone):
            found.append(Tree(tuple(group), tuple(alone), shared))
        else:
            found += [Tree((example,), (batch,), 0) for example, batch in zip(group, alone, strict=True)]
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


def shared_tokens(alone: Sequence[Batch]) -> int:
    """How many tokens begin several samples alike, before any that predicts a label; 0 where an image stands behind them, or of one sample."""
    import torch

    if len(alone) == 1:
        return 0
    most = min(batch.prompt.ids.shape[1] - batch.target.rows for batch in alone)
    ids = torch.cat([batch.prompt.ids[:, :most] for batch in alone])
    number = int((ids == ids[0]).all(dim=0).long().cumprod(dim=0).sum())
    return 0 if any(batch.prompt.types[0, number:].any() for batch in alone) else number


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
    import torch

    tokens, trunks, branches, places, labels, length = [], [], [], [], [], 0
    for number, tree in enumerate(trees):
        own = zip(tree.alone, tree.branches, strict=True)
        parts = [(tree.alone[0], 0, tree.shared), *((batch, tree.shared, tree.shared + count) for batch, count in own)]
        for branch, (batch, start, stop) in enumerate(parts):
            tokens.append([getattr(batch.prompt, name)[..., start:stop] for name in ("ids", "positions", "types")])
            trunks += [number] * (stop - start)
            branches += [branch] * (stop - start)
            if branch:
                predicting = torch.arange(stop + 1 - batch.target.rows, stop)
                assert batch.target.labels is not None
                counted = batch.target.labels[0] != IGNORED
                places.append((predicting + length - start)[counted])
                labels.append(batch.target.labels[0, counted])
            length += stop - start
    ids, positions, types = (torch.cat(parts, dim=-1) for parts in zip(*tokens, strict=True))
    learned = torch.cat(labels)[None]
    examples = [example for tree in trees for example in tree.examples]
    shown = [tree.examples[0] for tree in trees]
    lengths, own = tuple(tree.length for tree in trees), tuple((tree.shared, *tree.branches) for tree in trees)
    return Batch(
        sample_ids=tuple(example.sample_id for example in examples),
        prompt=Tokens(ids, readable(torch.tensor(trunks), torch.tensor(branches)), positions, types, lengths, own),
        media=media_of(encoder, shown),
        target=Target(learned, learned.shape[1], learned.shape[1], torch.cat(places)),
        media_order=tuple(example.text.image_order for example in shown),
    )


def readable(trees: torch.Tensor, branches: torch.Tensor) -> torch.Tensor:
    """Which positions each position reads, bool [1, 1, N, N], of its tree and its branch, int64 [N], 0 of what branches share."""
    import torch

    before = torch.ones(len(trees), len(trees), dtype=torch.bool).tril()
    return (before & (trees[:, None] == trees) & ((branches == 0) | (branches[:, None] == branches)))[None, None]
