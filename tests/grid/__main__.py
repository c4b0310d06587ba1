"""python -m grid: run the pairwise grid of options; exit code 1 if a row fails or too many are refused."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from tqdm import tqdm

from grid import rows as gridding
from grid.commands import FAILED, FINISHED, REFUSED, Verdict
from grid.drawing import draw
from grid.workers import run_all

MOST_REFUSED = 0.15
"""Share of the rows that may be refused."""


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(prog="python -m grid", description=__doc__)
    made.add_argument("--seed", type=int, default=0, help="of the order of dimensions and values (default: 0)")
    made.add_argument("--rows", metavar="A:B", default=":", help="only these rows, as a slice (default: all)")
    made.add_argument("--jobs", type=int, default=2, help="processes (default: 2)")
    made.add_argument("--slice", action="store_true", help="only the rows that CI runs, which hold every choice once")
    made.add_argument("--refused", action="store_true", help="only rows that must be refused: every refused pair alone, beside defaults")
    made.add_argument("--out", type=Path, default=Path("grid.json"), help="the verdicts as JSON (default: grid.json)")
    made.add_argument("--keep", type=Path, help="keep the run folders here")
    return made


def main() -> int:
    """Run and tell."""
    given = (door := parser()).parse_args()
    if given.keep is not None and given.keep.exists() and any(given.keep.iterdir()):
        door.error(f"--keep {given.keep}: the folder is not empty, and another grid's runs would lie among its. Name a new one.")
    asked = gridding.each_refused() if given.refused else gridding.single() if given.slice else gridding.grid(given.seed)
    first, _, last = given.rows.partition(":")
    asked = asked[int(first) if first else None : int(last) if last else None]
    root = given.keep or Path(tempfile.mkdtemp(prefix="lab-grid-"))
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
    try:
        draw(root)
        verdicts = show(asked, root, given.jobs, given.out)
    finally:
        if given.keep is None:
            shutil.rmtree(root, ignore_errors=True)
    print(table(verdicts))
    return int(not passed(verdicts, all_refused=given.refused))


def show(asked: list[dict[str, str]], root: Path, jobs: int, out: Path) -> list[Verdict]:
    """Run rows under a bar, and keep the verdicts in a file as they come."""
    kept: dict[int, Verdict] = {}
    counts: Counter[str] = Counter()
    with tqdm(total=len(asked), unit="row") as bar:

        def ended(number: int, verdict: Verdict) -> None:
            kept[number] = verdict
            counts[verdict.outcome] += 1
            bar.set_postfix(counts, refresh=False)
            bar.update()
            if verdict.outcome == FAILED:
                bar.write(f"row {number}: {verdict.told[:200]}")
            out.write_text(json.dumps([asdict(one) for _, one in sorted(kept.items())], indent=1))

        return run_all(asked, root, jobs, ended)


def table(verdicts: list[Verdict]) -> str:
    """Counts, every refusal's sentence, every failure's reason with the command that shows it."""
    counts = Counter(verdict.outcome for verdict in verdicts)
    lines = [f"rows {len(verdicts)}", *(f"{outcome:<9} {counts[outcome]:>4}" for outcome in (FINISHED, REFUSED, FAILED))]
    for outcome in (REFUSED, FAILED):
        for sentence, count in Counter(one.told for one in verdicts if one.outcome == outcome).most_common():
            lines.append(f"{outcome} {count:>3} x  {sentence[:400]}")
    for verdict in verdicts:
        if verdict.outcome == FAILED:
            lines.append("python -m lab.train " + " ".join(f"'{one}'" if "(" in one else one for one in verdict.arguments))
    return "\n".join(lines)


def passed(verdicts: list[Verdict], all_refused: bool) -> bool:
    """Whether no row failed and few enough were refused. all_refused: they were meant to be."""
    outcomes = Counter(verdict.outcome for verdict in verdicts)
    if all_refused:
        return outcomes[REFUSED] == len(verdicts)
    return not outcomes[FAILED] and outcomes[REFUSED] <= MOST_REFUSED * len(verdicts)


if __name__ == "__main__":
    sys.exit(main())
