"""The architecture of Idefics3 (Laurençon et al. 2024, 2408.12637) and SmolVLM (Marafioti et al. 2025, 2504.05299).

A picture is cut in tiles of one size, behind which it comes again as a whole; each tile stands in the prompt behind a token that says
its row and column. A grid is (tiles, h, w), the latter of one tile in patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lab.errors import ModelError
from lab.model.llava import IMAGE, Llava, images_first
from lab.records import Chat, ExampleSize

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from transformers import PretrainedConfig

    from lab.model.architecture import Grid

MOST_PIXELS = 4096
"""Of a side, whatever `size` says (MAX_IMAGE_SIZE of Transformers' image processor)."""


class Tiled(Llava):
    """`lab.model.architecture.Architecture` of such models."""

    tiled = True

    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> Any:
        """The checkpoint's own. Raises `ModelError` if it makes other tiles, or another number of tokens of one, than the model takes."""
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(where, **options)
        side, made = config.vision_config.image_size, processor.image_processor.max_image_size["longest_edge"]
        number = math.prod(self.merged(config, self.of_tiles(config, 1)))
        if (made, processor.image_seq_len) != (side, number):
            raise ModelError(
                f"model.path={where}: its processor makes {processor.image_seq_len} tokens of a tile of {made} pixels, and its model {number} of "
                f"{side}. Correct max_image_size in preprocessor_config.json and image_seq_len in processor_config.json."
            )
        return processor

    def messages(self, chat: Chat) -> list[dict[str, Any]]:
        """Images first, without separators; those of a conversation in their places."""
        if chat.interleaved:
            return list(chat.messages)
        return [{**message, "content": images_first(message["content"])} for message in chat.messages]

    def render(self, processor: Any, messages: Sequence[dict[str, Any]], numbered: bool, generation: bool = True) -> str:
        """With what stands for each picture's tiles, which a message says under `written`, in place of its placeholder."""
        text = super().render(processor, messages, numbered, generation)
        written = [part["written"] for message in messages for part in message["content"] if "written" in part]
        before, *behind = text.split(IMAGE, len(written))
        return before + "".join(tiles + rest for tiles, rest in zip(written, behind, strict=True))

    def plain(self, processor: Any, prompts: Sequence[str], chats: Sequence[Chat], images: Sequence[Image]) -> Any:
        """By one call of the processor, with each prompt's images by themselves."""
        left = iter(images)
        shown = [[next(left) for _ in chat.image_order] for chat in chats]
        return processor(text=list(prompts), images=shown, padding=True, return_tensors="pt")

    def written(self, processor: Any, size: tuple[int, int]) -> str:
        """Each tile's place and a placeholder of its own, as the processor writes them."""
        rows, columns = self.cut(processor.image_processor, size)
        fake, whole = processor.fake_image_token, getattr(processor, "global_image_tag", "<global-img>")
        lines = ["".join(f"{fake}<row_{row}_col_{column}>{IMAGE}" for column in range(1, columns + 1)) + "\n" for row in range(1, rows + 1)]
        return "".join([*lines, "\n"] if lines else []) + f"{fake}{whole}{IMAGE}{fake}"

    def tiles(self, grid: Grid) -> int:
        """The first number of its grid."""
        return grid[0]

    def cut(self, images: Any, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of tiles of an image of (width, height) pixels; none where it is one tile.

        As `Idefics3ImageProcessor` resizes it twice, in whole pixels: to its longest edge, then each side up to whole tiles.
        """
        if not images.do_image_splitting:
            return 0, 0
        side = images.max_image_size["longest_edge"]
        width, height = longest(size, images.size["longest_edge"]) if images.do_resize else size
        ratio = width / height
        if width >= height:
            columns = math.ceil(width / side)
            rows = math.ceil(int(columns * side / ratio) / side)
        else:
            rows = math.ceil(height / side)
            columns = math.ceil(int(rows * side * ratio) / side)
        return (rows, columns) if rows > 1 or columns > 1 else (0, 0)

    def of_tiles(self, config: PretrainedConfig, number: int) -> Grid:
        """The grid of so many tiles."""
        return number, *self.square(config)[1:]

    def pixels(self, processor: Any, config: PretrainedConfig, images: Sequence[Image]) -> tuple[list[torch.Tensor], list[Grid]]:
        """Tiles [number, channels, side, side] of each image by itself."""
        made = [processor.image_processor(images=[[image]], return_tensors="pt")["pixel_values"][0] for image in images]
        return made, [self.of_tiles(config, len(tiles)) for tiles in made]

    def pixel_shape(self, config: PretrainedConfig, grid: Grid) -> tuple[int, ...]:
        """Of all tiles."""
        return grid[0], *super().pixel_shape(config, grid)

    def stack(self, pixels: Sequence[torch.Tensor], grids: Sequence[Grid]) -> dict[str, torch.Tensor]:
        """[N, most tiles, channels, side, side]; tiles that are not there are zero, as the model wants it."""
        import torch

        most = max(len(tiles) for tiles in pixels)
        filled = [torch.cat([tiles, tiles.new_zeros(most - len(tiles), *tiles.shape[1:])]) for tiles in pixels]
        return {"pixel_values": torch.stack(filled)}

    def grid(self, processor: Any, config: PretrainedConfig, size: tuple[int, int]) -> Grid:
        """As many tiles as `cut` says, and the whole."""
        return self.of_tiles(config, math.prod(self.cut(processor.image_processor, size)) + 1)

    def settings(self, processor: Any) -> dict[str, Any]:
        """Of the image processor; its size is that of the longest edge, before it is cut."""
        images = processor.image_processor
        keys = ("image_mean", "image_std", "do_rescale", "rescale_factor", "do_normalize", "do_convert_rgb", "do_resize", "do_image_splitting")
        values = {key: getattr(images, key) for key in keys}
        sides = {"size": images.size["longest_edge"], "tile": images.max_image_size["longest_edge"]}
        return {"class": type(images).__name__, **values, **sides, "resample": int(images.resample)}

    def merged(self, config: PretrainedConfig, grid: Grid) -> tuple[int, int]:
        """`scale_factor` patches along a side become one token, tile under tile."""
        return grid[0] * grid[1] // config.scale_factor, grid[2] // config.scale_factor

    def planned_size(self, config: PretrainedConfig, text: int, images: int, tokens: int) -> ExampleSize:
        """Of as many tiles as cost about so many tokens."""
        one = math.prod(self.merged(config, self.of_tiles(config, 1)))
        tiles = max(1, round(tokens / one))
        return ExampleSize(text + images * tiles * one, (self.of_tiles(config, tiles),) * images, (tiles * one,) * images)


def longest(size: tuple[int, int], edge: int) -> tuple[int, int]:
    """(width, height) with the longer side of so many pixels and the shorter one even, neither over `MOST_PIXELS`."""
    width, height = size
    ratio = width / height
    if width >= height:
        width, height = edge, int(edge / ratio)
        height += height % 2
    else:
        width, height = int(edge * ratio), edge
        width += width % 2
    width, height = max(width, 1), max(height, 1)
    if max(width, height) > MOST_PIXELS:
        ratio = width / height
        width, height = (MOST_PIXELS, int(MOST_PIXELS / ratio)) if width >= height else (int(MOST_PIXELS * ratio), MOST_PIXELS)
    return max(width, 1), max(height, 1)
