"""How many optimizer steps a training takes. Light."""

from __future__ import annotations

from lab.config import TrainerSection


def num_steps(section: TrainerSection, num_train: int) -> int:
    """Optimizer steps over so many examples."""
    if section.max_steps is not None:
        return section.max_steps
    assert section.max_epochs is not None
    return max(1, round(section.max_epochs * num_train / section.samples_per_step))


def epoch_steps(section: TrainerSection, num_train: int) -> float:
    """Optimizer steps of one pass over so many examples."""
    return num_train / section.samples_per_step
