"""python -m tests.gpu [PART ...]: run the parts one after another, each in a process of its own with a limit of three minutes."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from .parts import PARTS, run

ROOT = Path(__file__).parents[2]
LIMIT_S = 180.0
FAILS = {"failed", "running"}


def main() -> int:
    """The door: 0 if no part failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="folder for one JSON file a part")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="models a few numbers wide in place of the published widths")
    parser.add_argument("--scratch", type=Path, help="folder for checkpoints of up to 17 GB; default: /dev/shm where it has room")
    parser.add_argument("--wheels", type=Path, default=ROOT / "cache" / "wheels", help="pure Python wheels of what is not installed")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    unknown = [part for part in given.parts if part not in PARTS]
    if unknown:
        parser.error(f"there is no part {unknown[0]}; legal: {', '.join(PARTS)}")
    if given.inside:
        return run(given.parts[0], given.out, given.device, given.small, given.scratch) in FAILS
    with tempfile.TemporaryDirectory() as packages:
        unpack(given.wheels, Path(packages))
        statuses = [alone(part, given, packages) for part in given.parts or PARTS]
    return any(status in FAILS for status in statuses)


def unpack(wheels: Path, folder: Path) -> None:
    """The contents of the wheels of a folder whose packages are not installed, as an installer puts them into site-packages."""
    for wheel in sorted(wheels.glob("*.whl")):
        if not installed(wheel.name.partition("-")[0]):
            with zipfile.ZipFile(wheel) as file:
                file.extractall(folder)


def installed(package: str) -> bool:
    """Whether this Python has a package."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def alone(part: str, given: argparse.Namespace, packages: str) -> str:
    """Run one part in a process of its own, end it at its limit, print what it found and return its status."""
    told = [part, "--inside", "--out", str(given.out), "--device", given.device, *(["--small"] if given.small else [])]
    told += ["--scratch", str(given.scratch)] if given.scratch else []
    paths = [str(ROOT), os.environ.get("PYTHONPATH", ""), packages]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    path, start, late = given.out / f"{part}.json", time.perf_counter(), False
    path.unlink(missing_ok=True)
    try:
        subprocess.run([sys.executable, "-m", str(__package__), *told], env=environment, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        late = True
    seconds = time.perf_counter() - start
    if not path.is_file():
        print(f"{part}: failed before it began ({seconds:.0f} s)", flush=True)
        return "failed"
    values = json.loads(path.read_text(encoding="utf-8"))
    print(told_of(values, seconds, late), flush=True)
    return values["status"]


def told_of(values: dict, seconds: float, late: bool) -> str:
    """What a part found, as lines."""
    ended = f"cut off at {LIMIT_S:.0f} s" if late else f"{values['status']}, {seconds:.0f} s"
    lines = [f"{values['part']} on {values['taken_on']['device']}: {ended}"]
    lines += [f"  {one['name']}: {one['value']:.4g} {one['unit']}; {one['note']}".rstrip("; ") for one in values["figures"]]
    lines += [f"  {'holds' if one['holds'] else 'FAILS'}: {one['name']} ({one['found']})" for one in values["checks"]]
    return "\n".join([*lines, *(f"  skipped: {what} ({why})" for what, why in values["skipped"].items())])


if __name__ == "__main__":
    sys.exit(main())
