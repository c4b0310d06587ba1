"""The section `tracking`: where runs are kept and shown."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class AlsoTracked(Enum):
    wandb = "wandb"


@dataclass
class Tracking:
    """Where runs are kept, and the MLflow server they are shown in (None: MLFLOW_TRACKING_URI, else a local file).

    also: other trackers that get every run, once it has ended.
    """

    runs_dir: str = "runs"
    cache_dir: str = "cache"
    cache_gb: float = 100.0
    experiment: str = "lab"
    uri: str | None = None
    also: list[AlsoTracked] = field(default_factory=list)
    enabled: bool = True
