"""Results beside a run's record, and what each must hold:

    RUN/evaluations/*.json   replies to a benchmark, marked; or a split that `lab evaluate` scored
    RUN/overlap/*.json       questions about pictures that the training data have too

A file that is none of them, or of another version, is told once and is nothing to whoever reads.
"""

from __future__ import annotations

import functools
import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lab.benchmark_specs import SPECS
from lab.store.parsing import fits

log = logging.getLogger(__name__)

MARKED: Mapping[str, Any] = {
    "data": str, "source": str, "n": int, "n_official": int, "profile": str, "rule": dict[str, Any], "unparsed": float,
    "metrics": dict[str, float], "left_out": list[dict[str, str]],
}  # fmt: skip
RULE: Mapping[str, Any] = {"name": str, "version": int}
JUDGE: Mapping[str, Any] = {"model": str, "n": int, "mean": float | None, "agreement": float | None}
SCORED: Mapping[str, Any] = {"data": dict[str, Any], "overrides": list[str], "contract_broken": bool}
SHARED: Mapping[str, Any] = dict.fromkeys(("id", "picture", "how", "train_picture", "train"), str)


def marked(facts: Mapping[str, Any]) -> bool:
    """Whether a result is of marked replies."""
    return "profile" in facts


def read(place: Path) -> dict[str, Any]:
    """A result of `evaluations/`; nothing where there is none, or none that this version reads, which is told."""
    return loaded(place, misfit)


def shared_pictures(place: Path) -> list[dict[str, str]]:
    """The rows of a file of `overlap/`, in the same way."""
    return loaded(place, lambda facts: unlike(facts, {"found": list[dict[str, str]]}) or first_unlike(facts["found"], SHARED)).get("found", [])


def loaded(place: Path, wrong_of: Callable[[Any], str | None]) -> dict[str, Any]:
    """The JSON object of a file, unless something is wrong with it."""
    try:
        facts = json.loads(place.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        return refused(place, f"{error or type(error).__name__}")
    wrong = wrong_of(facts)
    return facts if wrong is None else refused(place, wrong)


def misfit(facts: Any) -> str | None:
    """What is wrong with a result, or None."""
    if not isinstance(facts, dict):
        return "it holds no JSON object"
    if not marked(facts):
        return unlike(facts, SCORED) or unlike(facts["data"], {"name": str})
    remarks = {"remarks": list[str]} if "remarks" in facts else {}  # younger than the first results
    parts = [(facts, {**MARKED, **remarks}), (facts.get("rule"), RULE), *([(facts["judge"], JUDGE)] if "judge" in facts else [])]
    wrong = next(filter(None, (unlike(values, fields) for values, fields in parts)), None)
    if wrong is None and facts["data"] not in SPECS:
        return f"data is {facts['data']!r:.60}, which is no benchmark here"
    if wrong is None and SPECS[facts["data"]].headline not in facts["metrics"]:
        return f"metrics has no {SPECS[facts['data']].headline}"
    return wrong


def first_unlike(rows: list[dict[str, str]], fields: Mapping[str, Any]) -> str | None:
    """What is wrong with the first row that is not as it should be."""
    return next(filter(None, (unlike(row, fields) for row in rows)), None)


def unlike(values: Any, fields: Mapping[str, Any]) -> str | None:
    """The first field that values lack, or that is of another type."""
    if not isinstance(values, dict):
        return f"{values!r:.60} stands for {', '.join(fields)}"
    lacking = next((name for name in fields if name not in values), None)
    if lacking is not None:
        return f"{lacking} is not there"
    return next((f"{name} is {values[name]!r:.60}" for name, hint in fields.items() if not fits(values[name], hint)), None)


@functools.cache
def refused(place: Path, why: str) -> dict[str, Any]:
    """Tell of a file once; nothing."""
    log.warning("%s: this is no result that this version reads (%s); it is left out.", place, why)
    return {}
