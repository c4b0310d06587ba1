"""What a part found, as a JSON file that is whole after every figure: a part that is cut off leaves what it has."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.bench.results import Figure, machine
from lab.host.files import write_atomically

ROOT = Path(__file__).parents[2]
RUNNING, PASSED, FAILED, SKIPPED = "running", "passed", "failed", "skipped"


class Sheet:
    """Figures with their units, checks that hold or do not, and what was left out and why, of one part.

    The file has `part`, `status`, `figures`, `checks`, `skipped`, `seconds` of wall-clock time and `taken_on`.
    """

    def __init__(self, path: Path, part: str, device: str, small: bool) -> None:
        self.path = path
        self.start = time.perf_counter()
        self.values: dict[str, Any] = {"part": part, "status": RUNNING, "seconds": 0.0, "figures": [], "checks": [], "skipped": {}}
        self.values["taken_on"] = {**taken_on(device), "small": small}
        self.write()

    def add(self, name: str, value: float, unit: str, note: str = "") -> None:
        """Note one number."""
        self.values["figures"].append(asdict(Figure(name, value, unit, note)))
        self.write()

    def check(self, name: str, holds: bool, found: str) -> None:
        """Note whether what must hold does. found: the numbers behind it."""
        self.values["checks"].append({"name": name, "holds": bool(holds), "found": found})
        self.write()

    def skip(self, what: str, why: str) -> None:
        """Note what was left out."""
        self.values["skipped"][what] = why
        self.write()

    def end(self, status: str | None = None) -> str:
        """Note that nothing more comes: `PASSED` if every check holds, else `FAILED`; return it."""
        held = all(check["holds"] for check in self.values["checks"])
        self.values["status"] = status or (PASSED if held else FAILED)
        self.write()
        return self.values["status"]

    def write(self) -> None:
        """Replace the file."""
        self.values["seconds"] = round(time.perf_counter() - self.start, 2)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps(self.values, indent=1) + "\n")


def taken_on(device: str) -> dict[str, Any]:
    """The commit, the device by its own name, the machine and its libraries."""
    import torch

    found: dict[str, Any] = {"commit": commit(), **machine(torch.get_num_threads()), "device": device, "cuda": torch.version.cuda}
    if device == "cuda" and torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"device": properties.name, "memory_gb": round(properties.total_memory / 1e9, 2)}
    return found


def commit() -> str | None:
    """The checkout's commit, `+` behind it where files differ from it; None where git does not say."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")
