"""How images and text meet in a kind of model: all that differs between kinds, in one object that a `Family` names.

Everything else (`Vlm`, `Encoder`, training, scoring) is written once, in these terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from lab.records import Batch, Chat, ExampleSize, Tokens

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import PretrainedConfig
    from transformers.utils.generic import ModelOutput

    from lab.model import Vlm

Grid = tuple[int, int, int]
"""(t, h, w) of an image in patches."""


class Positions(Protocol):
    """The rule by which tokens get their positions."""

    def __call__(
        self, ids: torch.Tensor, types: torch.Tensor, grids: torch.Tensor | None, attention: torch.Tensor | None
    ) -> torch.Tensor:
        """Positions int64 [3, B, T] (M-RoPE) or [B, T] of ids, token types and attention mask [B, T] with grids [N, 3]."""
        ...


class Architecture(Protocol):
    """What the laboratory must know of a kind of model beyond Transformers' common interface.

    in_prompt: an image stands in the prompt, as tokens. beside_grid: tokens of an image beside those of its grid (a class token).
    padding_side: of prompts, in the checkpoint's tokenizer too.
    """

    in_prompt: bool
    beside_grid: int
    padding_side: str

    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> Any:
        """Load what turns text and images into tensors: with a `tokenizer`, an `image_processor`, `chat_template` and `save_pretrained`."""
        ...

    def image_id(self, processor: Any) -> int:
        """The id of the token that stands for an image in a prompt; -1 where there is none."""
        ...

    def frame(self, processor: Any, chat: Chat, numbered: bool) -> tuple[str, str]:
        """The text of a prompt, and of the answer with the end of the turn that follows it. numbered: `prompt.numbered`."""
        ...

    def pixels(
        self, processor: Any, config: PretrainedConfig, images: Sequence[Image]
    ) -> tuple[list[torch.Tensor], list[Grid]]:
        """Pixels float32, of `pixel_shape`, and grid of each image."""
        ...

    def pixel_shape(self, config: PretrainedConfig, grid: Grid) -> tuple[int, ...]:
        """Of what `pixels` makes of an image of this grid."""
        ...

    def stack(self, pixels: Sequence[torch.Tensor], grids: Sequence[Grid]) -> dict[str, torch.Tensor]:
        """Pixels of several images as `Media.pixels`."""
        ...

    def grid(self, processor: Any, config: PretrainedConfig, size: tuple[int, int]) -> Grid:
        """The grid that `pixels` makes of an image of (width, height) pixels. Raises `ValueError` where it takes none of that size."""
        ...

    def settings(self, processor: Any) -> dict[str, Any]:
        """What the image processor does, as plain values."""
        ...

    def merged(self, config: PretrainedConfig, grid: Grid) -> tuple[int, int]:
        """A patch grid as the projector's grid of tokens (h, w)."""
        ...

    def positions(self, vlm: Vlm) -> Positions:
        """The model's own rule."""
        ...

    def see(self, vlm: Vlm, pixels: dict[str, torch.Tensor]) -> ModelOutput:
        """Run the tower and the projector; `pooler_output` holds one tensor [tokens, hidden] for each image."""
        ...

    def reader(self, vlm: Vlm) -> torch.nn.Module:
        """The module that reads text, and images with it; it takes `use_cache` and `logits_to_keep` as decoders do."""
        ...

    def inputs(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """Keyword arguments for the reader's forward."""
        ...

    def again(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """Those of them that it must be given again with every further token, beside its cache. Images come as features."""
        ...

    def predict(self, vlm: Vlm, batch: Batch) -> torch.Tensor:
        """`Vlm.predict`."""
        ...

    def planned_size(self, config: PretrainedConfig, text: int, images: int, tokens: int) -> ExampleSize:
        """An example of so many tokens of text and images of about so many tokens, for planning."""
        ...


def words(tokens: Tokens) -> dict[str, Any]:
    """Tokens by the names that Transformers' decoders take."""
    return {"input_ids": tokens.ids, "attention_mask": tokens.mask, "position_ids": tokens.positions}


def tower_output(features: Any) -> ModelOutput:
    """Features [tokens, hidden] of each image as Qwen-VL's towers give them, which is more than the field is declared for."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(pooler_output=features)


def predict_inline(vlm: Vlm, batch: Batch) -> torch.Tensor:
    """`Vlm.predict` where the answer follows the prompt in its row: position t predicts token t + 1.

    Without labels, the last token of each row is looked for, so that it may be padded on either side.
    """
    import torch

    logits = vlm.logits(batch, batch.target.rows)
    if batch.target.labels is not None:
        return logits[:, :-1]
    assert batch.prompt.mask is not None
    length = batch.prompt.mask.shape[1]
    last = (batch.prompt.mask * torch.arange(length, device=logits.device)).argmax(dim=1) - (length - logits.shape[1])
    return logits[torch.arange(len(last), device=logits.device), last, None]
