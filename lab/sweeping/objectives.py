"""What a search optimises: numbers of finished runs, a direction for each. Never one of dev, on which the report compares arms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.config import Experiment
from lab.errors import ConfigError, did_you_mean
from lab.store.runs import Run
from lab.tracking import naming

DIRECTIONS = ("maximize", "minimize")
COSTS = ("latency", "parameters", "flops", "memory", "visual_tokens", "train", "time")
"""What a run's numbers that are no scores of answers begin with."""


@dataclass(frozen=True)
class Objectives:
    """metrics: names as in `run.json`. directions: `maximize` or `minimize`, one for each."""

    metrics: list[str]
    directions: list[str]

    @classmethod
    def read(cls, metrics: Any, direction: Any) -> Objectives:
        """One objective or a list of them, as `hydra.sweeper.metrics` and `hydra.sweeper.direction` give them. Raises `ConfigError`."""
        names, ways = ([one] if isinstance(one, str) else [str(each) for each in one] for one in (metrics, direction))
        if len(names) != len(ways) or not names or len(set(names)) < len(names):
            raise ConfigError(
                f"hydra.sweeper.metrics={list(names)}, hydra.sweeper.direction={list(ways)}: each metric needs one direction, as in "
                "hydra.sweeper.metrics=[minival/accuracy,latency_p50_ms] hydra.sweeper.direction=[maximize,minimize]."
            )
        for way in ways:
            if way not in DIRECTIONS:
                raise ConfigError(f"hydra.sweeper.direction={way}: legal values are {', '.join(DIRECTIONS)}.{did_you_mean(way, DIRECTIONS)}")
        for name in names:
            check_name(name)
        return cls([naming.COSTS.get(name, name) for name in names], ways)

    def check(self, x: Experiment) -> None:
        """Raise a `ConfigError` for a metric that the experiment will not measure."""
        for name in self.metrics:
            if name.startswith("minival/") and "minival" not in x.evaluation.splits:
                raise ConfigError(f"hydra.sweeper.metrics={name}: add minival to evaluation.splits, or it is not measured.")
            if name.startswith("latency/") and x.evaluation.latency_examples == 0:
                raise ConfigError(f"hydra.sweeper.metrics={name}: evaluation.latency_examples=0 measures no latency. Raise it.")

    def values(self, records: Sequence[Run]) -> list[float]:
        """The objectives of a sample: the mean over its runs, which differ in their seed. Raises `ConfigError` for one they lack."""
        for name in self.metrics:
            for record in records:
                if name not in record.metrics:
                    there = [key for key in record.metrics if key.split("/")[0] in ("minival", *COSTS)]
                    raise ConfigError(
                        f"hydra.sweeper.metrics={name}: run {record.identity} has no such number.{did_you_mean(name, there)} "
                        f"It has {', '.join(there)}."
                    )
        return [sum(record.metrics[name] for record in records) / len(records) for name in self.metrics]


def check_name(name: str) -> None:
    """Raise a `ConfigError` for a metric by which nothing may be chosen."""
    head = name.partition("/")[0]
    if name in naming.COSTS or ("/" in name and head in ("minival", *COSTS)):
        return
    if head.split("_")[0] == "dev":
        instead = f"minival/{name.partition('/')[2] or 'accuracy'}"
        raise ConfigError(
            f"hydra.sweeper.metrics={name}: dev is what the report compares arms on, so no arm may be chosen by it. Give {instead}."
        )
    legal = ", ".join(f"{one}/..." for one in ("minival", *COSTS))
    raise ConfigError(f"hydra.sweeper.metrics={name}: legal are {legal}, as run.json of a finished run names them.")
