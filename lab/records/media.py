"""Pictures and clips, not yet decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class Picture:
    """One image, not yet decoded.

    source: a file path, or `table#row/column` for an image inside a table: what an error names.
    data: the encoded bytes when the image lives in a table; None: `source` is a file to read.
    crop: (left, upper, right, lower) in pixels of the decoded image, or None for all of it.
    size: (width, height) in pixels of the decoded image before the crop, where it is known.
    """

    source: str
    data: bytes | None = field(default=None, repr=False)
    crop: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = field(default=None, compare=False, repr=False)


class Footage(NamedTuple):
    """What a clip holds. frames: how many. fps: of them a second. size: (width, height) [px] of a frame, upright."""

    frames: int
    fps: float
    size: tuple[int, int]

    @property
    def seconds(self) -> float:
        """How long it lasts."""
        return self.frames / self.fps


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames of a clip are shown, and how large: `data.video`, whose meaning to each family stands in `conf/data/video.yaml`.

    fps: so many frames a second, num_frames: so many in all; exactly one is given. min_frames, max_frames: bounds of what fps gives.
    max_pixels: the most of the video processor's own budget; None: the checkpoint's.
    """

    fps: float | None = 2.0
    num_frames: int | None = None
    min_frames: int = 4
    max_frames: int = 768
    max_pixels: int | None = None


@dataclass(frozen=True, slots=True)
class Clip:
    """One video, not yet decoded.

    source: a file path, or `table#row/column` for a video inside a table: what an error names.
    data: the encoded bytes when the video lives in a table; None: `source` is a file to read.
    frames: in place of a video file, picture files of its frames in order; times: the second of each, from 0 upwards.
    footage: what it holds, where it is known.
    """

    source: str
    data: bytes | None = field(default=None, repr=False)
    frames: tuple[str, ...] = ()
    times: tuple[float, ...] = ()
    sampling: Sampling = Sampling()
    footage: Footage | None = field(default=None, compare=False, repr=False)


Medium = Picture | Clip
"""What a sample shows."""
