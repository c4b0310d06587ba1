"""The MLflow store that runs are sent to: its address, its client, its experiment, and how a new one begins."""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lab.config import Tracking
from lab.host.files import text_hash
from lab.host.garbage import importing
from lab.store.sync_state import one_at_a_time, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient

KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Without it MLflow asks whoever opens the experiment what it is, or shows the page of another kind."""


def schema_lock(uri: str) -> Path:
    """Held while a store is opened: MLflow makes the tables of a new one, and two processes at it break each other's."""
    name = text_hash(f"{os.getcwd()} {uri}", digits=16)
    return Path(tempfile.gettempdir()) / f"vlm-lab-{os.getuid()}-{name}.lock"


def copy_migrated_schema(uri: str, cache: Path) -> None:
    """Begin a new SQLite store as a copy of one that has MLflow's tables already; leave every other store alone.

    MLflow makes them by all its migrations, one after another, which take seconds. The copied store is made so once for each of its
    versions, and kept in `cache`. It knows no experiment: MLflow makes its default one where it opens a store.
    """
    from sqlalchemy.engine import make_url

    name = make_url(uri).database if uri.startswith("sqlite:") else None
    if not name or name.startswith((":", "file:")) or Path(name).exists():
        return
    cache.mkdir(parents=True, exist_ok=True)
    ready = cache / f"mlflow-{importlib.metadata.version('mlflow')}.db"
    if not ready.is_file():
        migrate(ready)
    with contextlib.suppress(OSError), tempfile.TemporaryDirectory(dir=Path(name).parent) as folder:  # else MLflow makes the tables
        os.link(shutil.copy(ready, folder), name)  # not a file that somebody made meanwhile


def migrate(ready: Path) -> None:
    """Make a store with MLflow's tables and nothing in them."""
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory(dir=ready.parent) as folder:
        made = Path(folder) / ready.name
        MlflowClient(tracking_uri=f"sqlite:///{made.resolve()}").search_experiments()
        with contextlib.closing(sqlite3.connect(made)) as store, store:
            store.execute("DELETE FROM experiments")
        made.replace(ready)


class MlflowStore:
    """One experiment of one store, opened on first use. known: its id, once somebody has asked."""

    def __init__(self, section: Tracking) -> None:
        self.section = section
        self.uri = store_uri(section)
        self._client: MlflowClient | None = None
        self.known: str | None = None

    def client(self) -> MlflowClient:
        """The MLflow client. It never retries: undelivered records wait in the run folder."""
        if self._client is None:
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
            with importing():
                from mlflow import MlflowClient

            logging.getLogger("alembic").setLevel(logging.WARNING)
            logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what it would say of an error, `Delivery.tell` says
            with one_at_a_time(schema_lock(self.uri)):
                copy_migrated_schema(self.uri, Path(self.section.cache_dir))
                self._client = MlflowClient(tracking_uri=self.uri)
        return self._client

    def experiment(self) -> str:
        """The id of the MLflow experiment, created if need be, whose kind is set where none is."""
        if self.known is None:
            from mlflow.exceptions import MlflowException

            name = self.section.experiment
            found = self.client().get_experiment_by_name(name)
            if found is None:
                try:
                    self.known = self.client().create_experiment(name, tags=KIND)
                    return self.known
                except MlflowException:
                    found = self.client().get_experiment_by_name(name)
                    if found is None:  # it was no other process that was faster
                        raise
            for key, value in KIND.items():
                if not found.tags.get(key):
                    self.client().set_experiment_tag(found.experiment_id, key, value)
            self.known = found.experiment_id
        return self.known

    def forget(self) -> None:
        """Look the experiment up anew: the store was replaced."""
        self.known = None
