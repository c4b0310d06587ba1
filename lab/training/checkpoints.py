"""Files that a killed run is resumed from: trained weights, optimizer, schedule, RNG and place in the data, and nothing else.

    runs/<identity>/checkpoints/step-00000100.safetensors   everything needed to go on after that many optimizer steps
    runs/<identity>/checkpoints/best.safetensors            trained weights at the best look at minival so far

One safetensors file each, so no pickle is ever read: tensors, and in the header's metadata plain JSON (`facts`) with a CRC
over both. Files are replaced atomically; one that cannot be read, or whose CRC is another, is passed over with a warning.
"""

from __future__ import annotations

import json
import logging
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lab.host.files import write_atomically

log = logging.getLogger(__name__)

VERSION = 1
BEST = "best.safetensors"


class BrokenCheckpoint(Exception):
    """A file that is no whole checkpoint; its text says why."""


class Paused(Exception):
    """The training has come to the step at which it was to pause, or was beyond it; a checkpoint of `step` is kept."""

    def __init__(self, step: int) -> None:
        super().__init__(f"paused after step {step}")
        self.step = step


@dataclass(frozen=True)
class Checkpoint:
    """tensors: by name, on the CPU. facts: JSON values; `step` is the number of optimizer steps done."""

    tensors: dict[str, torch.Tensor]
    facts: dict[str, Any]

    @property
    def step(self) -> int:
        return int(self.facts["step"])

    def group(self, prefix: str) -> dict[str, torch.Tensor]:
        """The tensors under a prefix, by the rest of their names."""
        return {name.removeprefix(f"{prefix}."): value for name, value in self.tensors.items() if name.startswith(f"{prefix}.")}


def folder(run_dir: Path) -> Path:
    """Where a run's checkpoints are."""
    return run_dir / "checkpoints"


def of_step(run_dir: Path, step: int) -> Path:
    """Where that of so many optimizer steps lies, if it is kept."""
    return folder(run_dir) / f"step-{step:08d}.safetensors"


def saved(run_dir: Path) -> list[Path]:
    """The files to go on from, newest first."""
    return sorted(folder(run_dir).glob("step-*.safetensors"), reverse=True)


def newest_step(run_dir: Path) -> int:
    """Optimizer steps done at the newest of them; 0 without one."""
    return next((int(path.stem.removeprefix("step-")) for path in saved(run_dir)), 0)


def save(run_dir: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write `step-N` and remove all but the newest `keep`."""
    path = of_step(run_dir, checkpoint.step)
    write(path, checkpoint)
    for old in saved(run_dir)[keep:]:
        old.unlink()
    return path


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Replace a file as a whole: a kill, or a power cut, leaves the old one or the new one."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()}
    facts = json.dumps({"version": VERSION, **checkpoint.facts}, sort_keys=True)
    metadata = {"facts": facts, "crc": str(checksum(tensors, facts))}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
    synchronise(path.parent)


def synchronise(path: Path) -> None:
    """Have the disk write what it still holds back of a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def checksum(tensors: dict[str, torch.Tensor], facts: str) -> int:
    """CRC-32 over names, bytes and facts."""
    crc = zlib.crc32(facts.encode())
    for name in sorted(tensors):
        crc = zlib.crc32(name.encode(), crc)
        crc = zlib.crc32(tensors[name].reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc


def read(path: Path) -> Checkpoint:
    """Read one file whole. Raises `BrokenCheckpoint` if it is not what was written."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (a safetensors file is no dict)
        facts, crc = metadata["facts"], int(metadata["crc"])
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise BrokenCheckpoint(f"{path}: no checkpoint of this laboratory ({type(error).__name__}: {error})") from None
    if checksum(tensors, facts) != crc:
        raise BrokenCheckpoint(f"{path}: its contents are not what was written")
    values = json.loads(facts)
    if not isinstance(values, dict) or values.pop("version", None) != VERSION:
        raise BrokenCheckpoint(f"{path}: written by another version of this laboratory")
    return Checkpoint(tensors, values)


def newest(run_dir: Path) -> Checkpoint | None:
    """The newest whole checkpoint of a run; broken ones are told and passed over, and None means from the beginning."""
    for path in saved(run_dir):
        try:
            return read(path)
        except BrokenCheckpoint as error:
            log.warning("%s; going on from the one before", error)
    return None


def clear(run_dir: Path) -> None:
    """Remove a run's checkpoints, temporary files of killed writers included."""
    if folder(run_dir).is_dir():
        for path in folder(run_dir).iterdir():
            path.unlink()
        folder(run_dir).rmdir()
