"""python -m tools.bench [KEY=VALUE ...]: the same arm through TRL, at its defaults and at its best settings.

    python -m tools.bench            one arm, step by step
    python -m tools.bench --sweep    twelve arms from command to report, and through TRL one after another

Without model.path and data=... the checkpoint and the pictures are the benchmark's own (`tools.bench.inputs`), kept in cache/.
Needs pip install -e '.[bench]'. Timings mean something on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from lab.bench import results
from lab.bench.__main__ import parser
from lab.cli import compose, run_cli, set_up_logging
from lab.host.progress import bars
from lab.sweeping.launcher import register


def main() -> None:
    """Command-line entry point."""
    arguments = parser("python -m tools.bench", __doc__)
    arguments.add_argument("--sweep", action="store_true", help="compare a sweep of twelve arms, command to report")
    arguments.add_argument("--arms", type=int, default=1, metavar="N", help="--sweep: how many of TRL's twelve are run (default: 1)")
    set_up_logging()
    sys.exit(run_cli(lambda: run(arguments.parse_intermixed_args())))


def own_inputs(overrides: list[str]) -> list[str]:
    """The overrides after those of the benchmark's own checkpoint and pictures, made if missing; no warm-up, as TRL's is another."""
    from tools.bench import inputs

    keys, own = {override.partition("=")[0] for override in overrides}, ["optim.warmup_fraction=0"]
    if not keys & {"model", "model.path"}:
        own.append(f"model.path={inputs.write_once(Path('cache/bench_60m').resolve(), inputs.write_checkpoint)}")
    if not keys & {"data", "data.root"}:
        own += ["data=nlvr2", f"data.root={inputs.write_once(Path('cache/bench_pictures').resolve(), inputs.write_pictures)}"]
    return [*own, *overrides]


def run(arguments: argparse.Namespace) -> int:
    """Compose, make what is missing, measure, print, save."""
    results.require_writable(arguments.out, arguments.force)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    register()
    overrides = own_inputs(arguments.overrides)
    x = compose(overrides)
    os.environ["OMP_NUM_THREADS"] = str(x.trainer.threads)  # of the processes that are started
    facts = results.facts(x)
    from tools.bench import head_to_head, sweep, trl_baseline

    trl_baseline.require()
    if arguments.sweep:
        figures = sweep.measure(x, overrides, arguments.arms, bars())
    else:
        figures = head_to_head.measure(x, arguments.rounds, arguments.steps, bars())
    results.publish(figures, facts, arguments.out)
    return 0


if __name__ == "__main__":
    main()
