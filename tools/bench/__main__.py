"""python -m tools.bench [KEY=VALUE ...]: ours against TRL, at its defaults and at its best settings, and against PEFT and Transformers alone.

    python -m tools.bench            the rows a, b, c, d of `tools.bench.rows`, three interleaved rounds each; --only c,d chooses some
    python -m tools.bench --steps-of-one-arm    one arm, step by step, in figures
    python -m tools.bench --sweep    twelve arms from command to report, and through TRL one after another, in figures

Without model.path and data=... the checkpoint and the pictures are the benchmark's own (`tools.bench.inputs`), kept in cache/.
Needs pip install -e '.[bench]'. Timings mean something on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from lab.bench import results
from lab.bench.__main__ import parser
from lab.cli import bounded, compose, run_cli, set_up_logging
from lab.host.progress import bars
from lab.sweeping.launcher import register


def main() -> None:
    """Command-line entry point."""
    arguments = parser("python -m tools.bench", __doc__)
    arguments.set_defaults(rounds=3)
    arguments.add_argument("--only", default="a,b,c,d", metavar="ROWS", help="a,b,c,d: which rows (default: all)")
    arguments.add_argument("--steps-of-one-arm", action="store_true", help="one arm, step by step, in figures")
    arguments.add_argument("--sweep", action="store_true", help="compare a sweep of twelve arms, command to report")
    arguments.add_argument("--arms", type=bounded(int, 1), default=1, metavar="N", help="--sweep: how many of TRL's twelve are run (default: 1)")
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
    if not (arguments.sweep or arguments.steps_of_one_arm):
        return run_rows(arguments)
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


def run_rows(arguments: argparse.Namespace) -> int:
    """Measure rows; what is known after each is written."""
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that are started
    from tools.bench import rows, trl_baseline

    names = rows.chosen(arguments.only)
    if set(names) != {"d"}:
        trl_baseline.require()
    facts = {"command": " ".join(["python", *sys.argv]), "machine": results.machine(1), "rounds": arguments.rounds}

    def publish(found: dict[str, rows.Row]) -> None:
        if arguments.out is not None:
            arguments.out.parent.mkdir(parents=True, exist_ok=True)
            arguments.out.write_text(json.dumps({**found, **facts}, indent=1) + "\n", encoding="utf-8")

    rows.run(arguments.only, arguments.overrides, arguments.rounds, arguments.steps, bars(), publish)
    if arguments.out is not None:
        print(f"\nwritten to {arguments.out}")
    return 0


if __name__ == "__main__":
    main()
