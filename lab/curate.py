"""lab curate: questions about the pictures of a catalogue, asked of a language model, as a manifest for data=abo_vqa. Light until it starts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lab import manual
from lab.cli import hydra_of_conf, hydra_schema, process_started, run_cli, set_up_logging
from lab.errors import ConfigError
from lab.key_index import Door

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lab.keys import Schema


def schema() -> Schema:
    """Of this command's keys."""
    from lab.curation.config import SCHEMA

    return SCHEMA


CURATE = Door("lab curate", "curate", "curation", schema)


def main() -> int:
    """Command-line entry point."""
    set_up_logging()
    return run_cli(lambda: act(sys.argv[1:]), CURATE)


def act(arguments: Sequence[str]) -> int:
    """Show the manual, or curate."""
    if manual.requested(arguments):
        sys.stdout.write(manual.text(arguments, values, CURATE))
        return 0
    flags = [word for word in arguments if word.startswith("-")]
    if flags:
        raise ConfigError(f"{flags[0]}: lab curate takes KEY=VALUE and --help, no other flags.")

    from lab.curation import config, run

    return run.curate(config.freeze(compose(arguments)), process_started())


def compose(overrides: Sequence[str], config_name: str = "curate") -> DictConfig:
    """Hydra's composition of `conf/curation`, not yet checked."""
    from hydra import compose
    from hydra.core.config_store import ConfigStore

    from lab.curation.config import Curation

    ConfigStore.instance().store(name="curation_schema", node=hydra_schema(Curation), provider="lab")
    with hydra_of_conf(CURATE.folder):
        return compose(config_name, overrides=list(overrides))


def values(config_name: str, overrides: Sequence[str]) -> dict[str, Any]:
    """The config as plain values, not checked."""
    from omegaconf import OmegaConf

    composed: Any = OmegaConf.to_container(compose(overrides, config_name), enum_to_str=True)
    return composed


if __name__ == "__main__":
    sys.exit(main())
