"""What else moved: each trained arm beside its own base on the data that neither was trained on (`evaluation.also`), all in one family of tests.

A cell is one arm on one data set, in the score of its benchmark's rule, or else the headline of its kind of answer. Pairing is by question,
intervals resample clusters, Holm's correction is over all cells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lab.answers.predictions import PredictionTable
from lab.benchmark_specs import SPECS
from lab.data.benchmarks.loading import opened
from lab.data.benchmarks.questions import Question
from lab.errors import LabError
from lab.report import rescoring
from lab.report.checks import fact
from lab.report.compare import Group, beside_bases, paired_members, paired_tables
from lab.report.document import Block, Heading, Mono, Paragraph, Strong, Table, Warn
from lab.report.formatting import NONE, count, number, p_value, percent, points
from lab.report.measure import Measured
from lab.statistics.comparing import Comparison, Paired, aligned, compare_paired, holm
from lab.statistics.intervals import LEVEL
from lab.statistics.marking import RULES
from lab.statistics.metrics import Metric
from lab.statistics.power_analysis import ALPHA, POWER, resolution_of, smallest_detectable
from lab.statistics.resampling import cluster_sums, clusters
from lab.statistics.seeds import NoiseFloor, crossed
from lab.statistics.verdict import Claim, verdict

if TYPE_CHECKING:
    from lab.report.findings import Findings

BASE = "lora=none trainer.max_steps=0"
COLUMNS = (
    "data", "arm", "score", "base → arm, %", "change, points [95 %]", "p, Holm", "smallest detectable, points", "questions / clusters", "verdict",
)  # fmt: skip
SAYS = (
    "Each arm beside its own base as it is, question by question, on data that it was not trained on. A change is told where Holm's p is below "
    f"0.05, the interval of paired cluster resamples excludes 0, and a noise floor between seeds, where one was measured, is exceeded. "
    f"Smallest detectable: what so many questions would have shown with probability {POWER} at Holm's strictest step; what cannot be told may be "
    "as large, and is not shown to be nothing."
)
HELPS, HURTS, UNTOLD = "helps", "hurts", "cannot be told"


@dataclass(frozen=True)
class Cell:
    """An arm on a data set, first, and its base as it is, second.

    smallest: the difference that would have been found with probability `POWER` after the strictest step of Holm, a share.
    """

    arm: str
    data: str
    comparison: Comparison
    claim: Claim
    smallest: float | None
    runs: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """`helps`, `hurts` or `cannot be told`."""
        if not self.claim.claimed:
            return UNTOLD
        return HELPS if self.claim.better == self.arm else HURTS


@dataclass(frozen=True)
class Transfer:
    """cells: by data set, then arm. notes: what could not be compared, or is scored otherwise than one would expect, in sentences."""

    cells: tuple[Cell, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Compared:
    """A cell before its family is known. differences: of each question, the mean over seeds, float [n]; cluster: of each, int [n]."""

    arm: Group
    base: Group
    data: str
    comparison: Comparison
    floor: NoiseFloor | None
    differences: np.ndarray
    cluster: np.ndarray

    def cell(self, holm_p: float, cells: int) -> Cell:
        """It in a family of so many."""
        claim = verdict(self.comparison, self.arm.label, self.base.label, holm_p=holm_p, floor=self.floor)
        return Cell(self.arm.label, self.data, self.comparison, claim, smallest_of(self, cells), self.arm.runs + self.base.runs)


def study_transfer(others: Mapping[str, Findings], num_resamples: int) -> Transfer:
    """Compare every arm with its base on every other data set. others: what is known of each, by its name."""
    found: list[Compared] = []
    notes: list[str] = []
    for name, other in others.items():
        if any(name in (fact(m.arm, "data", "parts") or ()) for m in other.measured):
            continue  # a part of the mixture that was trained on
        pairs = beside_bases(other.compared.groups)
        if not pairs and any(not group.zero_shot for group in other.compared.groups):
            notes.append(f"{name}: the base as it is was not asked it, so nothing is said to have moved. Add the arm {BASE}.")
        scores = Scores(name, other.measured, notes) if pairs else None
        for arm, base in pairs:
            try:
                assert scores is not None
                found.append(compare(arm, base, name, scores, other.compared.floor, num_resamples))
            except LabError as error:
                notes.append(f"{name}: {error}")
    adjusted = holm([one.comparison.p_value for one in found])
    return Transfer(tuple(one.cell(float(p), len(found)) for one, p in zip(found, adjusted, strict=True)), tuple(dict.fromkeys(notes)))


class Scores:
    """What each answer to a data set is worth: marked by its benchmark's rule, where it is one, or else right or wrong in its kind's headline.

    notes: gets a sentence where replies to a benchmark cannot be marked.
    """

    def __init__(self, name: str, measured: Sequence[Measured], notes: list[str]) -> None:
        self.metric, self._marked = measured[0].kind.main, None
        try:
            read: dict[str, list[Question]] = {}
            marked = {m.arm.run.identity: marks_of(m, name, read) for m in measured}
        except LabError as error:
            notes.append(f"{name}: compared in {self.metric.header}, not by the benchmark's rule: {error}")
            return
        if all(marked.values()):
            self._marked = {identity: found[1] for identity, found in marked.items() if found}
            headline = next(found[0] for found in marked.values() if found)
            self.metric = Metric(headline, headline.replace("_", " "), "%", True, lambda table: math.nan, each=lambda table: np.zeros(len(table)))

    def of(self, member: Measured, table: PredictionTable) -> np.ndarray:
        """Of each answer, float [n]. Raises `LabError` for a headline that is no mean over examples."""
        if self._marked is not None:
            scores = self._marked[member.arm.run.identity]
            return np.array([scores[name] for name in table.sample_id.tolist()])
        if self.metric.each is None:
            raise LabError(f"{self.metric.header} is no mean over examples; see what may be claimed of it below.")
        return np.asarray(self.metric.each(table), dtype=np.float64)


def marks_of(m: Measured, name: str, read: dict[str, list[Question]]) -> tuple[str, dict[str, float]] | None:
    """What a benchmark's score is called, and that of each reply by id; None of other data. Raises `LabError` where its files are gone.

    read: questions that were read before, by data option; gets those that are read here.
    """
    for answered, dial, replies in rescoring.answered(m.arm.run, m.arm.folder):
        if answered == name:
            if repr(dial) not in read:
                read[repr(dial)] = opened(dial).questions
            taken = [one for one in read[repr(dial)] if one.name in replies]
            spec, rule = SPECS[dial.name], RULES[SPECS[dial.name].rule]
            marked = {one.name: rule(replies[one.name], one.references, dial.profile or "ours", one.asked).score for one in taken}
            return spec.headline, marked
    return None


def compare(arm: Group, base: Group, name: str, scores: Scores, floor: NoiseFloor | None, num_resamples: int) -> Compared:
    """An arm and its base on one data set, question by question. Raises `LabError` where they cannot be compared."""
    tables: dict[str, PredictionTable] = {}
    sides = paired_tables(arm, base, tables)
    first, cluster = sides[0][0], clusters(sides[0][0])
    values = np.stack([
        [scores.of(member, aligned(first, table)) for member, table in zip(members, side, strict=True)]
        for members, side in zip(paired_members(arm, base), sides, strict=True)
    ])  # [2, S, n]
    rows = np.moveaxis(np.stack([values, np.ones_like(values)], axis=-1), 2, 0)  # [n, 2, S, 2]
    sums = cluster_sums(rows, cluster)
    if values.shape[1] > 1:
        comparison = crossed(sums, scores.metric, len(first), num_resamples=num_resamples, level=LEVEL, seed=0)
    else:
        one, other = values[:, 0] == 1
        discordant = (int((one & ~other).sum()), int((~one & other).sum())) if np.isin(values, (0, 1)).all() else None
        pair = Paired(scores.metric, sums[:, :, 0], np.bincount(cluster), len(first), discordant)
        (comparison,) = compare_paired([pair], num_resamples=num_resamples)
    return Compared(arm, base, name, comparison, floor, values[0].mean(axis=0) - values[1].mean(axis=0), cluster)


def smallest_of(one: Compared, cells: int) -> float | None:
    """See `Cell.smallest`. Where no question tells the two apart it is that of the share that may still do so; None where nobody knows."""
    if one.differences.any():
        return resolution_of(one.differences, one.cluster, alpha=ALPHA / cells).smallest_detectable
    if not one.comparison.has_interval:
        return None
    sizes = np.bincount(one.cluster).tolist()
    return smallest_detectable(len(one.cluster), one.comparison.high, cluster_sizes=sizes, alpha=ALPHA / cells)


def sentence(transfer: Transfer) -> str:
    """`lora.r=8 hurts drawn_charts; 2 of 3 cells cannot be told.`"""
    told = [f"{cell.arm} {cell.verdict} {cell.data}" for cell in transfer.cells if cell.claim.claimed]
    untold = len(transfer.cells) - len(told)
    rest = f"{untold} of {len(transfer.cells)} cells cannot be told" if told else f"None of {len(transfer.cells)} cells can be told"
    return f"{'; '.join([*told, *([rest] if untold else [])])}."


def table_of(transfer: Transfer) -> Table:
    """One row a cell."""
    rows = tuple(
        (
            (Mono(cell.data),), (Mono(cell.arm),), cell.comparison.metric.header,
            f"{number(cell.comparison.metric, cell.comparison.second)} → {number(cell.comparison.metric, cell.comparison.first)}",
            points(cell.comparison.difference, cell.comparison.low, cell.comparison.high),
            p_value(cell.claim.holm_p) if cell.comparison.has_interval else NONE,
            NONE if cell.smallest is None else percent(cell.smallest),
            f"{count(cell.comparison.num_examples)} / {count(cell.comparison.num_clusters)}",
            (Strong(cell.verdict),) if cell.claim.claimed else cell.verdict,
        )
        for cell in transfer.cells
    )  # fmt: skip
    return Table(COLUMNS, rows, frozenset(range(3, 8)), runs=tuple(cell.runs for cell in transfer.cells))


def opening(transfer: Transfer) -> list[Block]:
    """The line for the top of the page; nothing where nothing was compared."""
    return [Paragraph((Strong("Transfer."), f" {sentence(transfer)}"))] if transfer.cells else []


def blocks(transfer: Transfer) -> list[Block]:
    """The section; nothing where nothing was asked."""
    if not transfer.cells and not transfer.notes:
        return []
    page: list[Block] = [Heading(2, "Transfer: what else moved")]
    if transfer.cells:
        page += [Paragraph(sentence(transfer)), table_of(transfer), Paragraph(f"{SAYS} Holm's correction is over {len(transfer.cells)} cells.")]
    return page + [Warn(note) for note in transfer.notes]
