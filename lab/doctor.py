"""lab doctor [KEY=VALUE ...]: is this machine ready? One line each; exit code 0 when training can start, else 1. Light until it starts."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import re
import shutil
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.cli import compose, program, run_cli, set_up_logging
from lab.host.redaction import without_secrets
from lab.paths import shipped

if TYPE_CHECKING:
    from packaging.requirements import Requirement

    from lab.config import Experiment

PACKAGE = "vlm-lab"
NAMED = ("torch", "transformers", "peft", "lightning", "mlflow", "hydra-core")
"""Packages whose versions are told."""
LEAST_PYTHON = (3, 11)
LEAST_FREE, FEW_FREE = 0.2e9, 5e9
"""Bytes of disk below which no run can be written, and below which it is worth a remark."""
TIMEOUT_S = 5.0
OK, NOTE, FAIL = "ok", "note", "FAIL"


@dataclass(frozen=True)
class Finding:
    """What one look has found. state: ok, a remark (`note`), or what keeps training from starting (`FAIL`)."""

    subject: str
    text: str
    state: str = OK


def main() -> int:
    """Command-line entry point."""
    description = "Say whether this machine is ready, one line each; exit code 0 when training can start, else 1."
    parser = argparse.ArgumentParser(prog=program("lab.doctor"), description=description)
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="as in lab train: tracking.uri, tracking.cache_dir, model, ...")
    given = parser.parse_args()
    set_up_logging()
    return run_cli(lambda: act(given.overrides))


def act(overrides: list[str]) -> int:
    """Look at everything and print it."""
    from lab.sweeping.launcher import register

    register()
    x = compose(overrides)
    failed = False
    for finding in examine(x):
        failed |= finding.state == FAIL
        print(f"{finding.state:<6}{finding.subject:<12}{finding.text}", flush=True)
    print(f"\nTraining cannot start before what is marked {FAIL} is mended." if failed else "\nTraining can start: lab train lora.r=8,16,32 -m")
    return int(failed)


def examine(x: Experiment) -> Iterator[Finding]:
    """Every finding, what takes long last."""
    yield python()
    yield from packages()
    yield memory()
    for key, folder in (("runs_dir", x.tracking.runs_dir), ("cache_dir", x.tracking.cache_dir)):
        yield disk(f"tracking.{key}", Path(folder))
    yield store(x)
    yield from checkpoints(x)
    yield gpu()


def python() -> Finding:
    """The interpreter."""
    old = sys.version_info < LEAST_PYTHON
    needed = f"; {'.'.join(map(str, LEAST_PYTHON))} or later is needed. Make another environment: python3 -m venv .venv" if old else ""
    return Finding("python", f"{platform.python_version()} ({sys.executable}){needed}", FAIL if old else OK)


def packages() -> Iterator[Finding]:
    """What this package requires, and its extras."""
    from packaging.requirements import Requirement

    required: dict[str, list[Requirement]] = {}
    for line in importlib.metadata.requires(PACKAGE) or ():
        requirement = Requirement(line)
        extra = re.search(r"extra == ['\"]([\w-]+)", line)
        required.setdefault(extra[1] if extra else "", []).append(requirement)
    wrong = [text for requirement in required.pop("") if (text := unmet(requirement))]
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in NAMED if not any(text.startswith(name) for text in wrong))
    remedy = f"{'; '.join(wrong)}. Type pip install {' '.join(repr(text.partition(' (')[0]) for text in wrong)}"
    yield Finding("packages", remedy if wrong else versions, FAIL if wrong else OK)
    lacking = [extra for extra, wanted in sorted(required.items()) if any(map(unmet, wanted))]
    there = ", ".join(extra for extra in sorted(required) if extra not in lacking) or "none"
    absent = f"; not installed: {', '.join(lacking)} (pip install '{PACKAGE}[{lacking[0]}]')" if lacking else ""
    yield Finding("extras", f"{there}{absent}", NOTE if absent else OK)


def unmet(requirement: Requirement) -> str:
    """The requirement with what is there instead; empty where it is met. Extras of this package itself count as met."""
    if requirement.name == PACKAGE:
        return ""
    wanted = f"{requirement.name}{requirement.specifier}"
    try:
        found = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{wanted} (not installed)"
    return "" if requirement.specifier.contains(found, prereleases=True) else f"{wanted} ({found} is installed)"


def memory() -> Finding:
    """Cores and memory."""
    read = dict(re.findall(r"(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(encoding="ascii")))
    free, total = (int(read[name]) * 1024 / 1e9 for name in ("MemAvailable", "MemTotal"))
    return Finding("memory", f"{free:.1f} of {total:.1f} GB available; {len(os.sched_getaffinity(0))} cores")


def disk(key: str, folder: Path) -> Finding:
    """Whether a folder, or the one in which it would be made, can be written, and has room."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if not there.is_dir() or not os.access(there, os.W_OK):
        return Finding("disk", f"{folder}: {there} cannot be written. Type lab train {key}=FOLDER ..., a folder that can.", FAIL)
    few = f"; that is little for checkpoints and features. {key}=FOLDER takes another disk" if free < FEW_FREE else ""
    return Finding("disk", f"{folder}/: {free / 1e9:.1f} GB free ({key}){few}", FAIL if free < LEAST_FREE else NOTE if few else OK)


def store(x: Experiment) -> Finding:
    """Whether the MLflow store can be reached; a run starts without, and `lab sync` delivers it later."""
    from lab.store.sync_state import store_uri

    if not x.tracking.enabled:
        return Finding("MLflow", "off (tracking.enabled=false)", NOTE)
    uri = store_uri(x.tracking)
    shown = without_secrets(uri)
    later = "Runs are kept in tracking.runs_dir all the same: type lab sync when it is back."
    if uri.startswith(("http://", "https://")):
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=TIMEOUT_S):
                return Finding("MLflow", f"{shown} answers")
        except (OSError, ValueError) as error:
            return Finding("MLflow", f"{shown} does not answer ({without_secrets(str(getattr(error, 'reason', error)))}). {later}", NOTE)
    path = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None
    if path is None or not path.exists():
        return Finding("MLflow", f"{shown}" + ("; it is made with the first run" if path else ""))
    try:
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=TIMEOUT_S) as connection:
            number = connection.execute("select count(*) from runs").fetchone()[0]
    except sqlite3.Error as error:
        return Finding("MLflow", f"{shown} cannot be read ({error}). {later}", NOTE)
    return Finding("MLflow", f"{shown}: {number} runs")


def checkpoints(x: Experiment) -> Iterator[Finding]:
    """Where the checkpoint of each model option is; only the chosen one's has to be there, or to be fetched."""
    import yaml

    from lab.config import ENDPOINT

    files = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in shipped("conf").glob("model/*.yaml")}
    options = {option: values.get("path") for option, values in files.items() if values.get("family") != ENDPOINT}
    chosen = {} if x.model.family == ENDPOINT else {x.model.name: x.model.path}
    if x.model.family == ENDPOINT:
        yield Finding("checkpoint", "model=endpoint has no weights here; type lab evaluate model=endpoint endpoint.base_url=URL", FAIL)
    for option, path in sorted((options | chosen).items(), key=lambda item: (item[0] != x.model.name, item[0])):
        sources = [x.model.vision_from, x.model.llm_from] if option == x.model.name and x.model.llm_from else [path]
        places = [place(each) for each in sources if each]
        where = " and ".join(filter(None, places)) if places and all(places) else None
        if where is not None:
            yield Finding("checkpoint", f"model={option}: {where}")
            continue
        elsewhere = not path or path.startswith(("/", ".", "~"))
        offline = not elsewhere and os.environ.get("HF_HUB_OFFLINE") == "1"
        remedy = f"type hf download {path}, or it is fetched when it is used"
        if elsewhere:
            given = "model.vision_from=FOLDER model.llm_from=FOLDER" if option == "assembled" else "model.path=FOLDER"
            remedy = f"type lab train model={option} {given}"
        elif offline:
            remedy = f"type HF_HUB_OFFLINE=0 hf download {path}"
        needed = option == x.model.name and (elsewhere or offline)
        yield Finding("checkpoint", f"model={option}: {path or 'your own'}, not here; {remedy}", FAIL if needed else NOTE)


def place(path: str) -> str | None:
    """Where a checkpoint lies: a folder, one that is shipped, or Hugging Face's cache; None: nowhere here."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    from lab.errors import ModelError
    from lab.model import locate

    try:
        folder = Path(locate(os.path.expanduser(path)))
        if (folder / "config.json").is_file():
            return str(folder)
        cached = try_to_load_from_cache(path, "config.json")
    except (ModelError, HFValidationError):
        return None
    return str(Path(cached).parent) if isinstance(cached, str) else None


def gpu() -> Finding:
    """What PyTorch sees; it is imported for that."""
    import torch

    if torch.cuda.is_available():
        seen = [(torch.cuda.get_device_name(i), *torch.cuda.mem_get_info(i)) for i in range(torch.cuda.device_count())]
        each = ", ".join(f"{name} ({free / 1e9:.0f} of {total / 1e9:.0f} GB free)" for name, free, total in seen)
        return Finding("GPU", f"{each}; CUDA {torch.version.cuda}, bfloat16 {'yes' if torch.cuda.is_bf16_supported() else 'no'}")
    if Path("/proc/driver/nvidia/version").exists():
        remedy = "install the one that https://pytorch.org/get-started/locally names"
        return Finding("GPU", f"there is a driver, and this PyTorch ({torch.__version__}) cannot use it: {remedy}", NOTE)
    return Finding("GPU", "none: training runs on the CPU, which the shipped tiny base is made for")


if __name__ == "__main__":
    sys.exit(main())
