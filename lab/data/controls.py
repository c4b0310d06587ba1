"""Controls: the same questions with the evidence taken away. A model that still does well is not looking.

    blank       every image is replaced by a grey one of its own size
    shuffled    every image set gets the images of another one (a seeded derangement)
    text_only   no image at all
"""

from __future__ import annotations

import io
import random
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from lab.data import video
from lab.data.images import decode
from lab.errors import ConfigError, did_you_mean
from lab.records import Clip, Footage, Medium, Picture, Sample, Split

CONTROLS = ("blank", "shuffled", "text_only")
GREY = (128, 128, 128)


class AlteredSplit:
    """A split's ids and length; a subclass says what becomes of each sample."""

    def __init__(self, split: Split) -> None:
        self.split = split

    @property
    def sample_ids(self) -> Sequence[str]:
        return self.split.sample_ids

    def __len__(self) -> int:
        return len(self.split)


class ControlSplit(AlteredSplit):
    """A split whose samples keep id, text and label and lose their images as `control` says."""

    def __init__(self, split: Split, control: str, seed: int = 0) -> None:
        if control not in CONTROLS:
            hint = did_you_mean(control, CONTROLS)
            raise ConfigError(f"evaluation.controls: {control!r} is no control.{hint} Legal: {', '.join(CONTROLS)}.")
        super().__init__(split)
        self.control = control
        self.donors = donors(split, seed) if control == "shuffled" else []

    def index(self, index: int) -> Sample:
        sample = self.split.index(index)
        return without_images(sample) if self.control == "text_only" else sample

    def __getitem__(self, index: int) -> Sample:
        sample = self.split[index]
        match self.control:
            case "blank":
                return replace(sample, images=tuple(blank(picture) for picture in sample.images))
            case "shuffled":
                return replace(sample, images=self.split[self.donors[index]].images)
            case _:
                return without_images(sample)


def without_images(sample: Sample) -> Sample:
    """The sample with its words alone."""
    turns = tuple(replace(turn, parts=tuple(part for part in turn.parts if isinstance(part, str))) for turn in sample.turns)
    return replace(sample, images=(), turns=turns)


def blank(picture: Medium) -> Medium:
    """A grey image of the same size; of a clip one of as many frames, as fast and sampled as it is."""
    if isinstance(picture, Clip):
        held = video.footage(picture)
        return replace(picture, source=f"blank {held}", data=grey_clip(held), frames=(), times=(), footage=held)
    width, height = decode(picture).size
    return Picture(f"blank {width}x{height}", grey(width, height))


@lru_cache(maxsize=64)
def grey(width: int, height: int) -> bytes:
    """A grey PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (width, height), GREY).save(buffer, format="PNG")
    return buffer.getvalue()


@lru_cache(maxsize=64)
def grey_clip(held: Footage) -> bytes:
    """A grey clip."""
    width, height = held.size
    return video.encode(np.broadcast_to(np.full((height, width, 3), GREY, dtype=np.uint8), (held.frames, height, width, 3)), held.fps)


def donors(split: Split, seed: int) -> list[int]:
    """For every sample one of another image set with as many images: sets are shuffled and each takes the next one's.

    Raises `ConfigError` if there is only one image set.
    """
    members: dict[str, list[int]] = {}
    for index in range(len(split)):
        members.setdefault(split.index(index).image_set, []).append(index)
    sets = sorted(members)
    if len(sets) < 2:
        raise ConfigError("evaluation.controls=[shuffled]: one image set alone cannot be shuffled.")
    random.Random(seed).shuffle(sets)
    given = [0] * len(split)
    for own, other in zip(sets, [*sets[1:], sets[0]], strict=True):
        for k, index in enumerate(members[own]):
            given[index] = members[other][k % len(members[other])]
    return given
