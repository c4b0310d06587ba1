"""lab report: write the comparison of a sweep, or of any runs. Light until it starts to work."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lab import paths, plugins
from lab.bounds import BOUNDS, WORDS
from lab.cli import bounded, program
from lab.errors import LabError
from lab.host.garbage import importing


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog=program("lab.report"),
        description="Write OUT/<sweep>/report.md, report.html, table.tex and figures/ from finished runs. Without a sweep or a run: the "
        "latest sweep, or all finished runs if there is no sweep. Of two: OUT/<first>-against-<second>/, the two side by side.",
    )
    made.add_argument("names", metavar="NAME", nargs="*", help="a sweep or a run, by its id or a sweep's name; two are compared")
    made.add_argument("--sweep", metavar="ID", help="id or name of a sweep (runs/sweeps/ID.json), or latest")
    made.add_argument("--run", metavar="ID", nargs="+", action="extend", default=[], help="runs, alone or beside --sweep")
    made.add_argument("--runs-dir", type=paths.argument, default=Path("runs"), metavar="DIR", help="where run folders lie (default: runs)")
    made.add_argument("--out", type=paths.argument, default=Path("report"), metavar="DIR", help="where to write (default: report)")
    least, most = BOUNDS["evaluation.bootstrap"].least, BOUNDS["evaluation.bootstrap"].most
    resamples = "resamples behind intervals but those of shares, which are exact (default: 2000)"
    made.add_argument("--bootstrap", type=bounded(int, least, most), default=2000, metavar="N", help=resamples)
    gallery = "most examples in the gallery, with pictures read from the data set and put into report.html; 0: none (default: 24)"
    made.add_argument("--gallery", type=bounded(int, 0), default=24, metavar="N", help=gallery)
    made.add_argument("--rescore", action="store_true", help="mark stored replies to benchmarks anew, without a model: OUT/rescored.md")
    profile = "by whose rule --rescore marks (default: as the run has data.profile)"
    made.add_argument("--profile", choices=WORDS["data.profile"].legal, help=profile)
    logged = "stored replies to benchmarks as lmms-eval logs samples, without a model: OUT/samples/RUN/<date>_samples_<task>.jsonl"
    made.add_argument("--log-samples", "--log_samples", action="store_true", help=logged)
    made.add_argument("--plugins", nargs="+", action="extend", default=[], metavar="FOLDER", help=plugins.HELP)
    return made


def rescored(given: argparse.Namespace) -> int:
    """Mark stored replies anew and tell where the table is. Raises `LabError`."""
    if not given.rescore or given.sweep or len(given.names) > 1:
        raise LabError("--profile: it goes with --rescore, and that with --run, or with no name for all runs. Type: lab report --rescore --run RUN")

    from lab.report.rescoring import rescore

    place, number = rescore(given.runs_dir, [*given.names, *given.run], given.profile, given.out)
    print(f"{number} sets of replies marked anew. Read {place}; python -m lab.sync brings the numbers to MLflow")
    return 0


def logged(given: argparse.Namespace) -> int:
    """Write samples and tell where they are. Raises `LabError`."""
    if given.rescore or given.profile or given.sweep or len(given.names) > 1:
        raise LabError("--log-samples: it goes with --run, or with no name for all runs. Type: lab report --log-samples --run RUN")

    from lab.report.samples import log_samples

    written = log_samples(given.runs_dir, [*given.names, *given.run], given.out)
    print(f"{len(written)} files of samples written below {given.out / 'samples'}, the last {written[-1]}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command-line entry point; 2 if the user must act."""
    given = parser().parse_args(arguments)

    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}  # a report fetches nothing

    with importing():
        from lab.report.select_runs import choose, named

    try:
        plugins.load(given.plugins)
        if given.log_samples:
            return logged(given)
        if given.rescore or given.profile:
            return rescored(given)
        if given.names and (given.sweep or given.run) or len(given.names) > 2:
            raise LabError("lab.report takes one name or two, or --sweep and --run instead. Type: lab report SWEEP [SWEEP]")
        selections = [named(given.runs_dir, name) for name in given.names] or [choose(given.runs_dir, given.sweep, given.run)]

        with importing():  # Matplotlib
            from lab.host.progress import bars
            from lab.report.write import write_comparison, write_report

        workers = len(os.sched_getaffinity(0))
        if len(selections) == 2:
            folder = write_comparison(selections[0], selections[1], given.out, given.bootstrap, bars(), workers)
        else:
            folder = write_report(selections[0], given.out, given.bootstrap, bars(), workers, given.gallery)
    except (LabError, OSError) as error:
        from lab.explaining import of_machine

        print(f"error: {of_machine(error) or error}", file=sys.stderr)
        return 2
    finished = " and ".join(f"{len(one.finished)} of {len(one.arms)}" for one in selections)
    print(f"{finished} arms finished. Read {folder / 'report.html'} or {folder / 'report.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
