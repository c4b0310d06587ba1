"""What was asked: ids, clusters, groups and truth of a predictions file, derived once for all arms that were asked the same."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.host.files import text_hash
from lab.report.kinds import page_of
from lab.statistics.metrics import KINDS, columns
from lab.statistics.resampling import clusters

INDEX = ("sample_id", "image_set", "question_group", "subset")


@dataclass(frozen=True, eq=False)
class QuestionSet:
    """The questions of one split in the order scored.

    columns: `INDEX` and the truth, as read. table: the same with image sets and sentence groups numbered, which metrics read faster.
    cluster: number of each example's cluster, as `resampling.clusters` has it. subsets: names, and each example's place
    among them (-1: none). content: digest of ids with truths, in any order; order: digest of the ids in this order.
    chance: what guessing gives, by metric. baseline: what always giving one answer is called, and its metrics.
    """

    columns: pa.Table
    table: PredictionTable
    cluster: np.ndarray
    subsets: tuple[tuple[str, ...], np.ndarray]
    content: str
    order: str
    chance: dict[str, float]
    baseline: tuple[str, dict[str, float]]


class Reader:
    """Reads predictions files one after another; what was asked is derived anew only where it changes."""

    def __init__(self) -> None:
        self._known: QuestionSet | None = None

    def read(self, path: Path) -> tuple[QuestionSet, PredictionTable, np.ndarray]:
        """Give what was asked, the table with the columns that a report needs, and the tokens of all images, flat."""
        answers = predictions.read(path, columns(lambda kind: page_of(kind.name).measured))
        index = (*INDEX, KINDS[answers.kind].truth)
        rows = predictions.arrow(path, [*index, "visual_tokens"])
        asked, tokens = rows.select(index), rows.column("visual_tokens").combine_chunks()
        if self._known is None or not asked.equals(self._known.columns):
            self._known = derive(asked, predictions.read(path, (*index, *page_of(answers.kind).baseline_needs)))
        table = answers.replace(**{name: getattr(self._known.table, name) for name in index})
        return self._known, table, np.asarray(tokens.flatten())


def derive(asked: pa.Table, table: PredictionTable) -> QuestionSet:
    """Number, cluster and digest the questions of one file."""
    kind, ids = KINDS[table.kind], table.sample_id.tolist()
    truths = getattr(table, kind.truth).tolist()
    subsets, place = np.unique(np.array([name or "" for name in table.subset.tolist()], dtype=np.str_), return_inverse=True)
    if subsets[0] == "":
        subsets, place = subsets[1:], place - 1
    numbered = {name: np.unique(getattr(table, name), return_inverse=True)[1] for name in ("image_set", "question_group")}
    return QuestionSet(
        columns=asked,
        table=table.replace(**numbered),
        cluster=clusters(table),
        subsets=(tuple(subsets.tolist()), place),
        content=text_hash(*sorted(f"{name}\0{truth}" for name, truth in zip(ids, truths, strict=True)), digits=16),
        order=text_hash(*ids, digits=16),
        chance={name: metric.chance(table) for name, metric in kind.metrics.items() if metric.chance},
        baseline=page_of(table.kind).baseline(table),
    )
