"""How Qwen-VL's families see a clip: which frames, how large, what stands for it in a prompt, and at what times. One class a family.

                    Qwen2-VL                     Qwen2.5-VL                          Qwen3-VL
    frames          evenly from the first,       as Qwen2-VL                         evenly from the first to the last,
                    an even number                                                   an odd number is filled up
    max_pixels      of each frame                of each frame                       of all frames together
    in the prompt   one run of tokens            one run of tokens                   for each two frames their time, as text, and a run
    time            none: one step for each      whole steps of 1 / tokens_per_      in words
                    two frames                   second, so that patches may share one

All merge two frames into one temporal patch. Rules of sampling, resizing and positions are Transformers' own; what its processors
assume where they are not told (24 fps, all frames) is always told here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from lab.data import video
from lab.data.faults import BadRecord
from lab.records import Clip, Footage, Split

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

    from lab.model.architecture import Grid

PAIR = 2
"""Frames in a temporal patch, of all three families."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What a model is shown of a clip. indices: places of the frames. grid: in patches, its t counting pairs of frames."""

    indices: tuple[int, ...]
    footage: Footage
    grid: Grid

    @property
    def step(self) -> float:
        """Seconds from one temporal patch to the next, by the frames' mean rate: Transformers' `second_per_grid_ts`."""
        return PAIR * self.footage.frames / (len(self.indices) * self.footage.fps)

    @property
    def times(self) -> tuple[float, ...]:
        """The second of each temporal patch: between its two frames."""
        places = [*self.indices, *self.indices[len(self.indices) - len(self.indices) % PAIR :]]
        return tuple((one + other) / 2 / self.footage.fps for one, other in zip(places[::2], places[1::2], strict=True))


class Frames(NamedTuple):
    """A clip for Transformers' own processor. frames: uint8 [n, 3, H, W]. metadata: its `VideoMetadata`. size: its pixel budget."""

    frames: torch.Tensor
    metadata: Any
    size: dict[str, int]


@lru_cache(maxsize=4096)
def footage(clip: Clip) -> Footage:
    """`lab.data.video.footage`, looked at once."""
    return video.footage(clip)


class Clips:
    """Of Qwen2-VL. timed: positions count seconds. runs_apart: each temporal patch is a run of tokens by itself, behind its time."""

    timed = False
    runs_apart = False

    def placeholder(self, processor: Any) -> tuple[str, int]:
        """What stands for a clip in a prompt, and its id."""
        return processor.video_token, processor.video_token_id

    def sampled(self, processor: Any, clip: Clip) -> Sampled:
        """What is shown of a clip by its rule. Raises `BadRecord` where it has too few frames for it, or the processor does not take them."""
        held = clip.footage or footage(clip)
        rule, number = clip.sampling, clip.sampling.num_frames
        if number is not None and number > held.frames:
            raise BadRecord(clip.source, f"it holds {held.frames} frames, and data.video.num_frames={number} asks for more")
        from transformers.video_utils import VideoMetadata

        own = copy.copy(processor.video_processor)
        own.min_frames, own.max_frames = rule.min_frames, rule.max_frames
        metadata = VideoMetadata(total_num_frames=held.frames, fps=held.fps, duration=held.seconds)
        indices = tuple(own.sample_frames(metadata, num_frames=number, fps=rule.fps).tolist())
        try:
            height, width = self.resized(own, clip, len(indices), held.size)
        except ValueError as error:
            reason = f"the checkpoint's video processor does not take its {held.size[0]} x {held.size[1]} pixels ({error})"
            raise BadRecord(clip.source, reason) from None
        return Sampled(indices, held, (-(-len(indices) // PAIR), height // own.patch_size, width // own.patch_size))

    def area(self, processor: Any, clip: Clip) -> tuple[int, int]:
        """The least and most pixels that a clip, or each frame of it, is resized to."""
        least, most = processor.size["shortest_edge"], clip.sampling.max_pixels or processor.size["longest_edge"]
        return min(least, most), most

    def resized(self, processor: Any, clip: Clip, number: int, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) of a frame as shown. Raises `ValueError` for one 200 times as long as wide."""
        from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize

        return smart_resize(size[1], size[0], processor.patch_size * processor.merge_size, *self.area(processor, clip))

    def pixels(self, processor: Any, clip: Clip, sampled: Sampled) -> torch.Tensor:
        """Patches float32 of a clip's frames, which are decoded for it. Raises `BadRecord`."""
        shown = self.frames(processor, clip, sampled)
        out = processor.video_processor(
            videos=[shown.frames],
            do_sample_frames=False,
            size=shown.size,
            cap_pixels_per_frame=False,
            input_data_format="channels_first",
            return_tensors="pt",
        )
        assert tuple(out["video_grid_thw"][0].tolist()) == sampled.grid
        return out["pixel_values_videos"]

    def frames(self, processor: Any, clip: Clip, sampled: Sampled) -> Frames:
        """The frames that are shown, decoded. Raises `BadRecord`."""
        import torch
        from transformers.video_utils import VideoMetadata

        held, (least, most) = sampled.footage, self.area(processor.video_processor, clip)
        frames = torch.from_numpy(video.read(clip, sampled.indices)).permute(0, 3, 1, 2)
        metadata = VideoMetadata(held.frames, held.fps, duration=held.seconds, frames_indices=list(sampled.indices))
        return Frames(frames, metadata, {"shortest_edge": least, "longest_edge": most})

    def written(self, processor: Any, sampled: Sampled) -> str:
        """What replaces the placeholder in a prompt's text: a placeholder for each run of tokens."""
        return self.placeholder(processor)[0]

    def runs(self, grid: Grid) -> int:
        """How many runs of tokens a clip of this grid is in a prompt."""
        return grid[0] if self.runs_apart else 1

    def settings(self, processor: Any) -> dict[str, Any]:
        """What the video processor does, as plain values; sampling and pixel budget are each clip's."""
        own = processor.video_processor
        keys = ("patch_size", "temporal_patch_size", "merge_size", "image_mean", "image_std")
        keys += ("do_rescale", "rescale_factor", "do_normalize", "do_resize")
        size = {key: own.size[key] for key in ("shortest_edge", "longest_edge")}
        return {"class": type(own).__name__, **{key: getattr(own, key) for key in keys}, "size": size, "resample": int(own.resample)}

    def shared_times(self, config: PretrainedConfig, sampled: Sampled) -> int:
        """How many temporal patches stand at the time of the one before."""
        return 0


class TimedClips(Clips):
    """Of Qwen2.5-VL."""

    timed = True

    def shared_times(self, config: PretrainedConfig, sampled: Sampled) -> int:
        step = config.vision_config.tokens_per_second * sampled.step
        return sampled.grid[0] - len({int(place * step) for place in range(sampled.grid[0])})


class CaptionedClips(Clips):
    """Of Qwen3-VL."""

    runs_apart = True

    def resized(self, processor: Any, clip: Clip, number: int, size: tuple[int, int]) -> tuple[int, int]:
        from transformers.models.qwen3_vl.video_processing_qwen3_vl import smart_resize

        least, most = self.area(processor, clip)
        factor = processor.patch_size * processor.merge_size
        return smart_resize(number, size[1], size[0], PAIR, factor, least, most)

    def written(self, processor: Any, sampled: Sampled) -> str:
        frame = processor.vision_start_token + processor.video_token + processor.vision_end_token
        return "".join(f"<{second:.1f} seconds>{frame}" for second in sampled.times)


def clips_of(splits: Iterable[Split]) -> Iterator[Clip]:
    """Each clip of some splits once; of those that are too many to be looked at before training (`Split`) none."""
    seen: set[str] = set()
    for split in (each for each in splits if not getattr(each, "digest", "")):
        for index in range(len(split)):
            for medium in split.index(index).images:
                if isinstance(medium, Clip) and medium.source not in seen:
                    seen.add(medium.source)
                    yield medium


def remarks(clips: Iterable[Clip], seen: Clips, processor: Any, config: PretrainedConfig) -> list[str]:
    """What a user would not expect of how some clips are sampled: an fps without effect, and times that are not told apart."""
    number, bounded, shared = 0, 0, 0
    for clip in clips:
        sampled = seen.sampled(processor, clip)
        number += 1
        bounded += changes_nothing(clip, sampled.footage)
        shared += seen.shared_times(config, sampled) > 0
    told = []
    if bounded:
        told.append(
            f"data.video.fps changes nothing for {bounded:,} of {number:,} clips: data.video.min_frames, data.video.max_frames or how many "
            "frames they hold decide in its place"
        )
    if shared:
        told.append(
            f"{shared:,} of {number:,} clips have temporal patches at the time of the one before, since the model counts whole steps of "
            f"1/{config.vision_config.tokens_per_second} second: give a lower data.video.fps, or it cannot tell these frames apart in time"
        )
    return told


def changes_nothing(clip: Clip, held: Footage) -> bool:
    """Whether the fps asked for is without effect on a clip: its bounds, or how many frames it has, decide in its place."""
    rule = clip.sampling
    if rule.fps is None:
        return False
    return not min(rule.min_frames, held.frames) <= held.seconds * rule.fps <= min(rule.max_frames, held.frames)
