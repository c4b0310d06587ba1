"""lab sync: deliver to MLflow, and the trackers of `tracking.also`, what they have not received. Light until it starts."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lab import paths
from lab.cli import program, run_cli, set_up_logging
from lab.errors import ConfigError, DataError
from lab.host.redaction import HIDDEN

if TYPE_CHECKING:
    from lab.config import Tracking
    from lab.store.runs import Run


def main() -> None:
    """Command-line entry point."""
    parser = argparse.ArgumentParser(prog=program("lab.sync"), description="Deliver run folders to MLflow that it has not, or not fully, received.")
    parser.add_argument("--runs-dir", default="runs", help="the folder of run folders")
    parser.add_argument("--uri", default=None, help="MLflow server; default: each run's own tracking.uri, else as in lab.train")
    parser.add_argument("--experiment", default=None, help="the MLflow experiment; default: each run's own")
    given = parser.parse_args()
    set_up_logging()
    sys.exit(run_cli(lambda: sync(given.runs_dir, given.uri, given.experiment)))


def sync(runs_dir: str, uri: str | None, experiment: str | None) -> int:
    """Deliver every run and sweep; 1 if the tracker is away or refuses."""
    runs_dir = paths.expanded(runs_dir, "--runs-dir")
    if not Path(runs_dir).is_dir():
        raise DataError(paths.absent("--runs-dir", runs_dir, "folder"))

    from lab.store import runs

    found = runs.all_runs(Path(runs_dir))
    if not found:
        print(f"{runs_dir} holds no run")
    return deliver(found, runs_dir, uri, experiment)


def deliver(those: Sequence[Run], runs_dir: str, uri: str | None = None, experiment: str | None = None) -> int:
    """Deliver some runs and the sweeps they are arms of; 1 if a tracker is away or refuses."""
    from lab.store import runs
    from lab.store.sync_state import store_uri
    from lab.tracking.background import Trackers
    from lab.tracking.links import of_sweep

    sections: dict[tuple[str, str], tuple[Tracking, list[Run]]] = {}
    for run in those:
        section = where(run, runs_dir, uri, experiment)
        sections.setdefault((store_uri(section), section.experiment), (section, []))[1].append(run)
    sweeps = runs.all_sweeps(Path(runs_dir))
    missing = 0
    for section, found in sections.values():
        trackers = Trackers(section)
        identities = {run.identity for run in found}
        delivered = trackers.deliver_all([run.identity for run in found], check=True)
        theirs = [sweep for sweep in sweeps if identities & set(sweep.arms)]
        missing += len(found) - delivered + [trackers.sweeps.publish(sweep.identity) for sweep in theirs].count(False)
        print(f"{delivered} of {len(found)} runs are up to date in {section.experiment} at {trackers.mlflow.address}")
        for line in of_sweep(trackers.mlflow, theirs[-1]) if theirs else ():
            print(line)
    return 1 if missing else 0


def where(run: Run, runs_dir: str, uri: str | None, experiment: str | None) -> Tracking:
    """The store that a run belongs in. Raises `ConfigError` where that is an address whose credentials were not recorded."""
    from lab.config import AlsoTracked, Tracking

    recorded = run.config["tracking"]
    if uri is None and HIDDEN in (recorded["uri"] or ""):
        raise ConfigError(
            f"--uri: run {run.identity} belongs in {recorded['uri']}, and a password is recorded nowhere. Give the address as "
            "--uri, or without credentials and with MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD in the environment."
        )
    also = [AlsoTracked(name) for name in recorded.get("also", ())]
    return Tracking(runs_dir=runs_dir, uri=uri or recorded["uri"], experiment=experiment or recorded["experiment"], also=also)


if __name__ == "__main__":
    main()
