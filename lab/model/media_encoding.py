"""Pictures and clips as one checkpoint takes them: pixels, patch grids, and how many tokens the language model sees of each."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

from lab.data.faults import BadRecord
from lab.data.images import decode, size_of
from lab.errors import ModelError
from lab.model.vlm import Vlm
from lab.records import Clip, Medium, Picture

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from lab.model.clips import Sampled


class MediaEncoder:
    """What of an `Encoder` depends on the checkpoint and the dial `vision_tokens` alone, not on the prompt."""

    def __init__(self, vlm: Vlm) -> None:
        self.architecture, self.config = vlm.family.architecture, vlm.base_model.config
        self.processor = vlm.processor
        self.tokenizer = vlm.processor.tokenizer
        self.image_id = self.architecture.image_id(self.processor)
        self.clips = self.architecture.clips
        self.media_ids = (self.image_id, *([] if self.clips is None else [self.clips.placeholder(self.processor)[1]]))
        self.budget, self.reducer = vlm.budget, vlm.reducer
        self.untouched = vlm.reducer is None and vlm.conditioner is None

    def copy(self) -> Self:
        """The same with a processor of its own, for another thread: a tokenizer serves one at a time."""
        own = copy.copy(self)
        own.processor = copy.deepcopy(self.processor)
        own.tokenizer = own.processor.tokenizer
        return own

    def resized(self, size: tuple[int, int]) -> tuple[int, int] | None:
        """(width, height) of a picture of such a size as the model is shown it; None where there is no such size."""
        return self.architecture.resized(self.processor, self.config, size)

    def pixels(self, images: Sequence[Image]) -> tuple[list[torch.Tensor], list[tuple[int, int, int]]]:
        """Run the image processor: pixels float32 and grid (t, h, w) in patches of each image."""
        return self.architecture.pixels(self.processor, self.config, images)

    def settings(self) -> dict[str, Any]:
        """What the image processor does, as plain values: part of the contract and of the feature cache's key."""
        return self.architecture.settings(self.processor)

    @cached_property
    def clip_settings(self) -> dict[str, Any] | None:
        """What the video processor does, as plain values; None where no video is taken."""
        return None if self.clips is None else self.clips.settings(self.processor)

    def merged(self, grid: tuple[int, int, int]) -> tuple[int, int]:
        """A patch grid as the projector's grid of tokens (h, w)."""
        return self.architecture.merged(self.config, grid)

    def tokens(self, grid: tuple[int, int, int]) -> int:
        """How many tokens of an image of this patch grid the language model sees."""
        h, w = self.merged(grid)
        return h * w + self.architecture.beside_grid if self.reducer is None else self.reducer.count(h, w)

    def reduces(self, grid: tuple[int, int, int]) -> str | None:
        """How the tokens of an image of this patch grid are made fewer or others; None: they are left alone, bit for bit."""
        import torch

        h, w = self.merged(grid)
        trained = isinstance(self.reducer, torch.nn.Module)
        if self.reducer is None or (not trained and self.reducer.count(h, w) == h * w):
            return None
        rule = getattr(self.reducer, "rule", None)
        return type(self.reducer).__name__ + ("" if rule is None else f" {rule.value}")

    def sampled(self, clip: Clip) -> Sampled:
        """What is shown of a clip. Raises `BadRecord` for one that the processor does not take, `ModelError` where no video is."""
        if self.clips is None:
            raise ModelError(f"data: {clip.source} is a clip, and the model takes pictures alone. Choose a model of Qwen-VL.")
        if not self.untouched:
            raise ModelError(
                f"data: {clip.source} is a clip, and only pictures are made fewer tokens of or attended to from beside. Choose "
                "vision_tokens=native (or resize) and conditioning=prefix."
            )
        return self.clips.sampled(self.processor, clip)

    def written(self, medium: Medium) -> str | None:
        """What stands in a prompt for a clip, or for a picture that is cut in tiles; None of others."""
        if not isinstance(medium, Clip):
            return self.architecture.written(self.processor, size_of(medium)) if self.architecture.tiled else None
        sampled = self.sampled(medium)
        assert self.clips is not None
        return self.clips.written(self.processor, sampled)

    def plain(self, medium: Medium, processor: Any) -> Any:
        """An image or a clip as the processor of Transformers alone takes it."""
        if isinstance(medium, Picture):
            return decode(medium)
        assert self.clips is not None
        return self.clips.frames(processor, medium, self.clips.sampled(processor, medium))

    def runs(self, medium: Medium) -> int:
        """How many runs of tokens a clip or a picture is in a prompt; 0 for one that its placeholder stands for."""
        if not isinstance(medium, Clip):
            return self.architecture.tiles(self.check(medium)) if self.architecture.tiled else 0
        return 0 if self.clips is None else self.clips.runs(self.sampled(medium).grid)

    def check(self, picture: Medium) -> tuple[int, int, int]:
        """The patch grid of an image of this size, or of a clip. Raises `BadRecord` if the processor does not take it, or a picture only at
        more tokens than `vision_tokens.budget`.
        """
        if isinstance(picture, Clip):
            return self.sampled(picture).grid
        size = size_of(picture)
        try:
            grid = self.architecture.grid(self.processor, self.config, size)
        except ValueError as error:
            reason = f"the checkpoint's image processor does not take its {size[0]} x {size[1]} pixels ({error})"
            raise BadRecord(picture.source, reason) from None
        if self.budget is not None and self.tokens(grid) > self.budget:
            reason = (
                f"vision_tokens.budget={self.budget}: the checkpoint's image processor makes {self.tokens(grid)} tokens of its "
                f"{size[0]} x {size[1]} pixels whatever it is told; ask for at least so many, or choose another vision_tokens option"
            )
            raise BadRecord(picture.source, reason)
        return grid

    def picture(self, picture: Medium) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Decode and process one image or clip. Raises `BadRecord` for one that `decode` or `check` refuses."""
        return self.pictures([picture])[0]

    def pictures(self, media: Sequence[Medium]) -> list[tuple[torch.Tensor, tuple[int, int, int]]]:
        """The same of several, the images by one call of the image processor."""
        images = {place: decode(picture) for place, picture in enumerate(media) if not isinstance(picture, Clip)}
        for place, image in images.items():
            self.check(replace(media[place], crop=None, size=image.size))
        made = dict(zip(images, zip(*self.pixels(list(images.values())), strict=True), strict=True)) if images else {}
        return [self.clip(medium) if isinstance(medium, Clip) else made[place] for place, medium in enumerate(media)]

    def clip(self, clip: Clip) -> tuple[torch.Tensor, tuple[int, int, int]]:
        """Decode and process one clip."""
        sampled = self.sampled(clip)
        assert self.clips is not None
        return self.clips.pixels(self.processor, clip, sampled), sampled.grid
