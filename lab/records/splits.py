"""What a data set gives: its splits, what of it was left out, and what is mixed in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from lab.records.answers import TRUE_FALSE, AnswerSpace
from lab.records.samples import Sample

if TYPE_CHECKING:
    from lab.config import DataDial


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
