"""Views of training pictures: cropped, scaled, mirrored, in other colours, and their boxes with them (`torchvision.transforms.v2`).

A view depends on seed, epoch and sample alone: arms with one seed see the same ones, and a resumed run goes on with those it would have
seen. What is answered (dev, minival, also the part of train that is watched) is never changed.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from lab.config import Augment
from lab.data.box_file.samples import reading_order
from lab.data.images import decode
from lab.errors import ConfigError
from lab.model.encoded import Example
from lab.model.encoding import Encoder
from lab.records import Picture, Region, Regions, Sample, Split

SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)
RATIO = (3 / 4, 4 / 3)
"""Least and most factor of a crop on the picture's ratio of sides."""


class Views(Dataset[Example]):
    """The samples of a split, seen anew in every epoch: place = epoch * samples + index.

    Raises `ConfigError` where pictures are mirrored and a sample speaks of left or right.
    """

    def __init__(self, split: Split, encoder: Encoder, augment: Augment, seed: int) -> None:
        self.split, self.encoder, self.augment, self.seed = split, encoder, augment, seed
        sided = (sample for i in range(len(split) if augment.flip else 0) if SIDES.search(words(sample := split.index(i))))
        if (sample := next(sided, None)) is not None:
            raise ConfigError(
                f"data.augment.flip={augment.flip:g}: sample {sample.sample_id} speaks of left or right, which a mirrored picture turns round: "
                f"{words(sample)[:80]!r}. Give data.augment.flip=0."
            )

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, place: int) -> Example:
        return self.encoder.example(self.sample(place))

    def sample(self, place: int, pixels: bool = True) -> Sample:
        """A view; without pixels its picture is the one that it is of."""
        epoch, index = divmod(place, len(self.split))
        return view(self.split[index] if pixels else self.split.index(index), self.augment, self.seed, epoch, pixels)

    def targets(self, place: int) -> int:
        """How many tokens are learned of a view."""
        return self.encoder.text(self.sample(place, pixels=False)).targets


def words(sample: Sample) -> str:
    """The question and the labels of a sample."""
    return f"{sample.text} {sample.answer.text}"


def view(sample: Sample, augment: Augment, seed: int, epoch: int, pixels: bool = True) -> Sample:
    """The sample with a picture that was changed at random, and its boxes with it; without pixels only the boxes are the view's."""
    assert isinstance(sample.answer, Regions)
    regions, (width, height) = sample.answer.regions, sample.answer.size
    (picture,) = sample.images
    corners = torch.tensor([region[1:] for region in regions], dtype=torch.float64).reshape(-1, 4)
    boxes = boxes_in(corners, (height, width))
    image: Any = decode(picture) if pixels else None
    digest = hashlib.sha256(f"{seed}/{epoch}/{sample.sample_id}".encode()).digest()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int.from_bytes(digest[:4], "big"))
        kept = range(len(regions))
        if augment.crop < 1:
            place = crop_of(boxes, augment.crop)
            cropped: Any = v2.functional.crop(boxes, **place)
            left = areas(cropped) / areas(boxes)
            kept = [at for at, share in enumerate(left.tolist()) if share >= augment.min_area and share > 0]
            boxes = boxes_in(cropped[kept], cropped.canvas_size)
            image = v2.functional.crop(image, **place) if pixels else None
        for transform in transforms(augment, min(boxes.canvas_size)):
            image, boxes = transform(image, boxes) if pixels else (None, transform(boxes))
    height, width = boxes.canvas_size
    inside = boxes.clamp(torch.zeros(4), torch.tensor([width, height, width, height])).tolist()  # transforms round in float32
    found = [Region(regions[at].label, *box) for at, box in zip(kept, inside, strict=True)]
    answer = Regions(reading_order(found), (width, height))
    shown = picture if image is None else Picture(f"{picture.source} in epoch {epoch}", encoded(image), size=image.size)
    return replace(sample, images=(shown,), answer=answer)


def boxes_in(corners: torch.Tensor, canvas: tuple[int, int]) -> Any:
    """Corners [n, 4] as torchvision's boxes in a picture of (height, width)."""
    made: Any = tv_tensors.BoundingBoxes
    return made(corners, format="XYXY", canvas_size=canvas)


def crop_of(boxes: Any, least: float) -> dict[str, int]:
    """top, left, height and width of a crop of at least such a share of the area."""
    height, width = boxes.canvas_size
    ratio = (width / height * RATIO[0], width / height * RATIO[1])
    return v2.RandomResizedCrop(1, scale=(least, 1.0), ratio=ratio).make_params([boxes])


def areas(boxes: torch.Tensor) -> torch.Tensor:
    """Area of each box, px² [n]."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def transforms(augment: Augment, shorter: int) -> list[Any]:
    """What comes after the crop. shorter: side of the picture, px."""
    found: list[Any] = []
    if augment.scale != [1.0, 1.0]:
        least, most = (max(1, round(shorter * factor)) for factor in augment.scale)
        found.append(v2.RandomResize(least, most + 1, antialias=True))
    if augment.flip:
        found.append(v2.RandomHorizontalFlip(augment.flip))
    if augment.colour:
        found.append(v2.ColorJitter(augment.colour, augment.colour, augment.colour))
    return found


def encoded(image: Any) -> bytes:
    """A picture as a file that holds every pixel and is made at once."""
    out = io.BytesIO()
    image.save(out, format="BMP")
    return out.getvalue()
