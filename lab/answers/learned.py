"""Scores of written answers that took a model: kept beside the predictions that they are of, a file for each metric.

    <predictions>.<metric>.parquet     sample_id, and the columns of `COLUMNS`, in the order of the predictions

Its metadata are an `Origin`. A file whose predictions were written or read anew since is told and left unread.
"""

from __future__ import annotations

import functools
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lab.errors import DataError
from lab.host.files import text_hash, write_atomically

log = logging.getLogger(__name__)

KEY = b"vlm_lab.learned"
COLUMNS = {"bertscore": ("bertscore",), "bartscore": ("bartscore", "bartscore_of_reference"), "cosine": ("cosine",)}
"""The columns of each metric, float64 [n]. bartscore_of_reference: of the reference with itself, which no answer need reach."""
NAMES = tuple(column for columns in COLUMNS.values() for column in columns)
SCORED = ("sample_id", "text", "post", "references")
"""Columns of predictions that a score depends on."""


@dataclass(frozen=True)
class Origin:
    """What made the scores. model: as it was named. weights: their SHA-256. options: of the metric. answers: digest of what was scored.

    random_weights: whether the model says that they were drawn.
    """

    metric: str
    model: str
    weights: str
    options: dict[str, Any]
    versions: dict[str, str]
    answers: str
    random_weights: bool = False

    @property
    def short(self) -> str:
        """The model with the first digits of its weights' hash, and the options."""
        options = "".join(f", {key}={value}" for key, value in self.options.items())
        drawn = ", random weights" if self.random_weights else ""
        return f"{Path(self.model).name} (weights {self.weights[:8]}{options}{drawn})"


def file(predictions: str | os.PathLike, metric: str) -> Path:
    """Where the scores of a predictions file lie."""
    path = Path(predictions)
    return path.with_name(f"{path.stem}.{metric}.parquet")


def is_scores(path: Path) -> bool:
    """Whether a file of a folder of predictions holds scores."""
    return path.name.endswith(tuple(f".{metric}.parquet" for metric in COLUMNS))


def stored(predictions: str | os.PathLike) -> tuple[str, ...]:
    """The metrics whose scores lie beside a predictions file."""
    return tuple(metric for metric in COLUMNS if file(predictions, metric).exists())


def digest(columns: Mapping[str, np.ndarray]) -> str:
    """Stands for `SCORED` of a table."""
    rows = zip(*(columns[name].tolist() for name in SCORED), strict=True)
    return text_hash(*(json.dumps(row) for row in rows))


def write(path: Path, ids: np.ndarray, values: Mapping[str, np.ndarray], origin: Origin) -> None:
    """Write a file of scores whole or not at all."""
    columns = {"sample_id": ids.tolist()} | {name: np.asarray(each, dtype=np.float64) for name, each in values.items()}
    rows = pa.table(columns, metadata={KEY: json.dumps(asdict(origin)).encode()})
    write_atomically(path, lambda temporary: pq.write_table(rows, temporary, compression="zstd", write_page_checksum=True))


def origin(path: Path) -> Origin:
    """What made a file of scores. Raises `DataError` for one that is none."""
    try:
        return Origin(**json.loads((pq.read_schema(path).metadata or {})[KEY]))
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise DataError(f"{path}: these are no scores ({type(error).__name__}: {error}). Move the file away and score again.") from None


def beside(predictions: str | os.PathLike, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The scores that lie beside predictions with these columns, `SCORED` among them, by column."""
    found: dict[str, np.ndarray] = {}
    for metric in stored(predictions):
        path = file(predictions, metric)
        if origin(path).answers != digest(columns):
            _tell_stale(path, metric)
            continue
        try:
            rows = pq.read_table(path, columns=list(COLUMNS[metric]), use_threads=False)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{path}: these are no scores ({error}). Move the file away and score again.") from None
        found |= {name: rows.column(name).to_numpy() for name in COLUMNS[metric]}
    return found


@functools.cache
def _tell_stale(path: Path, metric: str) -> None:
    log.warning("%s: its answers were written or read anew since; it is left out. Type lab score RUN --metric %s to score them.", path, metric)
