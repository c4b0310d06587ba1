"""What the commands (`lab train`, ...) have in common: Hydra's set-up, errors as sentences, logging. Light."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import gc
import logging
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from lab import plugins, unquoted
from lab.bounds import COUNT, Bounds, short
from lab.errors import ConfigError, LabError
from lab.host.progress import say
from lab.host.redaction import Formatter, without_secrets
from lab.host.stopping import EXIT_CODE, Stopped, limited, requeue, stoppable
from lab.key_index import TRAIN, Door
from lab.paths import shipped

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lab.config import Experiment

Number = TypeVar("Number", int, float)

atexit.register(gc.freeze)
"""A process that ends would look for garbage among all that torch and Transformers have made, for two seconds."""


def process_started() -> float:
    """Unix time at which this process began, from the kernel."""
    with open("/proc/self/stat", encoding="ascii") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime", encoding="ascii") as file:
        uptime = float(file.read().split()[0])
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")


def sweep_question(config_name: str) -> str | None:
    """The question in the header of a sweep file (`# Question: ...`, continued on indented comment lines)."""
    path = shipped("sweeps") / f"{config_name}.yaml"
    if not path.is_file():
        return None
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.lstrip("#").strip()
        if line.startswith("# Question:"):
            words.append(text.removeprefix("Question:").strip())
        elif words and line.startswith("#   "):
            words.append(text)
        elif words:
            break
    return " ".join(words) or None


def register_schema() -> None:
    """Tell Hydra of the schema and of the sweeps folder; `lab.sweeping.launcher.register` adds sweeper and launcher."""
    from hydra.core.config_search_path import ConfigSearchPath
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins
    from hydra.plugins.search_path_plugin import SearchPathPlugin

    from lab.config import Experiment

    class Sweeps(SearchPathPlugin):
        """Lets `-cn NAME` find `sweeps/NAME.yaml`, and a dial the options of plugins."""

        def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
            for folder in (shipped("sweeps"), *plugins.conf_folders()):
                search_path.append("lab", f"file://{folder}")

    Plugins.instance().register(Sweeps)
    ConfigStore.instance().store(name="experiment_schema", node=hydra_schema(Experiment), provider="lab")


def hydra_schema(kind: type) -> DictConfig:
    """A dataclass as Hydra's schema, in whose mappings (`data.columns`, `optim.optimizer_kwargs`) a key of one's own needs no `+`."""
    from omegaconf import DictConfig, OmegaConf

    def opened(node: DictConfig) -> DictConfig:
        for value in (node._get_node(key) for key in node):
            if isinstance(value, DictConfig) and not value._is_none():
                opened(value) if OmegaConf.get_type(value) is not dict else OmegaConf.set_struct(value, False)
        return node

    return opened(OmegaConf.structured(kind))


def compose(overrides: Sequence[str], config_name: str = "train") -> Experiment:
    """One experiment from overrides, as `lab.train` composes it, checked."""
    plugins.load(plugins.named(overrides))
    return frozen(compose_config(overrides, config_name), overrides, config_name)


def frozen(composed: DictConfig, overrides: Sequence[str], config_name: str) -> Experiment:
    """The experiment of the user's own config, whose plugins are imported first. Never of a run's record: `freezing.from_dict`.

    overrides, config_name: what it was composed of; `sweep.clone` puts the overrides on the config of another run.
    """
    from lab import cloning, placing, starting
    from lab.freezing import freeze

    unquoted.refuse(overrides, TRAIN)
    plugins.load(composed.plugins)
    x = starting.resolved(freeze(composed) if composed.sweep.clone is None else cloning.clone(composed, overrides, config_name))
    placing.require_read(x)
    return x


def compose_config(overrides: Sequence[str], config_name: str = "train", **options: bool) -> DictConfig:
    """Hydra's composition of `conf`, not yet checked; `lab.sweeping.launcher.register` was called. options: of `hydra.compose`."""
    from hydra import compose

    with hydra_of_conf():
        return compose(config_name, overrides=list(overrides), **options)


@contextlib.contextmanager
def hydra_of_conf(folder: str = ".") -> Iterator[None]:
    """Within, Hydra composes from `conf`, or a folder in it; another Hydra that is at work in this process is found again afterwards."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    callers = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str((shipped("conf") / folder).resolve()), version_base="1.3"):
            yield
    finally:
        GlobalHydra.instance().hydra = callers


class Lines(logging.Handler):
    """One line a message on standard error, above the bars where some stand."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        say(self.format(record))


def set_up_logging() -> None:
    """Messages go to standard error; neither a message nor a traceback shows a secret."""
    handler = Lines()
    handler.setFormatter(Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    sys.excepthook = lambda *error: sys.stderr.write(without_secrets("".join(traceback.format_exception(*error))))
    ignore_known_warnings()
    for name in ("httpx", "httpcore", "urllib3", "fsspec", "filelock", "alembic", "matplotlib", "datasets"):
        logging.getLogger(name).setLevel(logging.WARNING)


def ignore_known_warnings() -> None:
    """Those of libraries about each other, which no user can do anything about."""
    old = "(is_)?gradient_checkpointing(_enable|_disable)?"
    warnings.filterwarnings("ignore", message=f".*`{old}` is deprecated.*")  # by PEFT too; the new names are not in every 5.x
    warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm's, of a notebook without ipywidgets
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns of a kernel that it would fetch from the hub


def program(module: str) -> str:
    """How a command was typed, for its usage: `lab plan`, or `python -m lab.plan`."""
    return sys.argv[0] if sys.argv[0].startswith("lab ") else f"python -m {module}"


def add_run(parser: argparse.ArgumentParser) -> None:
    """Let a command take `--run RUN`; `take_run` finds it as the first word too."""
    parser.add_argument("--run", metavar="RUN", help="a finished run, by its identity or the first digits; RUN as the first word is the same")


def take_run(parser: argparse.ArgumentParser, given: argparse.Namespace, words: list[str]) -> None:
    """Set `given.run` to the run that the command names; the first word is taken off where it is that. Ends the command without one."""
    if given.run is None and words and "=" not in words[0]:
        given.run = words.pop(0)
    if given.run is None:
        parser.error(f"no run is named. Type {parser.prog} RUN, where RUN is the name of a folder in {given.runs_dir}/, or its first digits.")


def add_max_time(parser: argparse.ArgumentParser) -> None:
    """Let a command take `--max-time`, for `run_stoppable`."""
    told = f"stop after so long, answers that were given are kept, exit code {EXIT_CODE}; the same command goes on"
    parser.add_argument("--max-time", type=duration, metavar="HH:MM:SS", help=told)


def duration(text: str) -> str:
    """HH:MM:SS as it is, as `type=` of an argparse argument."""
    if re.fullmatch(r"\d{1,6}:[0-5]\d:[0-5]\d", text) is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time. Give hours, minutes, seconds, as in 11:45:00.")
    return text


def bounded(kind: type[Number], least: float, most: float = COUNT) -> Callable[[str], Number]:
    """A number from `least` to `most`, never nan, as `type=` of an argparse argument. kind: int or float."""
    bounds = Bounds(least, most)

    def read(text: str) -> Number:
        with contextlib.suppress(ValueError):
            value = kind(text)
            if bounds.hold(value):
                return value
        raise argparse.ArgumentTypeError(f"{short(text)}: give a {'whole ' if kind is int else ''}number, {bounds.range}.")

    return read


def run_stoppable(act: Callable[[], int | None], max_time: str | None) -> int:
    """`run_cli` of work that SIGTERM, or a limit on the whole command, asks to stop."""

    def until_stopped() -> int | None:
        with stoppable(), limited(max_time, "--max-time", process_started()):
            return act()

    return run_cli(until_stopped)


def run_cli(act: Callable[[], int | None], door: Door = TRAIN) -> int:
    """Run a door's work, which takes the keys of `door`; an error of the user's is one paragraph on standard error and exit code 2."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing; what is no user's error keeps its traceback
    try:
        refuse_endless_numbers(sys.argv[1:])
        unquoted.refuse(sys.argv[1:], door)
        return act() or 0
    except KeyboardInterrupt as interrupted:
        print(str(interrupted) or "interrupted; the same command does what is missing", file=sys.stderr)
        return 130
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        requeue()
        return EXIT_CODE
    except LabError as error:
        print(f"error: {without_secrets(str(error))}", file=sys.stderr)
    except Exception as error:
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        from lab.explaining import explain, of_machine

        told = explain(error, sys.argv[1:], door) if isinstance(error, HydraException | OmegaConfBaseException) else of_machine(error)
        if told is None:
            raise
        print(f"error: {without_secrets(told)}", file=sys.stderr)
    return 2


def refuse_endless_numbers(arguments: list[str]) -> None:
    """Raise a `ConfigError` for a number that no float holds, on which Hydra's parser and OmegaConf break off without a sentence."""
    for argument in arguments:
        if re.search(r"\d{300,}", argument):
            raise ConfigError(f"{argument.partition('=')[0]}: it is given a number of 300 digits or more, which no key takes.")
