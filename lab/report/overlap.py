"""Pictures of the training data that other data have too: how many, which, and each arm's score with them and without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lab.answers import predictions
from lab.data.benchmarks import marks
from lab.errors import LabError
from lab.report.checks import fact
from lab.report.compare import INDEX
from lab.report.document import Block, Bullets, Heading, Mono, Paragraph, Table, Text, Warn
from lab.report.formatting import NONE, count, number
from lab.report.measure import Measured
from lab.report.transfer import Scores
from lab.statistics.metrics import columns
from lab.statistics.resampling import clusters
from lab.store import results

if TYPE_CHECKING:
    from lab.report.findings import Findings

NAMED = 5
"""Most pictures of a data set that the page names; the file has all."""
COLUMNS = ("data", "arm", "pictures", "same pixels", "near-duplicates", "questions about them", "score", "with them, % [95 %]", "without, % [95 %]")
SAYS = (
    "Pictures that are in the training data too, so that an arm may have learned them by heart: with the same pixels, or near-duplicates by a "
    "perceptual hash and colour. The same arms are scored on all questions and without those about such pictures."
)


@dataclass(frozen=True)
class Overlap:
    """What was found of one arm on one data set. path: the file with every question. found: its rows."""

    m: Measured
    data: str
    facts: dict[str, Any]
    path: Path
    found: Sequence[dict[str, str]]


def blocks(findings: Findings) -> list[Block]:
    """The section; nothing where nobody looked."""
    overlaps = [one for name, other in findings.others.items() for one in overlaps_of(other.measured, name)]
    skipped = {
        f"{name}: not looked for in {m.arm.label}: {why}."
        for name, other in findings.others.items()
        for m in other.measured
        if (why := (fact(m.arm, "also", name, "overlap") or {}).get("not_looked"))
    }
    if not overlaps and not skipped:
        return []
    shared = [one for one in overlaps if one.found]
    page: list[Block] = [Heading(2, "Pictures of the training data in other data")]
    page += [Paragraph(SAYS), table_of(shared, findings), *names_of(shared)] if shared else []
    clear = dict.fromkeys(
        f"{one.data}: none of its {count(one.facts['pictures'])} pictures is among the {count(one.facts['train_pictures'])} of the training data."
        for one in overlaps
        if not one.found
    )
    return [*page, *([Bullets(tuple(clear))] if clear else []), *(Warn(said) for said in sorted(skipped))]


def overlaps_of(measured: Sequence[Measured], name: str) -> list[Overlap]:
    """What runs have recorded of it."""
    found = []
    for m in measured:
        path, facts = m.arm.folder / "overlap" / f"{name}.json", fact(m.arm, "also", name, "overlap") or {}
        if "pictures" in facts and path.is_file():
            found.append(Overlap(m, name, facts, path, results.shared_pictures(path)))
    return found


def table_of(shared: Sequence[Overlap], findings: Findings) -> Table:
    """One row an arm and data set."""
    scores = {name: Scores(name, findings.others[name].measured, []) for name in dict.fromkeys(one.data for one in shared)}
    rows: list[tuple[Text, ...]] = []
    for one in shared:
        facts, metric = one.facts, scores[one.data].metric
        both = with_and_without(one, scores[one.data])
        rows.append((
            (Mono(one.data),), (Mono(one.m.arm.label),), count(facts["pictures"]), count(facts["exact"]), count(facts["near"]),
            count(facts["questions"]), metric.header, *both,
        ))  # fmt: skip
    return Table(COLUMNS, tuple(rows), frozenset((2, 3, 4, 5, 7, 8)), runs=tuple((one.m.arm.run.identity,) for one in shared))


def with_and_without(one: Overlap, scores: Scores) -> tuple[str, str]:
    """The score on all questions, and on those about other pictures."""
    table = predictions.read(one.m.path, (*INDEX, *columns()))
    try:
        values, cluster = scores.of(one.m, table), clusters(table)
    except LabError:
        return NONE, NONE
    kept = ~np.isin(table.sample_id, [row["id"] for row in one.found])
    return tuple(written(scores, values[rows], cluster[rows]) for rows in (np.ones(len(table), dtype=bool), kept))  # type: ignore[return-value]


def written(scores: Scores, values: np.ndarray, cluster: np.ndarray) -> str:
    """A mean with its interval; of no question nothing."""
    if not len(values):
        return NONE
    found = marks.told("score", marks.shares(values), np.unique(cluster, return_inverse=True)[1])
    ends = f" [{number(scores.metric, found['score_low'])}, {number(scores.metric, found['score_high'])}]" if "score_low" in found else ""
    return f"{number(scores.metric, found['score'])}{ends} (n = {len(values):,})"


def names_of(shared: Sequence[Overlap]) -> list[Block]:
    """Which pictures they are, the first of each data set, and where the others are named."""
    items: dict[str, Text] = {}
    for one in shared:
        first = {row["picture"]: row for row in one.found}
        for row in list(first.values())[:NAMED]:
            how = "has the pixels of" if row["how"] == "pixels" else "is near"
            items.setdefault(f"{one.data} {row['picture']}", (
                Mono(one.data), ": ", Mono(row["id"]), " ", Mono(row["picture"]), f" {how} ", Mono(row["train_picture"]), " of ", Mono(row["train"]),
            ))  # fmt: skip
        if len(first) > NAMED:
            items.setdefault(one.data, (Mono(one.data), f": {len(first) - NAMED:,} more in ", Mono(str(one.path))))
    return [Bullets(tuple(items.values()))]
