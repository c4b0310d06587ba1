"""The architecture of Qwen-VL: images stand as tokens in the text of a chat, and one decoder reads both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lab.errors import ModelError
from lab.model.clips import Clips, Frames
from lab.model.text_decoder import Placeholders
from lab.records import Batch, Chat, ExampleSize, Media, Tokens

if TYPE_CHECKING:
    import numpy as np
    import torch
    from PIL.Image import Image
    from transformers import PretrainedConfig, ProcessorMixin
    from transformers.utils.generic import ModelOutput

    from lab.model import Vlm
    from lab.model.architecture import Grid, Positions


KNOWN_ROWS = 1024
"""Kinds of rows whose positions are kept at most: some megabytes."""


class QwenVL(Placeholders):
    """`lab.model.architecture.Architecture` of such models: M-RoPE, a chat template, patches that a projector merges.

    A clip is a picture of several temporal patches to the tower, and a kind of its own in the prompt.
    """

    in_prompt = True
    beside_grid = 0
    position_axes = 3
    padding_side = "left"

    def __init__(self, clips: Clips | None = None) -> None:
        """clips: of a family that sees them otherwise than Qwen2-VL."""
        self.of_clips = clips or Clips()

    @property
    def clips(self) -> Clips:
        return self.of_clips

    def processor(self, where: str, config: PretrainedConfig, options: dict[str, Any]) -> ProcessorMixin:
        """The checkpoint's own."""
        from transformers import AutoProcessor

        return AutoProcessor.from_pretrained(where, **options)

    def messages(self, chat: Chat) -> list[dict[str, Any]]:
        """All of them."""
        return list(chat.messages)

    def render(self, processor: Any, messages: Sequence[dict[str, Any]], numbered: bool, generation: bool = True) -> str:
        """The template numbers images by itself. What stands for a clip is written in its place, which a message says under `written`."""
        options: dict[str, Any] = {"tokenize": False, "add_vision_id": numbered}
        text = processor.apply_chat_template(list(messages), add_generation_prompt=generation, **options)
        written = [part["written"] for message in messages for part in message["content"] if "written" in part]
        before, *behind = text.split(self.clips.placeholder(processor)[0]) if written else [text]
        return before + "".join(clip + rest for clip, rest in zip(written, behind, strict=True))

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

    def plain(self, processor: Any, prompts: Sequence[str], chats: Sequence[Chat], images: Sequence[Any]) -> Any:
        """By one call of the processor, which is told each clip's frames and their times."""
        shown = [image for image in images if isinstance(image, Frames)]
        told: dict[str, Any] = {}
        if shown:
            told = {"videos": [each.frames for each in shown], "video_metadata": [each.metadata for each in shown]}
            told["videos_kwargs"] = {"do_sample_frames": False, "size": shown[0].size, "input_data_format": "channels_first"}
        pictures = [image for image in images if not isinstance(image, Frames)]
        return processor(text=list(prompts), images=pictures or None, padding=True, return_tensors="pt", **told)

    def words(self, tokens: Tokens) -> dict[str, Any]:
        """Of a row of several samples with a fourth row of positions, by which Transformers keeps them apart: each counted from 0."""
        import torch

        found = super().words(tokens)
        if tokens.segments and tokens.mask is None:
            counted = torch.cat([torch.arange(length, device=tokens.ids.device) for length in tokens.segments])
            found["position_ids"] = torch.cat([counted[None, None], tokens.positions])
        return found

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

    def seen(self, output: ModelOutput, media: Media) -> dict[str, ModelOutput]:
        """Pictures and clips apart."""
        if not any(media.clips):
            return {"image": output}
        return {
            kind: type(output)(**{name: chosen(value, places) for name, value in output.items() if name in SEPARATE})
            for kind, places in kinds(media.clips).items()
        }

    def inputs(self, vlm: Vlm, batch: Batch) -> dict[str, Any]:
        """Pixels of pictures and of clips apart too."""
        import torch

        given = super().inputs(vlm, batch)
        if batch.media.pixels is None or not any(batch.media.clips):
            return given
        pixels, grids = given.pop("pixel_values"), given.pop("image_grid_thw")
        each = pixels.split(grids.prod(dim=1).tolist())
        for kind, places in kinds(batch.media.clips).items():
            values, grid = ("pixel_values", "image_grid_thw") if kind == "image" else ("pixel_values_videos", "video_grid_thw")
            given |= {values: torch.cat([each[place] for place in places]), grid: grids[places]}
        return given

    def positions(self, vlm: Vlm) -> Positions:
        """M-RoPE."""
        return MRope(vlm.base_model.model.get_rope_index, self.clips)

    def planned_size(self, config: PretrainedConfig, text: int, images: int, tokens: int) -> ExampleSize:
        """Images as square as their number of tokens lets them be."""
        side = config.vision_config.spatial_merge_size
        height = next(h for h in range(math.isqrt(tokens), 0, -1) if tokens % h == 0)
        grid = (1, height * side, tokens // height * side)
        return ExampleSize(text + images * tokens, (grid,) * images, (tokens,) * images)


SEPARATE = ("pooler_output", "deepstack_features")
"""What a tower's output holds for each image by itself; Qwen3-VL's features for several blocks are a list of such."""


def kinds(clips: Sequence[bool]) -> dict[str, list[int]]:
    """The places of pictures and of clips, by Transformers' name of the kind, which has some."""
    places = {kind: [place for place, clip in enumerate(clips) if clip == wanted] for kind, wanted in (("image", False), ("video", True))}
    return {kind: found for kind, found in places.items() if found}


def chosen(value: Any, places: Sequence[int]) -> Any:
    """Those of the images at some places, of what is one tensor an image, or a list of such."""
    return [chosen(each, places) for each in value] if isinstance(value, list) else tuple(value[place] for place in places)


class MRope:
    """Positions int64 [3, B, T] by the model's `get_rope_index`, which reads of a row only where its images stand, their grids and times.

    Rows that agree in these are asked for once; padding gets zeros, as there.
    """

    def __init__(self, rope_index: Callable[..., Any], clips: Clips) -> None:
        self.rope_index, self.clips = rope_index, clips
        self.known: dict[tuple[bytes, bytes, tuple[float, ...]], np.ndarray] = {}

    def __call__(
        self,
        ids: torch.Tensor,
        types: torch.Tensor,
        grids: torch.Tensor | None,
        attention: torch.Tensor | None,
        steps: Sequence[float] = (),
    ) -> torch.Tensor:
        import numpy as np
        import torch

        rows, marks = ids.numpy(), types.numpy()
        real = np.ones_like(rows, dtype=bool) if attention is None else attention.numpy().astype(bool)
        made = np.zeros((3, *rows.shape), dtype=np.int64)
        steps = steps or (0.0,) * (0 if grids is None else len(grids))
        first = 0
        for b, own in enumerate(real):
            types_b = marks[b][own]
            runs = int(((np.diff(types_b, prepend=0) != 0) & (types_b != 0)).sum())
            last = first
            while runs > 0 and grids is not None:
                runs -= self.clips.runs(tuple(grids[last].tolist())) if steps[last] else 1
                last += 1
            made[:, b, own] = self.row(rows[b][own], types_b, None if grids is None else grids[first:last], tuple(steps[first:last]))
            first = last
        return torch.from_numpy(made)

    def row(self, ids: np.ndarray, types: np.ndarray, grids: torch.Tensor | None, steps: tuple[float, ...]) -> np.ndarray:
        """Of one row without padding, int64 [3, T]."""
        import torch

        key = (types.tobytes(), b"" if grids is None else grids.numpy().tobytes(), steps)
        if key not in self.known:
            if len(self.known) == KNOWN_ROWS:
                self.known.clear()
            asked = (torch.from_numpy(ids)[None], torch.from_numpy(types)[None])
            self.known[key] = self.rope_index(*asked, **self.media(grids, steps))[0][:, 0].numpy()
        return self.known[key]

    def media(self, grids: torch.Tensor | None, steps: tuple[float, ...]) -> dict[str, Any]:
        """Grids of pictures and of clips apart, and the times of clips where the rule reads them."""
        places = kinds([step > 0 for step in steps])
        if grids is None or "video" not in places:
            return {"image_grid_thw": grids}
        times = {"second_per_grid_ts": [steps[place] for place in places["video"]]} if self.clips.timed else {}
        return {"image_grid_thw": grids[places["image"]] if "image" in places else None, "video_grid_thw": grids[places["video"]], **times}
