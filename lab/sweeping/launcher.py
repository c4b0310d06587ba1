"""`hydra/launcher=shared`: hands all arms of a multirun to `lab.sweeping.arms` at once. Light; loaded at start-up."""

from __future__ import annotations

import importlib
import itertools
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict


class SharedLauncher(Launcher):
    """Composes every arm first, so that an illegal one is told before any trains, then runs them over shared bases."""

    __module__ = "hydra_plugins.lab"  # Hydra 1.3 takes launchers from modules of this prefix only

    def __init__(self, max_arms: int | None = None, arms: list[str] | None = None) -> None:
        self.max_arms = max_arms
        self.arms = list(arms or [""])

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the arms; ends the process with their exit code, because Hydra would print a traceback for a failed one."""
        from lab.freezing import freeze
        from lab.sweeping import arms

        asked = []
        for job, one in itertools.product(job_overrides, self.arms):
            overrides = [*job, *shlex.split(one)]
            composed = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
            with open_dict(composed):
                del composed["hydra"]
            asked.append(arms.Arm(freeze(composed), tuple(overrides)))
        raise SystemExit(arms.run_sweep(asked, arms.Origin.of(self.config), self.max_arms))


@dataclass
class SharedLauncherConfig:
    """How a sweep's arms are made and run.

    max_arms: arms that ride together at most; None: one per core on a CPU, one after another on a GPU.
    arms: overrides, one string an arm, for sweeps that are no grid; each is joined to every point of the sweeper's grid.
    """

    _target_: str = "hydra_plugins.lab.SharedLauncher"
    max_arms: int | None = None
    arms: list[str] | None = None


def register() -> None:
    """Make `hydra/launcher=shared` known to Hydra, which looks for the class in a module `hydra_plugins.*`."""
    Plugins.instance().register(SharedLauncher)
    try:
        package = importlib.import_module("hydra_plugins")
    except ImportError:
        package = sys.modules.setdefault("hydra_plugins", ModuleType("hydra_plugins"))
    module = ModuleType(SharedLauncher.__module__)
    vars(module)["SharedLauncher"] = SharedLauncher
    sys.modules[SharedLauncher.__module__] = module
    vars(package)["lab"] = module
    store: Any = ConfigStore.instance()
    store.store(group="hydra/launcher", name="shared", node=SharedLauncherConfig, provider="lab")
