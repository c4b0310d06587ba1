"""python -m lab.sync: deliver run folders to MLflow that it has not, or not fully, received. Light until it starts."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lab.doors import answer, set_up_logging
from lab.errors import DataError


def main() -> None:
    """The door."""
    parser = argparse.ArgumentParser(prog="python -m lab.sync", description=__doc__)
    parser.add_argument("--runs-dir", default="runs", help="the folder of run folders")
    parser.add_argument("--uri", default=None, help="MLflow server; default: MLFLOW_TRACKING_URI, else sqlite:///mlflow.db")
    parser.add_argument("--experiment", default="lab", help="the MLflow experiment")
    given = parser.parse_args()
    set_up_logging()
    sys.exit(answer(lambda: sync(given.runs_dir, given.uri, given.experiment)))


def sync(runs_dir: str, uri: str | None, experiment: str) -> int:
    """Deliver every run and sweep; 1 if the tracker is away."""
    if not Path(runs_dir).is_dir():
        raise DataError(f"--runs-dir {runs_dir}: there is no such folder.")

    from lab import runs
    from lab.config import Tracking
    from lab.tracking import Courier

    courier = Courier(Tracking(runs_dir=runs_dir, uri=uri, experiment=experiment))
    found = runs.all_runs(Path(runs_dir))
    delivered = sum(courier.deliver(run.identity) for run in found)
    for sweep in runs.all_sweeps(Path(runs_dir)):
        courier.deliver_sweep(sweep.identity)
    print(f"{delivered} of {len(found)} runs are up to date in {courier.uri}")
    return 0 if delivered == len(found) else 1


if __name__ == "__main__":
    main()
