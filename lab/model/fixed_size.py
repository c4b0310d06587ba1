"""Towers that take images of one size alone, and what stands beside them: states of several images joined for cross-attention."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lab.errors import ModelError
from lab.model.architecture import Architecture, Grid
from lab.records import Batch, ExampleSize

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import PretrainedConfig

    from lab.model import Vlm


class FixedSize(Architecture):
    """The half of an `Architecture` that looks at images, of such a tower; by default it has a class token, and no image stands in a prompt."""

    in_prompt = False
    beside_grid = 1

    def tower(self, config: PretrainedConfig) -> PretrainedConfig:
        """The tower's own config."""
        return config.vision_config

    def require_size(self, where: str, images: Any, config: PretrainedConfig) -> None:
        """Raise a `ModelError` for an image processor that makes images of another size than the tower takes."""
        made, wanted = side_of(images), self.tower(config).image_size
        if made != (wanted, wanted):
            raise ModelError(
                f"model.path={where}: its image processor makes images of {made} pixels, its encoder takes {wanted} x {wanted}."
                " Correct `size` in preprocessor_config.json."
            )

    def image_id(self, processor: Any) -> int:
        """None: images stand beside the prompt."""
        return -1

    def square(self, config: PretrainedConfig) -> Grid:
        """The grid of every image."""
        side = self.tower(config).image_size // self.tower(config).patch_size
        return 1, side, side

    def pixels(self, processor: Any, config: PretrainedConfig, images: Sequence[Image]) -> tuple[list[torch.Tensor], list[Grid]]:
        """Every image is brought to the tower's one size."""
        made = processor.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        return list(made), [self.square(config)] * len(made)

    def pixel_shape(self, config: PretrainedConfig, grid: Grid) -> tuple[int, ...]:
        """Channels, height, width."""
        tower = self.tower(config)
        return getattr(tower, "num_channels", 3), *(side * tower.patch_size for side in grid[1:])

    def stack(self, pixels: Sequence[torch.Tensor], grids: Sequence[Grid]) -> dict[str, torch.Tensor]:
        """[N, channels, height, width]."""
        import torch

        return {"pixel_values": torch.stack(tuple(pixels))}

    def grid(self, processor: Any, config: PretrainedConfig, size: tuple[int, int]) -> Grid:
        """The tower's own."""
        return self.square(config)

    def settings(self, processor: Any) -> dict[str, Any]:
        """Of the image processor; its size is the tower's, to which it may come by cutting out the middle."""
        images = processor.image_processor
        keys = ("image_mean", "image_std", "do_rescale", "rescale_factor", "do_normalize", "do_convert_rgb", "do_resize")
        values = {key: getattr(images, key) for key in keys}
        if cuts(images):
            values |= {"cut_from": {edge: images.size[edge] for edge in ("shortest_edge", "height", "width") if images.size.get(edge)}}
        return {"class": type(images).__name__, **values, "size": list(side_of(images)), "resample": int(images.resample)}

    def merged(self, config: PretrainedConfig, grid: Grid) -> tuple[int, int]:
        """One state for each patch."""
        return grid[1], grid[2]

    def planned_size(self, config: PretrainedConfig, text: int, images: int, tokens: int) -> ExampleSize:
        """Images cost what the tower makes of them, whatever is asked for."""
        grid = self.square(config)
        number = math.prod(grid) + self.beside_grid
        return ExampleSize(text + images * number * self.in_prompt, (grid,) * images, (number,) * images)


def side_of(images: Any) -> tuple[int, int]:
    """Height and width [pixels] of what an image processor makes."""
    size = images.crop_size if cuts(images) else images.size
    return size["height"], size["width"]


def cuts(images: Any) -> bool:
    """Whether an image processor cuts out the middle of an image."""
    return bool(getattr(images, "do_center_crop", False))


def counted(
    ids: torch.Tensor,
    types: torch.Tensor,
    grids: torch.Tensor | None,
    attention: torch.Tensor | None,
    steps: Sequence[float] = (),
) -> torch.Tensor:
    """Positions int64 [B, T] of real tokens from 0; padding stands at 0 too."""
    assert attention is not None
    return (attention.cumsum(1) - 1).clamp(min=0)


def joined(vlm: Vlm, batch: Batch, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """States of so many numbers that each sample attends to, [B, M, width], and which of them are there, int64 [B, M].

    A sample without images attends to one state of zeros, so that it answers alike in every batch.
    """
    import torch
    from torch.nn.functional import pad

    media, device = batch.media, batch.prompt.ids.device
    features = media.features if media.pixels is None else vlm.encode_images(media.pixels)
    nothing = torch.zeros((1, width), dtype=vlm.dtype, device=device)
    rows, image = [], 0
    for number in media.counts:
        rows.append(torch.cat(list((features or ())[image : image + number])) if number else nothing)
        image += number
    lengths = torch.tensor([len(row) for row in rows], device=device)
    states = torch.stack([pad(row, (0, 0, 0, int(lengths.max()) - len(row))) for row in rows])
    return states, (torch.arange(states.shape[1], device=lengths.device) < lengths[:, None]).long()
