"""A run's records as MLflow's entities; the same record gives the same ones."""

from __future__ import annotations

import json
from datetime import datetime
from typing import TYPE_CHECKING

from lab.store.runs import Run
from lab.tracking import naming

if TYPE_CHECKING:
    from mlflow.entities import DatasetInput, Metric

LONGEST_PARAM, LONGEST_TAG, LONGEST_NAME, LONGEST_DIGEST = 6000, 8000, 250, 36
"""Characters that MLflow's columns hold."""
CONTEXTS = {"train": "training", "minival": "validation", "dev": "evaluation"}
"""What MLflow calls the use of each split."""


def cut(text: str, longest: int) -> str:
    """A text as long as MLflow keeps it, with a mark where the rest is missing; `run.json` has all of it."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def milliseconds(time: str, seconds: float = 0.0) -> int:
    """MLflow's time stamp of an ISO time, and some seconds after it."""
    return int(1000 * (datetime.fromisoformat(time).timestamp() + seconds))


def points_of(row: dict[str, float], started: str) -> list[Metric]:
    """The points of one line of `curves.jsonl` or `system.jsonl`."""
    from mlflow.entities import Metric

    time, step = milliseconds(started, row["seconds"]), int(row["step"])
    return [Metric(naming.curve_name(key), float(value), time, step) for key, value in row.items() if key not in ("step", "seconds")]


def final_points(run: Run, numbers: dict[str, float], curves: dict[str, float], model_id: str | None) -> list[Metric]:
    """Final numbers at step 0; one that has the name of a curve ends that, unless it is the curve's last value (`curves`).

    The `arm/` numbers are also those of the MLflow model, on the data that were asked.
    """
    from mlflow.entities import Metric

    time, last = milliseconds(run.ended or run.started), int(run.metrics.get("train/steps", 0))
    asked = datasets_of(run).get("dev")
    data = {} if asked is None else {"dataset_name": asked[0], "dataset_digest": asked[1]}
    of_model = {"model_id": model_id, **data} if model_id else {}
    return [
        Metric(key, float(value), time, last if key in curves else 0, **(of_model if key.startswith(f"{naming.ARM}/") else {}))
        for key, value in numbers.items()
        if repr(curves.get(key)) != repr(value)
    ]


def same(point: Metric) -> tuple[str, int]:
    """What a point is known by. Not by its time or value: a run that goes on from a checkpoint writes some lines a second time."""
    return point.key, point.step


def datasets_of(run: Run) -> dict[str, tuple[str, str, int]]:
    """By split that a run was made with: the name, the digest and the number of its samples."""
    data, option = run.facts.get("data") or {}, run.config.get("data", {}).get("name", "data")
    samples, counts = data.get("samples") or {}, data.get("counts") or {}
    return {split: (f"{option}.{split}", samples[split][:LONGEST_DIGEST], counts[split]) for split in samples if counts.get(split)}


def dataset_inputs(run: Run) -> list[DatasetInput]:
    """What `mlflow.log_input` makes of them."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dial = run.config.get("data", {})
    source = json.dumps({key: dial[key] for key in ("name", "path", "root", "source") if dial.get(key)})
    return [
        DatasetInput(
            Dataset(name, digest, "lab", source, profile=json.dumps({"num_rows": size})),
            [InputTag("mlflow.data.context", CONTEXTS.get(split, split))],
        )
        for split, (name, digest, size) in datasets_of(run).items()
    ]
