"""LLaVA-NeXT's architecture (Liu et al. 2024, llava-vl.github.io/blog/2024-01-30-llava-next): LLaVA's, of pictures in their own proportions.

A picture is seen whole and in tiles of the tower's size, as many as the canvas has that fits it best (`image_grid_pinpoints`); of the
tiles' patches those stay that are the picture's, and a token ends each of their lines. A grid is (tiles and the whole, height, width) of
the picture in pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lab.errors import ModelError
from lab.model.llava import Llava
from lab.records import ExampleSize

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import PretrainedConfig

    from lab.model.architecture import Grid


class LlavaNext(Llava):
    """`lab.model.architecture.Architecture` of such models."""

    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> Any:
        """The checkpoint's own. Raises `ModelError` if it makes other tiles than the model takes."""
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(where, **options)
        images, tower = processor.image_processor, config.vision_config
        made = {
            "patch_size": processor.patch_size, "vision_feature_select_strategy": processor.vision_feature_select_strategy,
            "size": sides(images), "image_grid_pinpoints": [list(each) for each in images.image_grid_pinpoints],
        }  # fmt: skip
        wanted = {
            "patch_size": tower.patch_size, "vision_feature_select_strategy": config.vision_feature_select_strategy,
            "size": (tower.image_size,) * 2, "image_grid_pinpoints": [list(each) for each in config.image_grid_pinpoints],
        }  # fmt: skip
        if wrong := [key for key in made if made[key] != wanted[key]]:
            told = "; ".join(f"{key}: its processor has {made[key]}, its model {wanted[key]}" for key in wrong)
            raise ModelError(f"model.path={where}: {told}. Correct processor_config.json or preprocessor_config.json.")
        return processor

    def canvas(self, config: PretrainedConfig, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tiles of a picture of (height, width)."""
        from transformers.image_processing_utils import select_best_resolution

        height, width = select_best_resolution(size, config.image_grid_pinpoints)
        side = config.vision_config.image_size
        return height // side, width // side

    def of_size(self, config: PretrainedConfig, height: int, width: int) -> Grid:
        """The grid of a picture of so many pixels."""
        return math.prod(self.canvas(config, (height, width))) + 1, height, width

    def grid(self, processor: Any, config: PretrainedConfig, size: tuple[int, int]) -> Grid:
        """Its own height and width, and how many tiles they take."""
        return self.of_size(config, size[1], size[0])

    def pixels(self, processor: Any, config: PretrainedConfig, images: Sequence[Image]) -> tuple[list[torch.Tensor], list[Grid]]:
        """The whole picture and its tiles [number, channels, side, side], of each picture by itself."""
        made = [processor.image_processor(images=[image], return_tensors="pt")["pixel_values"][0] for image in images]
        return made, [self.of_size(config, image.height, image.width) for image in images]

    def pixel_shape(self, config: PretrainedConfig, grid: Grid) -> tuple[int, ...]:
        """Of all tiles."""
        return grid[0], 3, *((config.vision_config.image_size,) * 2)

    def stack(self, pixels: Sequence[torch.Tensor], grids: Sequence[Grid]) -> dict[str, Any]:
        """[N, most tiles, channels, side, side], tiles that are not there zero, and (height, width) of each picture."""
        import torch

        most = max(len(tiles) for tiles in pixels)
        filled = [torch.cat([tiles, tiles.new_zeros(most - len(tiles), *tiles.shape[1:])]) for tiles in pixels]
        return {"pixel_values": torch.stack(filled), "image_sizes": tuple((height, width) for _, height, width in grids)}

    def merged(self, config: PretrainedConfig, grid: Grid) -> tuple[int, int]:
        """One line of all tokens: the whole picture's, and those of the tiles' lines that are the picture's, each with its end.

        As `unpad_image` of Transformers cuts what stands for the canvas beside the picture.
        """
        _, height, width = grid
        _, *whole = self.square(config)
        lines, columns = (side * number for side, number in zip(whole, self.canvas(config, (height, width)), strict=True))
        if width / height > columns / lines:
            lines -= 2 * ((lines - int(round(height * (columns / width), 7))) // 2)
        else:
            columns -= 2 * ((columns - int(round(width * (lines / height), 7))) // 2)
        return 1, math.prod(whole) + lines * (columns + 1)

    def settings(self, processor: Any) -> dict[str, Any]:
        """Of the image processor; its size is that of a tile."""
        images = processor.image_processor
        keys = ("image_mean", "image_std", "do_rescale", "rescale_factor", "do_normalize", "do_convert_rgb", "do_resize", "do_center_crop", "do_pad")
        values = {key: getattr(images, key) for key in keys}
        canvases = [list(each) for each in images.image_grid_pinpoints]
        return {"class": type(images).__name__, **values, "size": list(sides(images)), "canvases": canvases, "resample": int(images.resample)}

    def planned_size(self, config: PretrainedConfig, text: int, images: int, tokens: int) -> ExampleSize:
        """Of pictures that fill the canvas that costs nearest to so many tokens."""
        grids = [self.of_size(config, height, width) for height, width in config.image_grid_pinpoints]
        cost, grid = min(((math.prod(self.merged(config, each)), each) for each in grids), key=lambda pair: abs(pair[0] - tokens))
        return ExampleSize(text + images * cost, (grid,) * images, (cost,) * images)


def sides(images: Any) -> tuple[int, int]:
    """Height and width [pixels] of a tile, and of the whole picture."""
    size = images.crop_size if images.do_center_crop and images.crop_size else images.size
    return (size["height"], size["width"]) if size.get("height") else (size["shortest_edge"],) * 2
