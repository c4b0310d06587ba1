"""What a rule of a benchmark takes and gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from lab.errors import LabError, did_you_mean

PROFILES = ("ours", "lmms", "vlmevalkit")
"""The official or soundest rule; as lmms-eval 0.7.3 marks the same reply; as VLMEvalKit of August 2026 does without a judge."""

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Of the options of a question, in order."""

THOUGHT = ("<think>", "</think>")
ANSWER = ("<answer>", "</answer>")


class Marked(NamedTuple):
    """score: in [0, 1]. read_as: what the reply was read as; None: nothing could be read, which is wrong."""

    score: float
    read_as: str | None


UNPARSED = Marked(0.0, None)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a question says of how its reply is read.

    options: of a multiple choice, in the order of their letters; else (). answer_type: a benchmark's own word for it. precision: decimal
    places of a number.
    """

    options: tuple[str, ...] = ()
    answer_type: str = ""
    precision: int | None = None


PLAIN = Asked()
"""A question that says nothing more."""


class Mark(Protocol):
    """A pure function of a stored reply. references: any of them is right; of a multiple choice the letter."""

    def __call__(self, prediction: str, references: Sequence[str], profile: str = "ours", asked: Asked = ...) -> Marked: ...


@dataclass(frozen=True)
class Rule:
    """A rule under its name. version: raised by one with whatever moves a score. remarks: what a person must know of a profile's number."""

    name: str
    version: int
    mark: Mark
    says: str
    remarks: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, prediction: str, references: Sequence[str], profile: str = "ours", asked: Asked = PLAIN) -> Marked:
        """The score of a reply and what it was read as. Raises `LabError` for a profile that is none."""
        if profile not in PROFILES:
            raise LabError(f"data.profile={profile}: legal values are {', '.join(PROFILES)}.{did_you_mean(profile, PROFILES)}")
        return self.mark(prediction, references, profile, asked)


def final(reply: str) -> str:
    """What a reply says in the end: behind its last thought, and of tagged answers the last; nothing where a thought was cut off."""
    said = reply.rpartition(THOUGHT[1])[2]  # a template may have written where it begins
    if THOUGHT[0] in said:
        return ""
    before, end, _ = said.rpartition(ANSWER[1])
    return (before.rpartition(ANSWER[0])[2] if end else said).strip()
