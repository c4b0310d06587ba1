"""What one forward takes.

Shapes: B samples in a batch, T tokens of the longest prompt, A of the longest answer, N images in the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a text model reads.

    ids, mask: int64 [B, T]; mask None: nothing is padding; bool [B, 1, T, T]: which positions each reads.
    positions: int64 [B, T] or [3, B, T] (M-RoPE).
    types: int64 [B, T], 1 where a picture stands, 2 where a clip does, else 0. segments: of one row that holds several samples, or trees of
    them, their lengths in order; else (). branches: of a row of trees, of each what its samples share and what each has by itself, in tokens.
    """

    ids: torch.Tensor
    mask: torch.Tensor | None
    positions: torch.Tensor
    types: torch.Tensor
    segments: tuple[int, ...] = ()
    branches: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Media:
    """The N images of a batch, in the order shown.

    counts: images of each sample. grids: (h, w) of each image in tokens of the projector, the frames of a clip below each other.
    tokens: of each image that the language model sees, after any reduction. pixels: what the tower takes, by Transformers' names, as if
    all were pictures; features: [tokens, hidden] of each image in its place. Both None: without images, or with features that a cache
    holds. clips: which of the images are clips; () where none is.
    """

    counts: tuple[int, ...]
    grids: tuple[tuple[int, int], ...]
    tokens: tuple[int, ...]
    pixels: dict[str, torch.Tensor] | None = None
    features: tuple[torch.Tensor, ...] | None = None
    clips: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """What is predicted. labels: int64 [B, A], -100 where no loss is taken; None: what follows the prompt, unknown.

    rows: the last positions of every row whose logits are computed. tokens: how many labels count. Labels end together.
    places: of a row that holds several samples, int64 [A], the positions whose logits predict the labels; else None.
    shares: of labels that annotators voted on, float32 [B, C], what each of C labels is learned to be; else None.
    """

    labels: torch.Tensor | None
    rows: int
    tokens: int = 0
    places: torch.Tensor | None = None
    shares: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward takes, and what it is to predict.

    prompt: padded on the architecture's side; where answers stand inline, with labels, the answer is the last thing in every row.
    answer: of a decoder that answers stand in by themselves, what it reads before each label: its start and the tokens before the last,
    left-padded. shared: with labels, how many tokens begin all rows alike, before any image and any position of `target.rows`.
    media_order: `Chat.image_order` of each sample.
    """

    sample_ids: tuple[str, ...]
    prompt: Tokens
    media: Media
    target: Target
    media_order: tuple[tuple[int, ...], ...]
    shared: int = 0
    answer: Tokens | None = None

    @property
    def targets(self) -> int:
        """How many labels count."""
        return self.target.tokens

    def each(self, act: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The batch with something done to every tensor of it."""
        return on_tensors(act, self)

    def seen(self, features: tuple[torch.Tensor, ...] | None) -> Batch:
        """The batch with features of its images in place of pixels."""
        return replace(self, media=replace(self.media, pixels=None, features=features))

    def pin_memory(self) -> Batch:
        """In page-locked memory, from where a GPU fetches it while it works; torch's DataLoader asks for it by this name."""
        return self.each(lambda tensor: tensor.pin_memory())


@dataclass(frozen=True, slots=True)
class Rows:
    """What one forward takes as rows of unlike lengths, each a batch of one row."""

    batches: tuple[Batch, ...]

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """Of all samples."""
        return tuple(name for batch in self.batches for name in batch.sample_ids)

    @property
    def targets(self) -> int:
        """How many labels count."""
        return sum(batch.targets for batch in self.batches)

    def pin_memory(self) -> Rows:
        """As of a `Batch`."""
        return Rows(tuple(batch.pin_memory() for batch in self.batches))


def on_tensors(act: Callable[[Any], Any], value: Any) -> Any:
    """A value with something done to every tensor in its dataclasses, dicts and tuples."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: on_tensors(act, getattr(value, part.name)) for part in fields(value)})
    if isinstance(value, dict):
        return {key: on_tensors(act, each) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(on_tensors(act, each) for each in value)
    return value if value is None or isinstance(value, int | str) else act(value)


@dataclass(frozen=True, slots=True)
class ExampleSize:
    """How large one example is, without what is in it: what a forward pass costs is a function of it.

    length: positions of the language model, image tokens in the prompt among them; of the prompt alone where answers do not follow it.
    grids: (t, h, w) of each image in patches. tokens: of each image that the language model sees, after any reduction.
    rows: positions whose logits are computed.
    """

    length: int
    grids: tuple[tuple[int, int, int], ...]
    tokens: tuple[int, ...]
    rows: int = 1
