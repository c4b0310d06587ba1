"""How a benchmark scores answers where shares of right ones are not all: rules by name, as `data.rule` has them.

A rule is a module with `intervals(table)`, `summary(intervals)`, `told(intervals)` and `CHANCE`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import ModuleType
from typing import Any

from lab.statistics import winoground

RULES: dict[str, ModuleType] = {"winoground": winoground}


def rule_of(data: Mapping[str, Any]) -> ModuleType | None:
    """The rule of a data option as a record has it; earlier versions recorded its name alone."""
    return RULES.get(data.get("rule") or data.get("name", ""))
