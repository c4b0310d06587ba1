"""python -m lab.train: compose an experiment, train it, measure it. `-m` makes it a sweep. Light until a run starts."""

from __future__ import annotations

import sys

import hydra
from omegaconf import DictConfig

from lab import manual, plugins
from lab.cli import frozen, process_started, run_cli, set_up_logging, shipped
from lab.errors import ConfigError
from lab.sweeping.launcher import register

register()


@hydra.main(version_base="1.3", config_path=str(shipped("conf")), config_name="train")
def compose(composed: DictConfig) -> None:
    """One experiment, composed by Hydra."""
    raise SystemExit(run_cli(lambda: alone(composed)))


def alone(composed: DictConfig) -> int:
    """Run one experiment in this process, deliver it to the tracker and print its summary."""
    from hydra.core.hydra_config import HydraConfig

    from lab.config import identity

    x = frozen(composed)
    if x.sweep.replicates > 1:
        raise ConfigError(f"sweep.replicates={x.sweep.replicates}: replicates are arms of a sweep, and this is one run. Add -m.")

    from lab import run as running
    from lab.host.progress import bars
    from lab.report.summary import summary_of_run
    from lab.store import runs
    from lab.store.mlflow_sync import BackgroundSync, MlflowSync
    from lab.sweeping.arms import quoted

    hydra_config = HydraConfig.get()
    chosen = [] if hydra_config.job.config_name == "train" else ["-cn", str(hydra_config.job.config_name)]
    command = " ".join(["python -m lab.train", *chosen, *map(quoted, hydra_config.overrides.task)])
    courier = MlflowSync(x.tracking)
    with BackgroundSync(courier, [identity(x)]):
        record = running.run_alone(x, command, process_started(), bars())
    print(summary_of_run(courier.runs_dir, record, courier.uri), flush=True)
    return 0 if record.status == runs.FINISHED else 1


def main() -> None:
    """Command-line entry point."""
    set_up_logging()
    sys.exit(run_cli(act))


def act() -> int | None:
    """Show the manual, or let Hydra compose; plugins come first, whose options both know."""
    plugins.load(plugins.named(sys.argv[1:]))
    return manual.show(shipped("conf"), sys.argv[1:]) if manual.asked(sys.argv[1:]) else compose()


if __name__ == "__main__":
    main()
