"""A laboratory for visual reasoning with fine-tuned vision-language models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lab.experiment import Experiment

__version__ = "0.1.0"
__all__ = ["Experiment", "__version__"]


def __getattr__(name: str) -> Any:
    """`Experiment`, imported when it is first asked for, so that `import lab` stays light."""
    if name != "Experiment":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from lab.experiment import Experiment

    return Experiment
