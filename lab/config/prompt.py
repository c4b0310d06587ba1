"""The dial `prompt`: how a question is put, and how what is written in answer is read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from lab.config.missing import MISSING


class ImageOrder(Enum):
    fixed = "fixed"
    swap = "swap"
    random = "random"


@dataclass
class PromptDial:
    """How the question is put, and how a written answer is read.

    template: holds `{statement}` once where data state something, or `{question}` where they ask. answer_true, answer_false: the words
    of a True/False question; any other options are their own words. post: of written answers, a rule of `lab.answers.normalise`.
    boxes: how a box is written, a format of `lab.answers.box_formats`; None: as the model's family learned it.
    """

    name: str = MISSING
    version: int = 1
    system: str | None = None
    template: str = MISSING
    template_file: str | None = None
    separator: str = "\n"
    answer_true: str = "True"
    answer_false: str = "False"
    numbered: bool = False
    image_order: ImageOrder = ImageOrder.fixed
    post: str = "none"
    boxes: str | None = None

    @property
    def words(self) -> dict[str, str]:
        """How the options of a True/False question are written, by key."""
        return {"prompt.answer_true": self.answer_true, "prompt.answer_false": self.answer_false}
