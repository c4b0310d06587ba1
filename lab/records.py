"""The records that cross the borders between the laboratory's rooms.

    Sample      data -> prompt          one question with its images and its answer
    Chat        prompt -> model         the messages for the checkpoint's own chat template
    Batch       data -> training        prompts, images and what is to be predicted
    Prediction  evaluation -> report    what the model said of one sample; every metric is a function of it

Shapes: B samples in a batch, T tokens of the longest prompt, A of the longest answer, N images in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

if TYPE_CHECKING:
    import torch

    from lab.config import DataDial


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


@dataclass(frozen=True, slots=True)
class Choice:
    """The answer to a question with a few options: which of them is right, by place.

    binary: there are two, so that P(True) exists, the probability of the first. text: the right option.
    """

    kind: ClassVar[str] = "choice"
    right: int
    options: tuple[str, ...] = ("True", "False")

    @classmethod
    def truth(cls, value: bool) -> Choice:
        """The answer to a True/False question."""
        return cls(0 if value else 1)

    @property
    def binary(self) -> bool:
        return len(self.options) == 2

    @property
    def text(self) -> str:
        return self.options[self.right]

    @property
    def key(self) -> str:
        """What a fingerprint hashes: the right option, and all of them where they are not True and False."""
        return self.text if self.options == Choice.truth(True).options else "\x1f".join((self.text, *self.options))


@dataclass(frozen=True, slots=True)
class Text:
    """The answer to an open question, in words of one's own: any of the references is right.

    references: distinct. votes: how many annotators gave each of them, or () where nobody counted.
    """

    kind: ClassVar[str] = "text"
    references: tuple[str, ...]
    votes: tuple[int, ...] = ()

    @property
    def text(self) -> str:
        """The reference that is trained on: the one with most votes, the first of equals."""
        return max(zip(self.votes, self.references, strict=True), key=lambda pair: pair[0])[1] if self.votes else self.references[0]

    @property
    def key(self) -> str:
        """What a fingerprint hashes."""
        return "\x1f".join((*self.references, *map(str, self.votes)))


class Region(NamedTuple):
    """A box with its label: the corners in pixels of the picture as shown, turned by its EXIF tag and cropped; continuous, from 0.

    A reference has x0 <= x1 and y0 <= y1; what a model wrote stands as it was written.
    """

    label: str
    x0: float
    y0: float
    x1: float
    y1: float

    def valid(self, size: tuple[int, int]) -> bool:
        """Whether it has an area and lies inside a picture of this (width, height)."""
        return 0 <= self.x0 < self.x1 <= size[0] and 0 <= self.y0 < self.y1 <= size[1]


@dataclass(frozen=True, slots=True)
class Regions:
    """The answer to where something is in a picture: boxes, in the order that is trained. None is an answer too.

    size: (width, height) of the picture as shown.
    """

    kind: ClassVar[str] = "regions"
    regions: tuple[Region, ...]
    size: tuple[int, int]

    @property
    def text(self) -> str:
        """What is there, without where: the labels."""
        return ", ".join(region.label for region in self.regions) or "none"

    @property
    def key(self) -> str:
        """What a fingerprint hashes."""
        return "\x1f".join(map(str, (*self.size, *(value for region in self.regions for value in region))))


Answer = Choice | Text | Regions


@dataclass(frozen=True, slots=True)
class AnswerSpace:
    """What all questions of a data set are answered with.

    kind: of `Answer`. options: of a `Choice`, all that any question has, each once; else ().
    """

    kind: str = Choice.kind
    options: tuple[str, ...] = Choice.truth(True).options

    @classmethod
    def of(cls, answers: Iterable[Answer]) -> AnswerSpace:
        """That of some answers; `Text` of none."""
        answers = list(answers)
        options = tuple(dict.fromkeys(option for answer in answers if isinstance(answer, Choice) for option in answer.options))
        return cls(Choice.kind if options else next((answer.kind for answer in answers), Text.kind), options)


TRUE_FALSE = AnswerSpace()


@dataclass(frozen=True, slots=True)
class Turn:
    """One message before the answer.

    role: system, user or assistant. parts: what it holds in order, texts and places in `Sample.images`. learned: of the assistant, its
    tokens and the end of the turn are under loss in training, as the answer's are.
    """

    role: str
    parts: tuple[str | int, ...]
    learned: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One question about a few images.

    images: pictures and clips, in the order that the question names them.
    sample_id: unique in its split.
    image_set: samples with one value share images, or a group of a user's file; every interval resamples these clusters.
    question_group: samples with one value share a question; consistency is all-correct per group.
    subset: a part of the split worth its own row (a statement family; balanced / unbalanced), or None.
    turns: of a conversation, all messages before the answer, the last of them the user's, whose words are `text`; else ().
    """

    sample_id: str
    text: str
    images: tuple[Medium, ...]
    answer: Answer
    image_set: str
    question_group: str
    subset: str | None = None
    turns: tuple[Turn, ...] = ()


class Split(Protocol):
    """A read-only sequence of samples whose images are read when a sample is asked for.

    One that has too many to look at all of them before training says so by an attribute `digest`, which names all that it holds.
    """

    @property
    def sample_ids(self) -> Sequence[str]:
        """All ids in order, without touching an image."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...

    def index(self, index: int) -> Sample:
        """A sample whose images are not read: as many, but without their bytes. For what asks for its words, groups or answer."""
        ...


@dataclass(frozen=True, slots=True)
class Skipped:
    """A record left out under `data.on_bad=skip`, and why."""

    source: str
    reason: str


@dataclass(frozen=True, slots=True)
class Source:
    """Rows of train that stand together and are seen as often as each other (`lab.training.ordering.places`).

    name: of the file or data option they come from. size: how many rows. weight: their share of what is seen, beside the weights of all
    other sources; None where none has one: as many places of an epoch as there are rows. epochs: times that each row is seen in one
    epoch of training, 1 where it is None; beside a weight the most of them.
    """

    name: str
    size: int
    weight: float | None = None
    epochs: float | None = None


@dataclass(frozen=True)
class Part:
    """A data option beside others: of a mixture, or asked besides a run's own. What it is called, and how it is put and mixed, says
    `lab.data.Option`.
    """

    name: str
    dial: DataDial
    splits: Splits
    prompt: str | None = None
    weight: float | None = None
    epochs: float | None = None
    cap: int | None = None


@dataclass(frozen=True)
class Splits:
    """What a data set gives: splits named by their purpose.

    train: to learn from. minival: held out of the training data, for early stopping, tuning and
    temperature scaling. dev: what is reported; nothing is ever chosen or fitted on it.
    notes: sentences for the log and the report (counts that differ from the official ones, ...).
    together: the samples of an image set are left out as a whole, as a score is of all of them.
    answers: what the questions of all splits are answered with.
    baselines: what answers without a look at the images score on dev, in the kind's main metric, by name. clips: some are clips.
    sources: whose rows train has, in turn; () where it is one.
    parts: what is mixed in train, each with splits of its own; minival and dev are the first one's. () where nothing is mixed.
    """

    train: Split
    minival: Split
    dev: Split
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    together: bool = False
    answers: AnswerSpace = TRUE_FALSE
    baselines: Mapping[str, float] = field(default_factory=dict)
    clips: bool = False
    sources: tuple[Source, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def kind(self) -> str:
        """What kind of answer the questions have."""
        return self.answers.kind


@dataclass(frozen=True, slots=True)
class Chat:
    """Messages for `apply_chat_template`, and the answer that follows them.

    messages: Transformers' own form, images as `{"type": "image"}` in reading order.
    image_order: the index in `Sample.images` of each image as shown.
    learned: places in `messages` of what the assistant has said that is learned too. interleaved: images stand among the words of a
    message, in their place; else before them.
    """

    messages: tuple[dict, ...]
    answer: str
    image_order: tuple[int, ...]
    learned: tuple[int, ...] = ()
    interleaved: bool = False


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a text model reads.

    ids, mask: int64 [B, T]; mask None: nothing is padding; bool [B, 1, T, T]: which positions each reads.
    positions: int64 [B, T] or [3, B, T] (M-RoPE).
    types: int64 [B, T], 1 where a picture stands, 2 where a clip does, else 0. segments: of one row that holds several samples, or trees of
    them, their lengths in order; else ().
    """

    ids: torch.Tensor
    mask: torch.Tensor | None
    positions: torch.Tensor
    types: torch.Tensor
    segments: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Media:
    """The N images of a batch, in the order shown.

    counts: images of each sample. grids: (h, w) of each image in tokens of the projector, the frames of a clip below each other.
    tokens: of each image that the language model sees, after any reduction. pixels: what the tower takes, by Transformers' names, as if
    all were pictures; features: [tokens, hidden] of each image in its place. Both None: without images, or with features that a cache
    holds. clips: which of the images are clips; () where none is.
    """

    counts: tuple[int, ...]
    grids: tuple[tuple[int, int], ...]
    tokens: tuple[int, ...]
    pixels: dict[str, torch.Tensor] | None = None
    features: tuple[torch.Tensor, ...] | None = None
    clips: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """What is predicted. labels: int64 [B, A], -100 where no loss is taken; None: what follows the prompt, unknown.

    rows: the last positions of every row whose logits are computed. tokens: how many labels count. Labels end together.
    places: of a row that holds several samples, int64 [A], the positions whose logits predict the labels; else None.
    """

    labels: torch.Tensor | None
    rows: int
    tokens: int = 0
    places: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one forward takes, and what it is to predict.

    prompt: padded on the architecture's side; where answers stand inline, with labels, the answer is the last thing in every row.
    answer: of a decoder that answers stand in by themselves, what it reads before each label: its start and the tokens before the last,
    left-padded. shared: with labels, how many tokens begin all rows alike, before any image and any position of `target.rows`.
    media_order: `Chat.image_order` of each sample.
    """

    sample_ids: tuple[str, ...]
    prompt: Tokens
    media: Media
    target: Target
    media_order: tuple[tuple[int, ...], ...]
    shared: int = 0
    answer: Tokens | None = None

    @property
    def targets(self) -> int:
        """How many labels count."""
        return self.target.tokens

    def each(self, act: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The batch with something done to every tensor of it."""
        return on_tensors(act, self)

    def seen(self, features: tuple[torch.Tensor, ...] | None) -> Batch:
        """The batch with features of its images in place of pixels."""
        return replace(self, media=replace(self.media, pixels=None, features=features))

    def pin_memory(self) -> Batch:
        """In page-locked memory, from where a GPU fetches it while it works; torch's DataLoader asks for it by this name."""
        return self.each(lambda tensor: tensor.pin_memory())


@dataclass(frozen=True, slots=True)
class Rows:
    """What one forward takes as rows of unlike lengths, each a batch of one row."""

    batches: tuple[Batch, ...]

    @property
    def sample_ids(self) -> tuple[str, ...]:
        """Of all samples."""
        return tuple(name for batch in self.batches for name in batch.sample_ids)

    @property
    def targets(self) -> int:
        """How many labels count."""
        return sum(batch.targets for batch in self.batches)

    def pin_memory(self) -> Rows:
        """As of a `Batch`."""
        return Rows(tuple(batch.pin_memory() for batch in self.batches))


def on_tensors(act: Callable[[Any], Any], value: Any) -> Any:
    """A value with something done to every tensor in its dataclasses, dicts and tuples."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: on_tensors(act, getattr(value, part.name)) for part in fields(value)})
    if isinstance(value, dict):
        return {key: on_tensors(act, each) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(on_tensors(act, each) for each in value)
    return value if value is None or isinstance(value, int | str) else act(value)


@dataclass(frozen=True, slots=True)
class ExampleSize:
    """How large one example is, without what is in it: what a forward pass costs is a function of it.

    length: positions of the language model, image tokens in the prompt among them; of the prompt alone where answers do not follow it.
    grids: (t, h, w) of each image in patches. tokens: of each image that the language model sees, after any reduction.
    rows: positions whose logits are computed.
    """

    length: int
    grids: tuple[tuple[int, int, int], ...]
    tokens: tuple[int, ...]
    rows: int = 1


@dataclass(frozen=True, slots=True)
class Scored:
    """What a model made of the options of a `Choice`.

    log_p: natural logarithm of the probability mass of each option over its spellings, under the full vocabulary.
    captured_mass: the sum of their probabilities, in [0, 1]. prediction: place of the option that is answered.
    """

    log_p: tuple[float, ...]
    captured_mass: float
    prediction: int

    @classmethod
    def of(cls, log_p: Sequence[float]) -> Scored:
        """What log p of each option comes to."""
        return cls(tuple(log_p), min(1.0, sum(map(math.exp, log_p))), max(range(len(log_p)), key=log_p.__getitem__))


@dataclass(frozen=True, slots=True)
class Written:
    """What a model wrote as a `Text`, and what it made of the reference that is trained on.

    text: as written, without special tokens. post: the rule of `lab.answers.normalise` by which it will be read.
    tokens: how many were written, the end of the turn among them. ended: it was written before the limit of length.
    log_p, log_p_reference: natural logarithm of the probability of all tokens written, and of all `reference_tokens` of the
    reference with its end of the turn. turns_log_p, turns_tokens: the same of each learned turn of a conversation before it.
    """

    text: str
    post: str
    tokens: int
    ended: bool
    log_p: float
    log_p_reference: float
    reference_tokens: int
    turns_log_p: tuple[float, ...] = ()
    turns_tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Located:
    """What a model wrote as `Regions`, and the boxes that it reads as (`lab.answers.regions.read`).

    text: as written, with the tokens that stand for boxes. boxes: the format it was read by (`prompt.boxes`). status: ok, partial (some
    boxes lost), empty (an honest none) or failed (no box). scores: of each region the geometric mean probability of its tokens.
    A click has no box: its regions are points. tokens, ended, log_p: as of `Written`.
    """

    text: str
    boxes: str
    status: str
    regions: tuple[Region, ...]
    scores: tuple[float, ...]
    tokens: int
    ended: bool
    log_p: float


@dataclass(frozen=True, slots=True)
class Replied:
    """What a model wrote that tells no probabilities; fields as of `Written`."""

    text: str
    post: str
    ended: bool


Said = Scored | Written | Located | Replied


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of a run's predictions table.

    visual_tokens: tokens that each image cost, in the order shown; image_order as in `Chat`.
    """

    sample_id: str
    image_set: str
    question_group: str
    subset: str | None
    answer: Answer
    said: Said
    image_order: tuple[int, ...]
    visual_tokens: tuple[int, ...]
