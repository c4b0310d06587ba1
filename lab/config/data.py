"""The dial `data`: which questions, which views of their pictures, which frames of their clips."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from lab.config.missing import MISSING


class OnBad(Enum):
    fail = "fail"
    skip = "skip"


@dataclass
class Augment:
    """What becomes at random of a training picture and its boxes, another in every epoch (`lab.training.augmentation`).

    crop: least share of the picture's area that is kept, 1: all of it. scale: least and most factor on its sides. flip: probability of a
    mirrored picture. colour: most change of brightness, contrast and saturation. min_area: least share of a box's area that a crop must
    leave of it, or the box goes with its label.
    """

    crop: float = 1.0
    scale: list[float] = field(default_factory=lambda: [1.0, 1.0])
    flip: float = 0.0
    colour: float = 0.0
    min_area: float = 0.5


@dataclass
class VideoSampling:
    """Which frames of a clip are shown, and how large (`lab.records.Sampling`).

    fps: so many frames a second; num_frames: so many in all; both None: 2 a second. min_frames, max_frames: bounds of what fps gives.
    max_pixels: the video processor's budget, of each frame for Qwen2-VL and Qwen2.5-VL, of all frames together for Qwen3-VL; None: the
    checkpoint's.
    """

    fps: float | None = None
    num_frames: int | None = None
    min_frames: int = 4
    max_frames: int = 768
    max_pixels: int | None = None


@dataclass
class DataDial:
    """Which questions. Sizes are numbers of them; None means all there are. rule: how a benchmark scores its answers.

    path, columns, kind, answer_format, allow_shared_images: of `questions`, a file of one's own (`lab.data.sets.questions`). sha256: of that
    file; None: as it is now, which `lab.freezing` writes down, so that a changed file is another run. subset, split, profile: of benchmarks
    (`lab.benchmark_specs`): which questions, and by whose rule replies are marked. question, exif, empty, aliases: of
    `boxes`, a file of boxes (`lab.data.sets.boxes`). parts: of `mixture`, data options in one text each (`lab.data.Option`). max_length:
    most tokens of prompt and answer together, of a sample of train;
    a conversation loses its last turns until it fits. order, questions_per_image: by_image: at most so many questions of one picture, or of
    the same pictures, follow each other in training, as blocks in an order drawn anew each epoch.
    """

    name: str = MISSING
    root: str | None = None
    source: str | None = None
    seed: int = 0
    num_train: int | None = None
    num_minival: int | None = None
    num_dev: int | None = None
    on_bad: OnBad = OnBad.fail
    difficulty: str | None = None
    image_layout: str | None = None
    permutations: int | None = None
    rule: str | None = None
    subset: str | None = None
    split: str | None = None
    profile: str | None = None
    path: str | None = None
    sha256: str | None = None
    columns: dict[str, str] = field(default_factory=dict)
    kind: str | None = None
    answer_format: str | None = None
    allow_shared_images: bool = False
    question: str | None = None
    exif: str | None = None
    empty: str | None = None
    aliases: dict[str, str] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    max_length: int | None = None
    order: str = "random"
    questions_per_image: int = 4
    augment: Augment = field(default_factory=Augment)
    video: VideoSampling = field(default_factory=VideoSampling)
    sources: list[Any] = field(default_factory=list)
    loss_on: str = "every"
