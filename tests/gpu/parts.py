"""The parts by name, and how one is run in this process."""

from __future__ import annotations

import importlib
import os
import shutil
import tempfile
import traceback
from pathlib import Path

PARTS = {
    "qwen2_vl_2b": "full_size", "qwen2_5_vl_7b": "full_size", "same_results": "same_results", "precision": "precision", "layouts": "layouts",
    "arms": "arms", "arms_step": "arms_step",
}
"""Name of a part, which is a function, and the module beside this one that it is in."""
ROOMY = Path("/dev/shm")
ROOM = 40e9
"""Bytes that the largest part writes, and as much again."""


def run(part: str, out: Path, device: str = "cuda", small: bool = False, scratch: Path | None = None) -> str:
    """Run a part, leave `<out>/<part>.json`, and return its status; where there is no such device, it is skipped and says so."""
    import torch

    from .scale import Scale
    from .sheet import FAILED, SKIPPED, Sheet

    sheet = Sheet(out / f"{part}.json", part, device, small)
    if device == "cuda" and not torch.cuda.is_available():
        sheet.skip(part, f"PyTorch {torch.__version__} finds no CUDA device")
        return sheet.end(SKIPPED)
    act = getattr(importlib.import_module(f".{PARTS[part]}", __package__), part)
    home = Path(tempfile.mkdtemp(prefix=f"vlm-lab-{part}-", dir=scratch or roomy()))
    try:
        act(Scale(device, small, home), sheet)
    except Exception as error:
        traceback.print_exc()
        sheet.check("it ran to its end", False, f"{type(error).__name__}: {error}")
        return sheet.end(FAILED)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return sheet.end()


def roomy() -> Path | None:
    """Memory that looks like a disk where there is enough of it, since the checkpoints are large; else the usual temporary folder."""
    if os.access(ROOMY, os.W_OK) and shutil.disk_usage(ROOMY).free > ROOM:
        return ROOMY
    return None
