"""What a measurement says: named numbers with their unit, the machine they were taken on, a table and a JSON file. Light."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lab.errors import ConfigError, LabError

LIBRARIES = ("torch", "transformers", "peft", "lightning", "datasets", "trl")


class BenchError(LabError):
    """A measurement that would not mean what it says."""


@dataclass(frozen=True)
class Figure:
    """One number. note: what is left out of it or assumed in it."""

    name: str
    value: float
    unit: str
    note: str = ""


def machine(threads: int) -> dict[str, Any]:
    """Processor, cores, load and libraries: what a figure depends on besides the config."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "load_average": round(os.getloadavg()[0], 2),
        "versions": found,
    }


def spread(name: str, seconds: Sequence[float], note: str = "") -> list[Figure]:
    """Median and smallest of repeated timings, in milliseconds."""
    return [
        Figure(f"{name}, median", 1e3 * statistics.median(seconds), "ms", note),
        Figure(f"{name}, smallest", 1e3 * min(seconds), "ms", note),
    ]


def table(title: str, figures: Sequence[Figure], facts: dict[str, Any]) -> str:
    """Figures as aligned text, under what they were taken with."""
    width = max(len(figure.name) for figure in figures)
    versions = ", ".join(f"{name} {version}" for name, version in facts["machine"]["versions"].items())
    found = facts["machine"]
    lines = [
        title,
        f"{found['processor']}, {found['cores']} cores, {found['threads']} threads an arm, load {found['load_average']} before",
        versions,
        "",
    ]
    for figure in figures:
        lines.append(f"{figure.name:<{width}}  {number(figure.value):>12} {figure.unit:<14} {figure.note}".rstrip())
    return "\n".join(lines)


def number(value: float) -> str:
    """Four significant digits, thousands apart."""
    if value == round(value) and abs(value) < 1e15:
        return f"{value:,.0f}"
    digits = 4 if abs(value) < 1e4 else len(f"{abs(value):.0f}")
    return f"{value:,.{digits}g}"


def require_writable(path: Path | None, force: bool) -> None:
    """Raise a `ConfigError` for a file that would be overwritten unasked, before anything is measured."""
    if path is not None and path.exists() and not force:
        raise ConfigError(f"--out {path}: the file is there already. Give another name, or --force to overwrite it.")


def save(path: Path, figures: Sequence[Figure], facts: dict[str, Any]) -> None:
    """Write figures and facts as one JSON object."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**facts, "figures": [asdict(figure) for figure in figures]}, indent=1) + "\n", encoding="utf-8")
