"""Which pairs of choices have finished at a commit: `python -m grid.baseline VERDICTS.json ...` writes them beside this file.

A pair has finished if a row that holds it has finished and was verified. Kept are these rows, each as the places of its values.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from grid.commands import FINISHED
from grid.dimensions import Row
from grid.rows import Pair, pairs_of

KEPT = Path(__file__).with_name("finished_pairs.json")


def summarised(rows: Sequence[Row]) -> dict[str, object]:
    """Rows as what is kept."""
    values: dict[str, list[str]] = {}
    for row in rows:
        for dimension, name in row.items():
            known = values.setdefault(dimension, [])
            known += [name] if name not in known else []
    return {"values": values, "rows": [[known.index(row[dimension]) for dimension, known in values.items()] for row in rows]}


def finished_pairs() -> set[Pair]:
    """The pairs that have finished, as kept."""
    kept = json.loads(KEPT.read_text(encoding="utf-8"))
    rows = [{name: known[at] for (name, known), at in zip(kept["values"].items(), places, strict=True)} for places in kept["rows"]]
    return set().union(*map(pairs_of, rows))


if __name__ == "__main__":
    verdicts = [one for path in sys.argv[1:] for one in json.loads(Path(path).read_text(encoding="utf-8"))]
    finished = [one["row"] for one in verdicts if one["outcome"] == FINISHED]
    KEPT.write_text(json.dumps(summarised(finished)) + "\n", encoding="utf-8")
