"""What a measurement says: named numbers with their unit, the machine they were taken on, a table and a JSON file. Light."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lab.config import Experiment, as_dict
from lab.errors import ConfigError, LabError

LIBRARIES = ("torch", "transformers", "peft", "lightning", "datasets", "trl")
WARM_UP = 2
"""First steps of a round that are not timed: allocators, caches and lazily built state."""


@dataclass
class Round:
    """Steps in a row. seconds: of each step after the warm-up, from the end of one to the end of the next.

    losses: of every step, warm-up included. parts: seconds of each part of a step, a list each, where they were taken apart.
    """

    seconds: list[float]
    losses: list[float]
    parts: dict[str, list[float]] = field(default_factory=dict)


def differences(ends: Sequence[float]) -> list[float]:
    """Seconds of each step after the warm-up, from the times at which steps end."""
    return [after - before for before, after in zip(ends[WARM_UP - 1 :], ends[WARM_UP:], strict=False)]


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
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        models = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": threads,
        "load_average": round(os.getloadavg()[0], 2),
        "versions": versions,
    }


def spread(name: str, seconds: Sequence[float], note: str = "") -> list[Figure]:
    """Median and smallest of repeated timings, in milliseconds."""
    return [
        Figure(f"{name}, median", 1e3 * statistics.median(seconds), "ms", note),
        Figure(f"{name}, smallest", 1e3 * min(seconds), "ms", note),
    ]


def facts(x: Experiment) -> dict[str, Any]:
    """What figures were taken with: command, machine, config."""
    return {"command": " ".join(["python", *sys.argv]), "machine": machine(x.trainer.threads), "config": as_dict(x)}


def publish(figures: Sequence[Figure], facts: dict[str, Any], path: Path | None) -> None:
    """Print figures as aligned text under what they were taken with; write all of it as one JSON object if there is a path."""
    on, config = facts["machine"], facts["config"]
    width = max(len(figure.name) for figure in figures)
    model = config["model"]
    print(f"model={model['name']}, data={config['data']['name']}, batch {config['trainer']['batch_size']}, {model['dtype']}")
    print(f"{on['processor']}, {on['cores']} cores, {on['threads']} threads an arm, load {on['load_average']} before")
    print(", ".join(f"{name} {version}" for name, version in on["versions"].items()), end="\n\n")
    for figure in figures:
        print(f"{figure.name:<{width}}  {number(figure.value):>12} {figure.unit:<14} {figure.note}".rstrip(), flush=True)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({**facts, "figures": [asdict(figure) for figure in figures]}, indent=1) + "\n", encoding="utf-8")
        print(f"\nwritten to {path}")


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
