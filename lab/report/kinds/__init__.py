"""What a report says of one kind of answer only, in a file of the kind's name that holds its `PAGE`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lab.statistics.metrics import KINDS

if TYPE_CHECKING:
    from lab.answers.predictions import PredictionTable
    from lab.records import Sample
    from lab.report.confidence_figures import Confidence
    from lab.report.document import Block, Table
    from lab.report.drawing import Picture
    from lab.report.findings import Findings
    from lab.report.measure import Measured


@dataclass(frozen=True)
class KindPage:
    """The parts of a page that a kind of answer fills.

    also: metrics of its own tables, beside those of the main table. paragraphs: metrics whose definitions stand together, in order.
    definitions: further words. shares: numbers with an exact interval, in words.
    baseline: a row that always gives one answer: its name, and its metrics where they say something; baseline_name: in a figure;
    baseline_needs: columns that it reads beside the truth. guessed: what guessing gets, in words.
    reading: how an answer is read and judged, in words, from the config. details: own numbers of an arm, from dev and minival (None, and
    why). confidence: of these, how sure its answers are, or None; compared: what is right against which confidence, in words.
    remarks: what a reader must know first. in_words: of every row of a whole table the reference and what was answered, in words.
    subsets: the headline by subset, or None.
    calibration, diagnostics: own chapters, the first with a function that places a figure by its name. figures: own ones, by names of
    `figure_names`. gallery: shows the samples of some rows, the worst first, from (label, run) of each arm and its table, known: whether
    references are; None: as cards with the answers in words.
    """

    kind: str
    also: tuple[str, ...]
    paragraphs: tuple[tuple[str, ...], ...]
    definitions: tuple[str, ...]
    shares: str
    baseline: Callable[[PredictionTable], tuple[str, dict[str, float]]]
    baseline_needs: tuple[str, ...]
    baseline_name: str
    guessed: str
    reading: Callable[[Mapping[str, Any]], str]
    details: Callable[[PredictionTable, PredictionTable | None, str | None], Any]
    confidence: Callable[[Measured], Confidence | None]
    compared: str
    remarks: Callable[[Sequence[Measured]], list[str]]
    in_words: Callable[[PredictionTable], list[tuple[str, str]]]
    subsets: Callable[[Sequence[Measured]], Table | None]
    calibration: Callable[[Findings, Callable[[str], list[Block]]], list[Block]]
    diagnostics: Callable[[Findings], list[Block]]
    figures: Callable[[Sequence[Measured]], dict[str, Picture]] = lambda measured: {}
    figure_names: tuple[str, ...] = ()
    gallery: Callable[[Sequence[tuple[str, str]], Sequence[PredictionTable], Mapping[int, Sample], bool], list[Block]] | None = None

    @property
    def measured(self) -> tuple[str, ...]:
        """Names of the metrics that a report computes of every arm."""
        return tuple(dict.fromkeys((*KINDS[self.kind].shown, *self.also)))


@cache
def page_of(kind: str) -> KindPage:
    """The page of a kind, imported on first use, since it draws with what measures."""
    return import_module(f"{__name__}.{kind}").PAGE
