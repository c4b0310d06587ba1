"""The search space of `hydra/sweeper=optuna`: Hydra's syntax of sweeps as Optuna's distributions, and samples as overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from lab.config import DIALS, TRAINED, Experiment, role
from lab.errors import ConfigError
from lab.freezing.schema import legal_keys

LOG = "log"
"""The one tag with a meaning: an interval is sampled by its logarithm."""


@dataclass(frozen=True)
class Space:
    """fixed: overrides of every sample. searched: how each other key is sampled; a choice's values are overrides' own texts."""

    fixed: tuple[str, ...]
    searched: dict[str, BaseDistribution]

    @classmethod
    def read(cls, arguments: Sequence[str], loader: ConfigLoader | None = None) -> Space:
        """The space of overrides, of which the last of a key counts. Raises `ConfigError` where nothing is searched."""
        parsed = OverridesParser.create(config_loader=loader).parse_overrides(list(arguments))
        overrides = {override.get_key_element(): override for override in parsed}
        fixed = {key: f"{key}={one.get_value_element_as_str()}" for key, one in overrides.items() if not one.is_sweep_override()}
        searched = {key: distribution(one) for key, one in overrides.items() if key not in fixed}
        if not searched:
            raise ConfigError("hydra/sweeper=optuna: no key is searched. Give one several values, as in lora.r=int(interval(4,64)).")
        legal = legal_keys(Experiment)
        for key in searched:
            if key not in DIALS and key in legal and role(key) != TRAINED:
                raise ConfigError(f"{key}: it changes nothing that is trained, so every sample would be the same run. Give it one value.")
        return cls(tuple(fixed.values()), searched)

    def overrides(self, sample: Mapping[str, Any]) -> list[str]:
        """The overrides of one sample, a value for each searched key."""
        return [*self.fixed, *(f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in sample.items())]

    def corners(self) -> list[dict[str, Any]]:
        """Few samples that hold every end of a range and every value of a choice."""
        choices = {key: one.choices for key, one in self.searched.items() if isinstance(one, CategoricalDistribution)}
        ends = {key: (one.low, one.high) for key, one in self.searched.items() if isinstance(one, IntDistribution | FloatDistribution)}
        values = choices | ends
        return [{key: values[key][min(i, len(values[key]) - 1)] for key in self.searched} for i in range(max(map(len, values.values())))]


def distribution(override: Override) -> BaseDistribution:
    """How the values of a sweep are sampled: an interval with both ends, a range in its steps, anything else as a choice.

    Raises `ConfigError`.
    """
    value: Any = override.value()
    given = override.input_line
    unknown = sorted(getattr(value, "tags", set()) - {LOG})
    if unknown or (getattr(value, "tags", set()) and not isinstance(value, IntervalSweep)):
        raise ConfigError(f"{given}: tag(log, interval(LOW, HIGH)) is the one tag that means something here.")
    try:
        if isinstance(value, IntervalSweep):
            ends: tuple[Any, Any] = (value.start, value.end)
            whole = all(isinstance(end, int) for end in ends)
            return (IntDistribution if whole else FloatDistribution)(*ends, log=LOG in value.tags)
        if isinstance(value, RangeSweep):
            points: list[Any] = list(override.sweep_iterator())
            step: Any = abs(value.step)
            kind = IntDistribution if isinstance(points[0], int) else FloatDistribution
            return kind(min(points), max(points), step=step)
        choices = list(dict.fromkeys(override.sweep_string_iterator()))
        return CategoricalDistribution(sorted(choices) if getattr(value, "shuffle", False) else choices)  # shuffled anew by every process
    except (ValueError, IndexError) as error:
        raise ConfigError(f"{given}: nothing can be sampled from it ({error}).") from None
