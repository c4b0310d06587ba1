"""lab train: compose an experiment, train it, measure it. `-m` makes it a sweep. Light until a run starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import manual, plugins
from lab.cli import compose_config, frozen, process_started, run_cli, set_up_logging
from lab.errors import ConfigError
from lab.paths import shipped

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lab.config import Experiment
    from lab.host.progress import Report
    from lab.store.runs import Run
    from lab.tracking.background import Trackers


def experiment(composed: DictConfig) -> None:
    """One experiment, composed by Hydra."""
    raise SystemExit(run_cli(lambda: alone(composed)))


def alone(composed: DictConfig) -> int:
    """Run one experiment in this process, deliver it to the tracker and print its summary."""
    from hydra.core.hydra_config import HydraConfig

    hydra_config = HydraConfig.get()
    x = frozen(composed, hydra_config.overrides.task, str(hydra_config.job.config_name))

    from lab.host.progress import bars
    from lab.report.summary import summary_of_run
    from lab.store import runs
    from lab.sweeping.arms import command_of
    from lab.tracking.links import of_run

    command = command_of(str(hydra_config.job.config_name), hydra_config.overrides.task)
    record, trackers, code = run_alone(x, command, process_started(), bars())
    print(summary_of_run(Path(x.tracking.runs_dir), record), *of_run(trackers.mlflow, record), sep="\n", flush=True)
    return code if record.status == runs.FINISHED else 1


def run_alone(x: Experiment, command: str, started: float, report: Report) -> tuple[Run, Trackers, int]:
    """Run one experiment in this process, have it judged if asked, and deliver it to the tracker meanwhile; the record, the trackers, and
    how the command ends by the judge. Raises `ConfigError` for an experiment that is a sweep.
    """
    from lab.data import ahead

    ahead.begin([x])

    from lab import run as running
    from lab.config import identity
    from lab.run import judging
    from lab.store import runs
    from lab.tracking.background import BackgroundSync, Trackers

    if x.sweep.replicates > 1:
        raise ConfigError(f"sweep.replicates={x.sweep.replicates}: replicates are arms of a sweep, and this is one run. Add -m.")
    judging.check(x)
    trackers = Trackers(x.tracking)
    with BackgroundSync(trackers, [identity(x)]):
        record = running.run_alone(x, command, started, report)
        code = judging.judge(x, report, started)
        return runs.load(Path(x.tracking.runs_dir), record.identity) or record, trackers, code


def main() -> None:
    """Command-line entry point."""
    set_up_logging()
    sys.exit(run_cli(act))


def act() -> int | None:
    """Show the manual, or let Hydra compose; plugins come first, whose options both know."""
    plugins.load(plugins.named(sys.argv[1:]))
    if manual.requested(sys.argv[1:]):
        sys.stdout.write(manual.text(sys.argv[1:], values))
        return 0

    import hydra

    from lab.explaining import refuse_misread
    from lab.sweeping.launcher import register

    refuse_misread(sys.argv[1:])

    register()
    sys.argv[1:] = overrides_last(sys.argv[1:])
    return hydra.main(version_base="1.3", config_path=str(shipped("conf")), config_name="train")(experiment)()


def values(config_name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """An experiment as plain values, not checked."""
    from omegaconf import OmegaConf

    from lab.sweeping.launcher import register

    register()
    composed: Any = OmegaConf.to_container(compose_config(overrides, config_name), enum_to_str=True)
    return composed


def overrides_last(arguments: Sequence[str]) -> list[str]:
    """Flags before overrides: Hydra's parser takes overrides in one piece only, so not `lora.r=8,16 -m seed=1`."""
    return sorted(arguments, key=lambda argument: "=" in argument and not argument.startswith("-"))


if __name__ == "__main__":
    main()
