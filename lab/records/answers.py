"""What is right: an answer of each kind, and what all questions of a data set are answered with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple


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

    kind: of `Answer`. options: of a `Choice`, all that any question has, each once; else (). aliases: of `Regions`, pairs of a label that is
    predicted and the class that it is read as.
    """

    kind: str = Choice.kind
    options: tuple[str, ...] = Choice.truth(True).options
    aliases: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, answers: Iterable[Answer], aliases: Mapping[str, str] | None = None) -> AnswerSpace:
        """That of some answers; `Text` of none."""
        answers = list(answers)
        options = tuple(dict.fromkeys(option for answer in answers if isinstance(answer, Choice) for option in answer.options))
        kind = Choice.kind if options else next((answer.kind for answer in answers), Text.kind)
        return cls(kind, options, tuple(sorted((aliases or {}).items())))


TRUE_FALSE = AnswerSpace()
