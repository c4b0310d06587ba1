"""Keep a half-trained base on disk, so that the same command continues where it was stopped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from lab.errors import ConfigError
from lab.pretraining.recipe import Recipe

if TYPE_CHECKING:
    from lab.pretraining.stages import Course

FILE = "state/state.pt"


def save_state(course: Course, stage: str, step: int, optimizer: torch.optim.Optimizer) -> None:
    """Write everything the rest of the run depends on, in one step; a kill leaves the old file or the new."""
    path = course.out / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "recipe": course.recipe.as_dict(),
        "stage": stage,
        "step": step,
        "model": course.model.state_dict(),
        "probes": course.probes.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": course.history,
    }
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def load_state(out: Path, recipe: Recipe) -> dict | None:
    """Read the state back, or None if there is none. Raises `ConfigError` if it belongs to another recipe."""
    path = out / FILE
    if not path.is_file():
        return None
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:  # a file that is no state raises whatever its reader raises
        raise ConfigError(f"--out {out}: its {FILE} cannot be read ({type(error).__name__}). Remove it to begin anew.") from None
    other = {k: v for k, v in recipe.as_dict().items() if state["recipe"].get(k) != v}
    if other:
        raise ConfigError(
            f"--out {out}: its state was made with another recipe; this one differs in {other}. Use another folder."
        )
    return state
