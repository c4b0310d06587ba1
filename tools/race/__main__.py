"""python -m tools.race [WORLD ...]: races of simulated arms, decided as sweep.race=stop decides them.

    python -m tools.race --races 1000 --arms 12 --n 400       every world
    python -m tools.race equal --arms 24 --n 2000             one

With OMP_NUM_THREADS=1 1,000 races of 12 arms take 50 s of one core at n = 400 and 110 s at 2,000; more threads wait for one another.

Worlds by what the arms are at the end: equal; noise (apart by what seeds do, 1 point); one+3, one+5, one+10 (one arm so many points
ahead); spread (evenly over 5 points); mixed (so, learning at different speeds); fail (so, a quarter 10 to 20 points lower); plateau
(spread, arms begin to learn after 15 to 50 % of training); cross (an arm of a third of the speed wins by 3 points). What a world
assumes stands in tools/race/worlds.py.
"""

from __future__ import annotations

import argparse
import sys

from lab.cli import bounded, run_cli
from lab.config import RaceSection
from lab.errors import LabError, did_you_mean
from lab.host.progress import Report, bars
from lab.report.summary import table
from lab.statistics.race import NUM_SWAPS, Rule
from tools.race.simulation import HEADER, row, simulate
from tools.race.worlds import BEST, START, WORLDS


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(prog="python -m tools.race", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs="*", metavar="WORLD", help=f"of {', '.join(WORLDS)}; none: all")
    parser.add_argument("--races", type=bounded(int, 1), default=1000, metavar="N", help="races a world (default: 1000)")
    parser.add_argument("--arms", type=bounded(int, 2), default=12, metavar="N", help="arms at the start (default: 12)")
    parser.add_argument("--n", type=bounded(int, 1), default=400, metavar="N", help="questions, in clusters of 4 (default: 400)")
    begin = f"accuracy of all arms before training; they end at up to {BEST} (default: {START})"
    parser.add_argument("--start", type=bounded(float, 0, 1), default=START, metavar="SHARE", help=begin)
    parser.add_argument("--swaps", type=bounded(int, 1), default=NUM_SWAPS, metavar="N", help=f"of the test, a rung (default: {NUM_SWAPS})")
    sys.exit(run_cli(lambda: act(parser.parse_args())))


def act(given: argparse.Namespace) -> int:
    """Simulate and print."""
    section = RaceSection()
    rule = Rule(section.alpha, section.indifference, tuple(section.pace))
    unknown = [name for name in given.worlds if name not in WORLDS]
    if unknown:
        raise LabError(f"{unknown[0]}: there is no such world; legal: {', '.join(WORLDS)}.{did_you_mean(unknown[0], WORLDS)}")
    show: Report = bars()
    rows: list[tuple[str, ...]] = [HEADER]
    for name in given.worlds or WORLDS:
        rows.append(row(name, simulate(name, given.races, given.arms, given.n, section.rungs, rule, given.swaps, given.start, show)))
    asked = f"{given.races:,} races a world, {given.arms} arms, {given.n:,} questions, {given.swaps:,} swaps, from {given.start:.0%} right"
    print(f"{asked}, rungs at {section.rungs} of the steps; ± Monte-Carlo error")
    print("\n".join(table(rows)), flush=True)
    return 0


if __name__ == "__main__":
    main()
