"""The architecture of Idefics2 (Laurençon et al. 2024, 2405.02246): a resampler makes the same number of tokens of every picture.

Pictures keep their proportions. One that is split comes as its four quarters and itself, each by itself. A grid is (pictures, h, w), the
latter of the largest of them in patches. Pixels have a channel more than colours: 1 where there is a picture, 0 where there is none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lab.errors import ModelError
from lab.model.llava import IMAGE
from lab.model.tiles import Tiled
from lab.records import ExampleSize

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import PretrainedConfig

    from lab.model import Vlm
    from lab.model.architecture import Grid

AROUND = "<fake_token_around_image>"
SPLIT = 5
"""Pictures that a split one comes as."""
TYPICAL = (640, 480)
"""Width and height [pixels] of a picture, for planning without one."""


class Idefics2(Tiled):
    """`lab.model.architecture.Architecture` of such models."""

    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> Any:
        """The checkpoint's own. Raises `ModelError` if it writes another number of tokens than the resampler makes."""
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(where, **options)
        made = config.perceiver_config.resampler_n_latents
        if processor.image_seq_len != made:
            raise ModelError(
                f"model.path={where}: its processor writes {processor.image_seq_len} tokens a picture, and its resampler makes {made}. "
                "Correct image_seq_len in processor_config.json."
            )
        return processor

    def render(self, processor: Any, messages: Sequence[dict[str, Any]], numbered: bool, generation: bool = True) -> str:
        """One token stands between two pictures, and a space before a word behind one, as the processor writes them."""
        text = super().render(processor, messages, numbered, generation)
        return re.sub(rf"{AROUND}(?=[^\s<])", f"{AROUND} ", text.replace(AROUND * 2, AROUND))

    def written(self, processor: Any, size: tuple[int, int]) -> str:
        """A placeholder for each of the pictures that it comes as, between tokens that part them."""
        return (AROUND + IMAGE) * (SPLIT if processor.image_processor.do_image_splitting else 1) + AROUND

    def end_ids(self, vlm: Vlm) -> list[int]:
        """The end of a turn too, which is not the tokenizer's end."""
        return sorted({*super().end_ids(vlm), vlm.processor.tokenizer.convert_tokens_to_ids(str(vlm.processor.end_of_utterance_token))})

    def shown(self, images: Any, size: tuple[int, int]) -> list[tuple[int, int]]:
        """(width, height) of each of the pictures that one of such a size comes as, as `Idefics2ImageProcessor` resizes them.

        Raises `ValueError` for one that is too thin to be split.
        """
        sizes = [size]
        if images.do_image_splitting:
            (left, right), (top, bottom) = ((side // 2, side - side // 2) for side in size)
            if not left or not top:
                raise ValueError("a side of one pixel cannot be split")
            sizes = [(width, height) for height in (top, bottom) for width in (left, right)] + sizes
        return [within(each, images.size["shortest_edge"], images.size["longest_edge"]) if images.do_resize else each for each in sizes]

    def grid(self, processor: Any, config: PretrainedConfig, size: tuple[int, int]) -> Grid:
        """Of whole patches: the tower does not look at others."""
        shown, patch = self.shown(processor.image_processor, size), config.vision_config.patch_size
        return len(shown), max(height for _, height in shown) // patch, max(width for width, _ in shown) // patch

    def pixels(self, processor: Any, config: PretrainedConfig, images: Sequence[Image]) -> tuple[list[torch.Tensor], list[Grid]]:
        """[pictures, colours + 1, height, width] of each image."""
        grids = [self.grid(processor, config, image.size) for image in images]
        return [self.padded(processor, config, image, grid) for image, grid in zip(images, grids, strict=True)], grids

    def padded(self, processor: Any, config: PretrainedConfig, image: Image, grid: Grid) -> torch.Tensor:
        """The pictures that an image comes as, each in the upper left of what the largest takes."""
        import torch

        patch = config.vision_config.patch_size
        pixels = torch.zeros(self.pixel_shape(config, grid))
        for place, made in zip(pixels, processor.image_processor([[image]], do_pad=False)["pixel_values"][0], strict=True):
            height, width = (side // patch * patch for side in made.shape[-2:])
            place[:-1, :height, :width] = made[:, :height, :width]
            place[-1, :height, :width] = 1
        return pixels

    def pixel_shape(self, config: PretrainedConfig, grid: Grid) -> tuple[int, ...]:
        """With the channel that says where there is a picture."""
        tower = config.vision_config
        return grid[0], tower.num_channels + 1, *(side * tower.patch_size for side in grid[1:])

    def stack(self, pixels: Sequence[torch.Tensor], grids: Sequence[Grid]) -> dict[str, torch.Tensor]:
        """[N, most pictures, channels, height, width], and where there is a picture, int64 without channels."""
        import torch

        most = [max(sides) for sides in zip(*(each.shape for each in pixels), strict=True)]
        filled = pixels[0].new_zeros(len(pixels), *most)
        for place, each in zip(filled, pixels, strict=True):
            place[: each.shape[0], :, : each.shape[2], : each.shape[3]] = each
        return {"pixel_values": filled[:, :, :-1], "pixel_attention_mask": filled[:, :, -1].to(torch.int64)}

    def settings(self, processor: Any) -> dict[str, Any]:
        """Of the image processor; its sizes are the least and the most of a side."""
        images = processor.image_processor
        keys = ("image_mean", "image_std", "do_rescale", "rescale_factor", "do_normalize", "do_convert_rgb", "do_resize", "do_image_splitting")
        sides = {"size": [images.size["shortest_edge"], images.size["longest_edge"]], "resample": int(images.resample)}
        return {"class": type(images).__name__, **{key: getattr(images, key) for key in keys}, **sides}

    def merged(self, config: PretrainedConfig, grid: Grid) -> tuple[int, int]:
        """As many tokens of each picture, whatever its size."""
        return grid[0], config.perceiver_config.resampler_n_latents

    def planned_size(self, config: PretrainedConfig, text: int, images: int, tokens: int) -> ExampleSize:
        """Of pictures of `TYPICAL` size, split where that is nearer to so many tokens."""
        patch, one = config.vision_config.patch_size, config.perceiver_config.resampler_n_latents
        number = SPLIT if tokens > (1 + SPLIT) / 2 * one else 1
        grid = number, *(min(side, config.vision_config.image_size) // patch for side in reversed(TYPICAL))
        return ExampleSize(text + images * number * one, (grid,) * images, (number * one,) * images)


def within(size: tuple[int, int], shortest: int, longest: int) -> tuple[int, int]:
    """(width, height) with the longer side no longer than one edge, then each side no shorter than the other."""
    width, height = size
    ratio = width / height
    if width >= height and width > longest:
        width, height = longest, int(longest / ratio)
    elif height > width and height > longest:
        width, height = int(longest * ratio), longest
    return max(width, shortest), max(height, shortest)
