"""python -m lab.bench [KEY=VALUE ...]: how fast the composed config is, and against what. Light until it starts to measure.

    python -m lab.bench model=bench                 throughput, parts of a step, share of the ceiling, scoring against generating
    python -m lab.bench model=bench --against trl   the same arm through TRL, at its defaults and at its best settings
    python -m lab.bench --sweep                     twelve arms from command to report, and through TRL one after another
    python -m lab.bench --growth                    memory with more examples, makespan with more arms, cost of 300 arms

Without data=... the pictures are the bench's own: drawn pairs of 640 x 480, stored as JPEG under tracking.cache_dir.
Timings mean something on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from lab import paths
from lab.cli import answer, register, set_up_logging, shipped

if TYPE_CHECKING:
    from lab.bench.figures import Figure
    from lab.config import Experiment

PICTURES = "bench_pictures"
CHECKPOINT = "bench_60m"


def parser() -> argparse.ArgumentParser:
    """The door's arguments."""
    made = argparse.ArgumentParser(
        prog="python -m lab.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in lab.train; one experiment")
    what = made.add_mutually_exclusive_group()
    what.add_argument("--against", choices=["trl"], help="compare one arm, step by step; needs pip install -e '.[bench]'")
    what.add_argument("--sweep", action="store_true", help="compare a sweep of twelve arms, command to report")
    what.add_argument("--growth", action="store_true", help="what grows with examples and with arms")
    made.add_argument("--rounds", type=int, default=5, metavar="N", help="turns that each arm takes (default: 5)")
    made.add_argument("--steps", type=int, default=6, metavar="N", help="timed optimizer steps in a turn (default: 6)")
    made.add_argument("--arms", type=int, default=1, metavar="N", help="--sweep: how many of TRL's twelve are run (default: 1)")
    made.add_argument("--out", type=paths.argument, metavar="FILE", help="write the figures as JSON too")
    made.add_argument("--force", action="store_true", help="overwrite FILE")
    return made


def main() -> None:
    """The door."""
    given = parser().parse_intermixed_args()
    set_up_logging()
    sys.exit(answer(lambda: act(given)))


def act(given: argparse.Namespace) -> int:
    """Compose, make what is missing, measure, print, save."""
    from lab.bench import figures, rounds

    figures.require_writable(given.out, given.force)
    overrides = asked(given.overrides)
    x = composed(overrides)
    if given.against or given.sweep:
        from lab.bench import peer

        peer.require()
    rounds.quiet_environment(x.trainer.threads)
    facts = {"command": " ".join(["python -m lab.bench", *sys.argv[1:]]), "machine": figures.machine(x.trainer.threads)}
    make_missing(x)
    title, found = measure(given, overrides, x)
    print(figures.table(title, found, facts), flush=True)
    if given.out is not None:
        figures.save(given.out, found, {"title": title, **facts, "config": plain(x)})
        print(f"\nwritten to {given.out}")
    return 0


def asked(overrides: list[str]) -> list[str]:
    """The user's overrides after the bench's own: its pictures unless they choose data; no warm-up, as a peer's is another."""
    keys = {override.partition("=")[0] for override in overrides}
    own = [] if "data" in keys else ["data=nlvr2"]
    if not keys & {"data", "data.root"}:
        own.append(f"data.root={pictures_folder(overrides)}")
    if "optim.warmup_fraction" not in keys:
        own.append("optim.warmup_fraction=0")
    return [*own, *overrides]


def pictures_folder(overrides: list[str]) -> Path:
    """Where the bench's own pictures lie."""
    given = dict(override.split("=", 1) for override in overrides if "=" in override)
    return (paths.path(given.get("tracking.cache_dir", "cache").strip("'\""), "tracking.cache_dir") / PICTURES).resolve()


def composed(overrides: list[str]) -> Experiment:
    """One experiment from overrides."""
    from hydra import compose, initialize_config_dir

    from lab.freezing import freeze

    register()
    with initialize_config_dir(str(shipped("conf")), version_base="1.3"):
        return freeze(compose("train", overrides=overrides))


def plain(x: Experiment) -> dict[str, object]:
    """The config for the JSON file."""
    from lab.config import as_dict

    return as_dict(x)


def make_missing(x: Experiment) -> None:
    """Make the bench's checkpoint and pictures on first use."""
    from lab.host.progress import bars

    if Path(x.model.path).name == CHECKPOINT:
        from lab.bench import checkpoint

        checkpoint.make(Path(x.model.path))
    if x.data.root is not None and Path(x.data.root).name == PICTURES:
        from lab.bench import pictures

        pictures.make(paths.path(x.data.root, "data.root"), report=bars())


def measure(given: argparse.Namespace, overrides: list[str], x: Experiment) -> tuple[str, list[Figure]]:
    """A title and the figures of what was asked for."""
    from lab.host.progress import bars

    what = f"model={x.model.name}, data={x.data.name}, batch {x.trainer.batch_size}, {x.model.dtype.value}"
    if given.against:
        from lab.bench import duel

        return f"one arm against TRL: {what}", duel.measure(x, given.rounds, given.steps, bars())
    if given.sweep:
        from lab.bench import sweep

        return f"twelve arms against TRL: {what}", sweep.measure(x, overrides, given.arms, bars())
    if given.growth:
        from lab.bench import growth

        return f"growth: model={x.model.name}, data=pairs", growth.measure(given.overrides, bars())
    from lab.bench import breakdown

    return f"one arm: {what}", breakdown.measure(x, given.rounds, given.steps, bars())


if __name__ == "__main__":
    main()
