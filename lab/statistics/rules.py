"""How a benchmark scores answers where shares of right ones are not all: rules by name, as `data.rule` has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from lab import bounds
from lab.answers.predictions import PredictionTable
from lab.errors import LabError
from lab.statistics import winoground
from lab.statistics.intervals import Interval


class Rule(Protocol):
    """A module or an object. TITLE, SAYS: heading and explanation in a report. CHANCE: each score that there is, with its chance level."""

    TITLE: str
    SAYS: str
    CHANCE: Mapping[str, float]

    def intervals(self, asked: PredictionTable, /) -> dict[str, Interval]:
        """The scores of a predictions table by name, in [0, 1]; `num_clusters`: what the benchmark counts."""
        ...


RULES: dict[str, Rule] = {"winoground": winoground}


def register(name: str, rule: Rule) -> None:
    """Add a rule, asked for as `data.rule=NAME`. Raises `LabError` for a name that is taken."""
    if name in RULES:
        raise LabError(f"rule {name!r}: there is one of this name; choose another.")
    RULES[name] = rule
    bounds.allow("data.rule", name)


def rule_of(data: Mapping[str, Any]) -> str | None:
    """The name of the rule of a data option as a record has it; earlier versions recorded the option's name alone."""
    name = data.get("rule") or data.get("name", "")
    return name if name in RULES else None


def evaluated(data: Mapping[str, Any], table: PredictionTable) -> tuple[dict[str, float], str]:
    """What the rule of a data option makes of its answers: numbers for the run's record and lines for a person, neither where it has none."""
    if (name := rule_of(data)) is None:
        return {}, ""
    scores = RULES[name].intervals(table)
    return summary(name, scores), describe(name, scores)


def summary(name: str, scores: Mapping[str, Interval]) -> dict[str, float]:
    """The scores, the ends of their intervals and the number of examples, as a run records them: `winoground/text`, ..."""
    ends = {"": "estimate", "_low": "low", "_high": "high"}
    numbers = {f"{name}/{score}{end}": getattr(one, key) for score, one in scores.items() for end, key in ends.items()}
    return {**numbers, f"{name}/examples": float([*scores.values()][-1].num_clusters)}


def describe(name: str, scores: Mapping[str, Interval]) -> str:
    """The scores for a person, one a line, with intervals and chance."""
    lines = []
    for score, one in scores.items():
        within = "" if not one.has_ends else f" [{one.low:.4f}, {one.high:.4f}]"
        chance = RULES[name].CHANCE[score]
        lines.append(f"{name} {score:<5} {one.estimate:.4f}{within} (chance {chance:.4f}, {one.num_clusters} examples)")
    return "\n".join(lines)
