"""lab bench [KEY=VALUE ...]: how fast the composed config is. Light until it starts to measure."""

from __future__ import annotations

import argparse
import os
import sys

from lab import paths
from lab.cli import bounded, compose, program, run_cli, set_up_logging

DESCRIPTION = """How fast the composed config is: throughput, the parts of a step, the share of the machine's fastest matrix product, and
scoring against generating. Timings mean something on a machine that does nothing else."""


def parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    """The arguments that every benchmark takes."""
    arguments = argparse.ArgumentParser(prog=prog, description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in lab train; one experiment")
    arguments.add_argument("--rounds", type=bounded(int, 1), default=5, metavar="N", help="timed rounds (default: 5)")
    arguments.add_argument("--steps", type=bounded(int, 1), default=6, metavar="N", help="timed optimizer steps in a round (default: 6)")
    arguments.add_argument("--out", type=paths.argument, metavar="FILE", help="write the figures as JSON too")
    arguments.add_argument("--force", action="store_true", help="overwrite FILE")
    return arguments


def main() -> None:
    """Command-line entry point."""
    told = parser(program("lab.bench"), DESCRIPTION)
    told.add_argument("--trees", action="store_true", help="what trainer.layout=trees saves on this config's data, against rows")
    arguments = told.parse_intermixed_args()
    set_up_logging()
    sys.exit(run_cli(lambda: run(arguments)))


def run(arguments: argparse.Namespace) -> int:
    """Compose, measure, print, save."""
    from lab.bench import results
    from lab.host.progress import bars
    from lab.sweeping.launcher import register

    results.require_writable(arguments.out, arguments.force)
    register()
    x = compose(arguments.overrides)
    os.environ |= {"OMP_NUM_THREADS": str(x.trainer.threads), "TOKENIZERS_PARALLELISM": "false"}  # before torch is imported
    facts = results.facts(x)

    if arguments.trees:
        from lab.bench import trees

        found = trees.measure(x, arguments.rounds, bars())
        results.publish(found.figures(), facts, None)
        if arguments.out is not None:
            found.write(arguments.out, facts)
            print(f"\nwritten to {arguments.out}")
        return 0
    from lab.bench import breakdown

    results.publish(breakdown.measure(x, arguments.rounds, arguments.steps, bars()), facts, arguments.out)
    return 0


if __name__ == "__main__":
    main()
