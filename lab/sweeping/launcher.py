"""How Hydra makes the arms of a multirun (`hydra/sweeper=arms`) and runs them (`hydra/launcher=shared`). Light.

The sweeper composes every arm first, so that an illegal one is told before any trains. `shared` runs them over shared bases
(`lab.sweeping.arms`); any other launcher of Hydra's gets one job an arm (`lab.sweeping.elsewhere`).
"""

from __future__ import annotations

import functools
import importlib
import itertools
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from lab.cli import frozen, hydra_of_conf, register_schema

if TYPE_CHECKING:
    from lab.sweeping.arms import Arm

PLUGINS = "hydra_plugins.lab"
"""Hydra takes plugins from modules of its own prefix only, and looks for them by name: `register` makes this one, in memory."""


class ArmsSweeper(Sweeper):
    """Every combination of the comma-separated values, joined to each of the arms that are listed."""

    __module__ = PLUGINS

    def __init__(self, params: dict[str, str] | None = None, arms: list[str] | None = None) -> None:
        self.params = dict(params or {})
        self.arms = list(arms or [""])

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def sweep(self, arguments: list[str]) -> None:
        """Run the arms; ends the process with their exit code, because Hydra would print a traceback for a failed one."""
        from lab.sweeping import arms, elsewhere

        assert self.hydra_context is not None and self.task_function is not None and self.config is not None  # `setup` comes first
        overrides = listed(self.params, self.arms, arguments, self.hydra_context.config_loader)
        if self.config.hydra.launcher._target_ != SharedLauncherConfig._target_:
            launch = functools.partial(elsewhere.launch, self.hydra_context, self.config)
            asked = composed(self.hydra_context, self.config, overrides)
            raise SystemExit(arms.run_sweep(asked, arms.SweepSource.of(self.config), launch=launch))
        launcher = Plugins.instance().instantiate_launcher(self.hydra_context, self.task_function, self.config)
        launcher.launch(overrides, initial_job_idx=0)


def listed(params: Mapping[str, str], arms: Sequence[str], arguments: Sequence[str], loader: ConfigLoader) -> list[list[str]]:
    """The overrides of each arm: every point of the grid of `params` and of the command, joined to each of the arms."""
    points = grid([*(f"{key}={value}" for key, value in params.items()), *arguments], loader)
    return [[*point, *shlex.split(arm)] for point, arm in itertools.product(points, arms)]


def foreseen(arguments: Sequence[str], config_name: str) -> list[Arm]:
    """The arms of `lab train ARGUMENTS -m`, none of which is run. Raises `ConfigError` for a sampler that draws them while it runs."""
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra

    from lab.errors import ConfigError
    from lab.sweeping.arms import Arm
    from lab.sweeping.replicates import replicated

    with hydra_of_conf():
        loader = GlobalHydra.instance().config_loader()
        of_hydra = [argument for argument in arguments if argument.startswith("hydra")]
        sweeper = compose(config_name, of_hydra, return_hydra_config=True).hydra.sweeper
        if sweeper._target_ != ArmsSweeperConfig._target_:
            raise ConfigError("hydra/sweeper: only a grid's arms are known before it runs. Plan one of them: lab plan KEY=VALUE.")
        own = [argument for argument in arguments if argument not in of_hydra]
        overrides = listed(sweeper.params or {}, sweeper.arms or [""], own, loader)
        return replicated([Arm(frozen(compose(config_name, one)), tuple(one)) for one in overrides])


def grid(arguments: Sequence[str], loader: ConfigLoader | None = None) -> list[list[str]]:
    """The points of a grid as overrides: `["lora.r=2,3", "seed=1"]` gives two. Raises `ConfigError` for what is no list."""
    from lab.errors import ConfigError

    values: dict[str, list[str]] = {}
    for override in OverridesParser.create(config_loader=loader).parse_overrides(list(arguments)):
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [f"{key}={override.get_value_element_as_str()}"]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(f"{override.input_line}: a grid needs values to choose from, as in {key}=1,2 or {key}=range(1,4).")
    return [list(point) for point in itertools.product(*values.values())]


def composed(context: HydraContext, config: DictConfig, overrides: Sequence[Sequence[str]]) -> list[Arm]:
    """The experiments that overrides make, checked; each as often as `sweep.replicates` says."""
    from lab.sweeping.arms import Arm
    from lab.sweeping.replicates import replicated

    made = []
    for one in overrides:
        values = context.config_loader.load_sweep_config(config, list(one))
        with open_dict(values):
            del values["hydra"]
        made.append(Arm(frozen(values), tuple(one)))
    return replicated(made)


class SharedLauncher(Launcher):
    """Runs all arms at once over shared bases."""

    __module__ = PLUGINS

    def __init__(self, max_arms: int | None = None) -> None:
        self.max_arms = max_arms

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run the arms; ends the process with their exit code, because Hydra would print a traceback for a failed one."""
        from lab.sweeping import arms

        asked = composed(self.hydra_context, self.config, job_overrides)
        raise SystemExit(arms.run_sweep(asked, arms.SweepSource.of(self.config), self.max_arms))


@dataclass
class ArmsSweeperConfig:
    """How a sweep's arms are made.

    params: grid values of a sweep file, `key: a,b,c`; the command line is joined to them.
    arms: overrides, one string an arm, for sweeps that are no grid; each is joined to every point of the grid.
    """

    _target_: str = f"{PLUGINS}.{ArmsSweeper.__name__}"
    params: dict[str, str] | None = None
    arms: list[str] | None = None


@dataclass
class SharedLauncherConfig:
    """max_arms: arms that run at once; None: one per core on a CPU, as far as memory goes, and one after another on a GPU."""

    _target_: str = f"{PLUGINS}.{SharedLauncher.__name__}"
    max_arms: int | None = None


def register() -> None:
    """Make the schema, `hydra/sweeper=arms` and `hydra/launcher=shared` known to Hydra."""
    register_schema()
    try:
        package = importlib.import_module(PLUGINS.partition(".")[0])
    except ImportError:  # no other plugin is installed
        package = sys.modules.setdefault(PLUGINS.partition(".")[0], ModuleType(PLUGINS.partition(".")[0]))
    module = ModuleType(PLUGINS)
    vars(package)["lab"] = sys.modules[PLUGINS] = module
    for plugin in (ArmsSweeper, SharedLauncher):
        vars(module)[plugin.__name__] = plugin
        Plugins.instance().register(plugin)
    store: Any = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="arms", node=ArmsSweeperConfig, provider="lab")
    store.store(group="hydra/launcher", name="shared", node=SharedLauncherConfig, provider="lab")
