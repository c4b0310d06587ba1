"""How Hydra makes the arms of a multirun (`hydra/sweeper=arms`, `=optuna`) and runs them (`hydra/launcher=shared`). Light.

`arms` composes every arm first, so that an illegal one is told before any trains; `optuna` the ends of what it searches.
`shared` runs arms over shared bases (`lab.sweeping.sweep`); any other launcher of Hydra's gets one job an arm
(`lab.sweeping.other_launchers`).
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import itertools
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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

from lab import plugins
from lab.cli import frozen, hydra_of_conf, register_schema

if TYPE_CHECKING:
    from lab.sweeping.arms import Arm, SweepSource
    from lab.sweeping.sweep import Launch

PLUGINS = "hydra_plugins.lab"
"""Hydra takes plugins from modules of its own prefix only, and looks for them by name: `register` makes this one, in memory."""


class LabSweeper(Sweeper):
    """What both sweepers are: they run arms themselves, or hand them to the launcher that the config names."""

    params: dict[str, str]

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context = hydra_context
        self.composition = config

    def how(self) -> tuple[SweepSource, int | None, Launch | None]:
        """Where the sweep comes from, how many arms ride together, and what launches them where it is not `shared`."""
        from lab.sweeping import other_launchers
        from lab.sweeping.arms import SweepSource

        launcher = self.composition.hydra.launcher
        if launcher._target_ == SharedLauncherConfig._target_:
            return SweepSource.of(self.composition), launcher.max_arms, None
        return SweepSource.of(self.composition), None, functools.partial(other_launchers.launch, self.context, self.composition)


class ArmsSweeper(LabSweeper):
    """Every combination of the comma-separated values, joined to each of the arms that are listed."""

    __module__ = PLUGINS

    def __init__(self, params: dict[str, str] | None = None, arms: list[str] | None = None) -> None:
        self.params = dict(params or {})
        self.arms = list(arms or [""])

    def sweep(self, arguments: list[str]) -> None:
        """Run the arms; ends the process with their exit code, because Hydra would print a traceback for a failed one."""
        from lab.sweeping import sweep

        overrides = listed(self.params, self.arms, arguments, self.context.config_loader)
        raise SystemExit(sweep.run_sweep(composed(self.context, self.composition, overrides, len(self.arms)), *self.how()))


class OptunaSweeper(LabSweeper):
    """Samples from ranges, by Optuna (`lab.sweeping.search`)."""

    __module__ = PLUGINS

    def __init__(self, params: dict[str, str] | None = None, **settings: Any) -> None:
        self.params = dict(params or {})
        self.settings = OptunaSweeperConfig(params=self.params, **settings)

    def sweep(self, arguments: list[str]) -> None:
        """Run the search; ends the process with its exit code."""
        from lab.errors import ConfigError

        if importlib.util.find_spec("optuna") is None:
            raise ConfigError("hydra/sweeper=optuna: the package optuna is not installed. Install it: pip install -e '.[optuna]'.")
        from lab.sweeping import search, space

        searched = space.Space.read(joined(self.params, arguments), self.context.config_loader)
        raise SystemExit(search.run_search(self.settings, searched, self.compose, *self.how()))

    def compose(self, overrides: Sequence[str]) -> list[Arm]:
        """The arms of one sample."""
        return composed(self.context, self.composition, [overrides])


def joined(params: Mapping[str, str], arguments: Sequence[str]) -> list[str]:
    """The overrides of a sweep file, then those of the command."""
    return [*(f"{key}={value}" for key, value in params.items()), *arguments]


def listed(params: Mapping[str, str], arms: Sequence[str], arguments: Sequence[str], loader: ConfigLoader) -> list[list[str]]:
    """The overrides of each arm: every point of the grid of `params` and of the command, joined to each of the arms."""
    points = grid(joined(params, arguments), loader)
    return [[*point, *shlex.split(arm)] for point, arm in itertools.product(points, arms)]


def foreseen(arguments: Sequence[str], config_name: str) -> list[Arm]:
    """The arms of `lab train ARGUMENTS -m`, none of which is run. Raises `ConfigError` for a sampler that draws them while it runs."""
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra

    from lab.errors import ConfigError
    from lab.sweeping.arms import Arm
    from lab.sweeping.chaining import linked
    from lab.sweeping.replicates import replicated

    plugins.load(plugins.named(arguments))
    with hydra_of_conf():
        loader = GlobalHydra.instance().config_loader()
        of_hydra = [argument for argument in arguments if argument.startswith("hydra")]
        sweeper = compose(config_name, of_hydra, return_hydra_config=True).hydra.sweeper
        if sweeper._target_ != ArmsSweeperConfig._target_:
            raise ConfigError("hydra/sweeper: only a grid's arms are known before it runs. Plan one of them: lab plan KEY=VALUE.")
        own = [argument for argument in arguments if argument not in of_hydra]
        arms = sweeper.arms or [""]
        overrides = listed(sweeper.params or {}, arms, own, loader)
        return replicated(linked([Arm(frozen(compose(config_name, one), one, config_name), tuple(one)) for one in overrides], len(arms)))


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


def composed(context: HydraContext, config: DictConfig, overrides: Sequence[Sequence[str]], arms: int = 1) -> list[Arm]:
    """The experiments that overrides make, checked; each as often as `sweep.replicates` says. arms: listed for each point of a grid."""
    from lab.sweeping.arms import Arm
    from lab.sweeping.chaining import linked
    from lab.sweeping.replicates import replicated

    made = []
    for one in overrides:
        values = context.config_loader.load_sweep_config(config, list(one))
        with open_dict(values):
            del values["hydra"]
        made.append(Arm(frozen(values, one, str(config.hydra.job.config_name)), tuple(one)))
    return replicated(linked(made, arms))


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
        from lab.sweeping import sweep
        from lab.sweeping.arms import SweepSource

        asked = composed(self.hydra_context, self.config, job_overrides)
        raise SystemExit(sweep.run_sweep(asked, SweepSource.of(self.config), self.max_arms))


@dataclass
class ArmsSweeperConfig:
    """How a sweep's arms are made.

    params: grid values of a sweep file, `key: a,b,c`; the command line is joined to them.
    arms: overrides, one string an arm, for sweeps that are no grid; each is joined to every point of the grid. `model.start=arm:1` in one
        starts it from the first of them, at the same point and seed.
    """

    _target_: str = f"{PLUGINS}.{ArmsSweeper.__name__}"
    params: dict[str, str] | None = None
    arms: list[str] | None = None


@dataclass
class OptunaSweeperConfig:
    """How a search takes its samples (`lab.sweeping.search`).

    n_trials: samples in all, those of an earlier command of the same search counted. n_jobs: samples at once; None: as many
    arms as run side by side here. direction, metrics: one, or a list of as many. sampler: tpe (Bergstra et al. 2011), random,
    qmc (a scrambled Sobol sequence), nsgaii (Deb et al. 2002); sampler_options: what its class in Optuna takes besides.
    params: the space of a sweep file, `key: int(interval(4,64))`; the command line is joined to it.
    """

    _target_: str = f"{PLUGINS}.{OptunaSweeper.__name__}"
    n_trials: int = 20
    n_jobs: int | None = None
    direction: Any = "maximize"
    metrics: Any = "minival/accuracy"
    sampler: str = "tpe"
    sampler_options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    params: dict[str, str] | None = None


@dataclass
class SharedLauncherConfig:
    """max_arms: arms that run at once; None: one per core on a CPU, as far as memory goes, and one after another on a GPU."""

    _target_: str = f"{PLUGINS}.{SharedLauncher.__name__}"
    max_arms: int | None = None


def register() -> None:
    """Make the schema, `hydra/sweeper=arms` and `=optuna`, and `hydra/launcher=shared` known to Hydra."""
    register_schema()
    try:
        package = importlib.import_module(PLUGINS.partition(".")[0])
    except ImportError:  # no other plugin is installed
        package = sys.modules.setdefault(PLUGINS.partition(".")[0], ModuleType(PLUGINS.partition(".")[0]))
    module = ModuleType(PLUGINS)
    vars(package)["lab"] = sys.modules[PLUGINS] = module
    for plugin in (ArmsSweeper, OptunaSweeper, SharedLauncher):
        vars(module)[plugin.__name__] = plugin
        Plugins.instance().register(plugin)
    store: Any = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="arms", node=ArmsSweeperConfig, provider="lab")
    store.store(group="hydra/sweeper", name="optuna", node=OptunaSweeperConfig, provider="lab")
    store.store(group="hydra/launcher", name="shared", node=SharedLauncherConfig, provider="lab")
