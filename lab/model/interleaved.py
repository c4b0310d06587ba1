"""The architecture of Qwen-VL: images stand as tokens in the text of a chat, and one decoder reads both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lab.errors import ModelError
from lab.model.architecture import Placeholders
from lab.records import Chat, ExampleSize

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image
    from transformers import PretrainedConfig, ProcessorMixin

    from lab.model import Vlm
    from lab.model.architecture import Grid, Positions


KNOWN_ROWS = 1024
"""Kinds of rows whose positions are kept at most: some megabytes."""


class Interleaved(Placeholders):
    """`lab.model.architecture.Architecture` of such models: M-RoPE, a chat template, patches that a projector merges."""

    in_prompt = True
    beside_grid = 0
    position_axes = 3
    padding_side = "left"

    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> ProcessorMixin:
        """The checkpoint's own."""
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(where, **options)

    def messages(self, chat: Chat) -> list[dict[str, Any]]:
        """All of them."""
        return list(chat.messages)

    def render(self, processor: Any, messages: Sequence[dict[str, Any]], numbered: bool, generation: bool = True) -> str:
        """The template numbers images by itself."""
        options: dict[str, Any] = {"tokenize": False, "add_vision_id": numbered}
        return processor.apply_chat_template(list(messages), add_generation_prompt=generation, **options)

    def frame(self, processor: ProcessorMixin, chat: Chat, numbered: bool) -> tuple[str, str]:
        """By the checkpoint's chat template.

        Raises `ModelError` if the template does not write the answer right after the generation prompt.
        """
        messages = self.messages(chat)
        prompt = self.render(processor, messages, numbered)
        answered = [*messages, {"role": "assistant", "content": [{"type": "text", "text": chat.answer}]}]
        full = self.render(processor, answered, numbered, generation=False)
        if not full.startswith(prompt + chat.answer):
            raise ModelError(
                "model: the checkpoint's chat template does not put the answer right after the generation prompt, so "
                "training and scoring would not see the same text."
            )
        return prompt, full[len(prompt) :].rstrip("\n")

    def pixels(
        self, processor: ProcessorMixin, config: PretrainedConfig, images: Sequence[Image]
    ) -> tuple[list[torch.Tensor], list[Grid]]:
        """By the checkpoint's image processor, which keeps an image's own proportions."""
        import torch

        out = processor.image_processor(images=list(images), return_tensors="pt")
        grids = [tuple(grid) for grid in out["image_grid_thw"].tolist()]
        return list(torch.split(out["pixel_values"], [t * h * w for t, h, w in grids])), grids

    def pixel_shape(self, config: PretrainedConfig, grid: Grid) -> tuple[int, ...]:
        """Patches, and the numbers of one."""
        tower = config.vision_config
        return math.prod(grid), 3 * tower.temporal_patch_size * tower.patch_size**2

    def stack(self, pixels: Sequence[torch.Tensor], grids: Sequence[Grid]) -> dict[str, torch.Tensor]:
        """Patches of all images one after another, int64 [N, 3] beside them."""
        import torch

        return {"pixel_values": torch.cat(tuple(pixels)), "image_grid_thw": torch.tensor(grids, dtype=torch.int64)}

    def grid(self, processor: ProcessorMixin, config: PretrainedConfig, size: tuple[int, int]) -> Grid:
        """By the rule that all image processors of Qwen-VL share; it takes no image 200 times as long as wide."""
        from transformers.models.qwen2_vl.image_processing_qwen2_vl import smart_resize

        images = processor.image_processor
        side, (width, height) = images.patch_size, size
        area = images.size["shortest_edge"], images.size["longest_edge"]
        h, w = smart_resize(height, width, side * images.merge_size, *area)
        return 1, h // side, w // side

    def resized(self, processor: ProcessorMixin, config: PretrainedConfig, size: tuple[int, int]) -> tuple[int, int]:
        """By the same rule."""
        side = processor.image_processor.patch_size
        _, h, w = self.grid(processor, config, size)
        return w * side, h * side

    def settings(self, processor: ProcessorMixin) -> dict[str, Any]:
        """Of the image processor; its size is a pixel budget."""
        images = processor.image_processor
        keys = ("size", "patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std", "do_rescale")
        keys += ("rescale_factor", "do_normalize", "do_convert_rgb", "do_resize", "resample")
        values = {key: getattr(images, key) for key in keys}
        size = values["size"]
        values["size"] = {key: size[key] for key in ("shortest_edge", "longest_edge")}
        values["resample"] = int(values["resample"])
        return {"class": type(images).__name__, **values}

    def merged(self, config: PretrainedConfig, grid: Grid) -> tuple[int, int]:
        """One token for each square of `spatial_merge_size` patches."""
        side = config.vision_config.spatial_merge_size
        return grid[0] * grid[1] // side, grid[2] // side

    def positions(self, vlm: Vlm) -> Positions:
        """M-RoPE."""
        return MRope(vlm.bare.model.get_rope_index)

    def planned_size(self, config: PretrainedConfig, text: int, images: int, tokens: int) -> ExampleSize:
        """Images as square as their number of tokens lets them be."""
        side = config.vision_config.spatial_merge_size
        height = next(h for h in range(math.isqrt(tokens), 0, -1) if tokens % h == 0)
        grid = (1, height * side, tokens // height * side)
        return ExampleSize(text + images * tokens, (grid,) * images, (tokens,) * images)


class MRope:
    """Positions int64 [3, B, T] by the model's `get_rope_index`, which reads of a row only where its images stand and their grids.

    Rows that agree in these are asked for once; padding gets zeros, as there.
    """

    def __init__(self, rope_index: Callable[..., Any]) -> None:
        self.rope_index = rope_index
        self.known: dict[tuple[bytes, bytes], np.ndarray] = {}

    def __call__(
        self, ids: torch.Tensor, types: torch.Tensor, grids: torch.Tensor | None, attention: torch.Tensor | None
    ) -> torch.Tensor:
        import numpy as np
        import torch

        rows, marks = ids.numpy(), types.numpy()
        real = np.ones_like(rows, dtype=bool) if attention is None else attention.numpy().astype(bool)
        made = np.zeros((3, *rows.shape), dtype=np.int64)
        first = 0
        for b, own in enumerate(real):
            kinds = marks[b][own]
            images = int((np.diff(kinds, prepend=0) == 1).sum())
            shown = None if grids is None else grids[first : first + images]
            first += images
            made[:, b, own] = self.row(rows[b][own], kinds, shown)
        return torch.from_numpy(made)

    def row(self, ids: np.ndarray, kinds: np.ndarray, grids: torch.Tensor | None) -> np.ndarray:
        """Of one row without padding, int64 [3, T]."""
        import torch

        key = (kinds.tobytes(), b"" if grids is None else grids.numpy().tobytes())
        if key not in self.known:
            if len(self.known) == KNOWN_ROWS:
                self.known.clear()
            asked = (torch.from_numpy(ids)[None], torch.from_numpy(kinds)[None])
            self.known[key] = self.rope_index(*asked, image_grid_thw=grids)[0][:, 0].numpy()
        return self.known[key]
