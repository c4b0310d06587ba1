"""Which pairs of choices have finished at a commit: `python -m grid.baseline VERDICTS.json ...` writes them beside this file.

A pair has finished if a row that holds it has finished and was verified. Kept are the choices that there were and the pairs of
them that have not finished: few.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from grid.commands import FINISHED
from grid.dimensions import Row
from grid.rows import Pair, pairs_of

KEPT = Path(__file__).with_name("finished_pairs.json")


def summarised(rows: Sequence[tuple[Row, str]]) -> dict[str, object]:
    """Rows with their outcomes as what is kept."""
    values: dict[str, list[str]] = {}
    finished: set[Pair] = set()
    for row, outcome in rows:
        for dimension, name in row.items():
            values.setdefault(dimension, [])
            values[dimension] += [name] if name not in values[dimension] else []
        finished |= pairs_of(row) if outcome == FINISHED else set()
    missing = sorted(sorted(pair) for pair in every(values) - finished)
    return {"rows": len(rows), "values": values, "unfinished": [[list(member) for member in pair] for pair in missing]}


def every(values: dict[str, list[str]]) -> set[Pair]:
    """Every pair of values of two dimensions."""
    members = [[(dimension, name) for name in names] for dimension, names in values.items()]
    return {frozenset(pair) for a, b in itertools.combinations(members, 2) for pair in itertools.product(a, b)}


def finished_pairs() -> set[Pair]:
    """The pairs that have finished, as kept."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    return every(kept["values"]) - {frozenset(tuple(member) for member in pair) for pair in kept["unfinished"]}


if __name__ == "__main__":
    verdicts = [one for path in sys.argv[1:] for one in json.loads(Path(path).read_text(encoding="utf-8"))]
    KEPT.write_text(json.dumps(summarised([(one["row"], one["outcome"]) for one in verdicts])) + "\n", encoding="utf-8")
