"""What questions about the same images cost where they share the reading of these (`evaluation.shared_prefix`)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from lab.costs.counting import CostModel
from lab.costs.operations import ATTENTION, Work, flops_of
from lab.records import ExampleSize


@dataclass(frozen=True)
class SharedReading:
    """questions: about one set of images, mean. start: `Cost.work` of reading a prompt up to its last image; rest: of one question's tokens
    behind it.
    """

    questions: float
    start: Work
    rest: Work

    @property
    def flops(self) -> float:
        """Of one question, with its share of the reading of its images."""
        return flops_of(self.start).total() / self.questions + flops_of(self.rest).total()


def shared_reading(model: CostModel, size: ExampleSize, own: int, questions: float) -> SharedReading:
    """Of prompts of this size. model: with attention in one operation. own: tokens behind the last image. questions: as there."""
    own = max(1, min(own, size.length - sum(size.tokens) - 1))
    whole, start = model.cost(size).work, model.cost(replace(size, length=size.length - own)).work
    rest = Counter(model.cost(ExampleSize(own, (), (), size.rows)).work)
    attends = "llm", ATTENTION
    rest[attends] = (whole[attends] - start[attends] + rest[attends]) // 2  # own * length, of length^2, (length - own)^2 and own^2
    return SharedReading(questions, start, rest)
