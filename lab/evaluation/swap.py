"""The left/right swap test: does the answer survive showing the two images in the other order?

Swapping the images preserves the label only where the sentence does not say left or right, or where these words are swapped
too. Three groups are reported apart:

    neutral        the sentence names no side; images swapped
    renamed        it does; images swapped and the words with them: the label is preserved
    contradicted   it does; only the images are swapped: the label may change, so agreement is no virtue here

agreement: share of samples whose answer equals that in the original order. accuracy: against the preserved label.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.data.controls import AlteredSplit
from lab.errors import DataError
from lab.records import Prediction, Sample, Split
from lab.statistics.intervals import Interval, interval
from lab.statistics.resampling import clusters

SIDES = {"left": "right", "right": "left"}
WORDS = re.compile(r"\b(left|right)(most)?\b", re.IGNORECASE)


def names_a_side(text: str) -> bool:
    """Whether a sentence says left or right (also leftmost, rightmost).

    >>> names_a_side("The right image shows a cat."), names_a_side("Both images are bright.")
    (True, False)
    """
    return WORDS.search(text) is not None


def swap_words(text: str) -> str:
    """Exchange left and right, keeping capitals.

    >>> swap_words("Left of it, the rightmost cat.")
    'Right of it, the leftmost cat.'
    """

    def other(match: re.Match[str]) -> str:
        word, rest = match.group(1), match.group(2) or ""
        swapped = SIDES[word.lower()]
        return (swapped.upper() if word.isupper() else swapped.capitalize() if word[0].isupper() else swapped) + rest

    return WORDS.sub(other, text)


class SwappedSplit(AlteredSplit):
    """A split, or some of its rows, with the images of every sample reversed, and its side words swapped if `rename`."""

    def __init__(self, split: Split, rename: bool, rows: Sequence[int] | None = None) -> None:
        super().__init__(split)
        self.rename = rename
        self.rows = range(len(split)) if rows is None else rows

    @property
    def sample_ids(self) -> Sequence[str]:
        ids = self.split.sample_ids
        return [ids[row] for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def index(self, index: int) -> Sample:
        return self.turned(self.split.index(self.rows[index]))

    def __getitem__(self, index: int) -> Sample:
        return self.turned(self.split[self.rows[index]])

    def turned(self, sample: Sample) -> Sample:
        """A sample with its images reversed."""
        text = swap_words(sample.text) if self.rename else sample.text
        return replace(sample, images=sample.images[::-1], text=text)


def sided(split: Split) -> list[int]:
    """The rows whose sentence names a side; of the others both passes would ask the same."""
    return [i for i in range(len(split)) if names_a_side(split.index(i).text)]


def by_group(rows: Sequence[int], renamed: Sequence[Prediction], kept: Sequence[Prediction]) -> dict[str, list[Prediction]]:
    """Predictions in the other order, by group; a group without examples is left out.

    rows: what `sided` found. renamed: predictions for the whole split with its images reversed and its side words swapped.
    kept: for those rows alone, with the words kept.
    """
    named = set(rows)
    found = {
        "neutral": [row for i, row in enumerate(renamed) if i not in named],
        "renamed": [row for i, row in enumerate(renamed) if i in named],
        "contradicted": list(kept),
    }
    return {group: members for group, members in found.items() if members}


def summarise(original: PredictionTable, swapped: dict[str, list[Prediction]]) -> dict[str, float]:
    """`swap/<group>_agreement`, `_examples` and, where the label is preserved, `_accuracy`."""
    answers = dict(zip(original.sample_id.tolist(), original.prediction.tolist(), strict=True))
    out: dict[str, float] = {}
    for group, rows in swapped.items():
        table = predictions.table(rows)
        kept = [answers[name] for name in table.sample_id.tolist()]
        out[f"swap/{group}_agreement"] = float((table.prediction == kept).mean())
        out[f"swap/{group}_examples"] = float(len(table))
        if group != "contradicted":
            out[f"swap/{group}_accuracy"] = float(table.correct.mean())
    return out


def agreement(original: PredictionTable, swapped: PredictionTable) -> Interval | None:
    """Share of a group whose swapped answer equals the original one; None for a group that is one cluster.

    It is accuracy against the original answer as the right one. Raises `DataError` for a sample that the original does not have.
    """
    cluster = clusters(swapped)
    if cluster.max() == 0:
        return None
    answers = dict(zip(original.sample_id.tolist(), original.prediction.tolist(), strict=True))
    foreign = [name for name in swapped.sample_id.tolist() if name not in answers]
    if foreign:
        raise DataError(f"swap: {len(foreign)} of its samples are not in the original answers, the first {foreign[0]!r}.")
    wanted = np.array([answers[name] for name in swapped.sample_id.tolist()], dtype=np.int16)
    return interval(swapped.replace(right=wanted), cluster=cluster)
