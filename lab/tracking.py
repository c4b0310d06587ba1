"""Run folders delivered to MLflow: the only file that imports it.

Training never talks to the tracker. Run folders are the truth; `Courier.deliver` copies what is new of one to MLflow
(batched: one call for many points), as often as it is called, and can do so again later if the server was away.
What has been delivered is kept in `delivered.json` of the run folder.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import runs
from lab.config import Tracking, flat
from lab.runs import Run, Sweep

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

POINTS_A_CALL = 1000
"""MLflow's limit for one `log_batch`."""
PARAMS_A_CALL = 100
STATUS = {runs.RUNNING: "RUNNING", runs.FINISHED: "FINISHED", runs.FAILED: "FAILED", runs.KILLED: "KILLED"}


def store_uri(section: Tracking) -> str:
    """Where runs are shown: `tracking.uri`, else MLFLOW_TRACKING_URI, else a SQLite file in the working folder."""
    return section.uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"


class Courier:
    """Delivers run folders of one `runs_dir` to one MLflow experiment. An absent server is said once and costs no run."""

    def __init__(self, section: Tracking) -> None:
        self.section = section
        self.uri = store_uri(section)
        self.runs_dir = Path(section.runs_dir)
        self.away: str | None = None
        self._client: MlflowClient | None = None
        self._experiment: str | None = None

    def client(self) -> MlflowClient:
        """The MLflow client, made on first use; retries are few, because undelivered records wait in the run folder."""
        if self._client is None:
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            logging.getLogger("alembic").setLevel(logging.WARNING)
            logging.getLogger("mlflow").setLevel(logging.WARNING)
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=self.uri)
        return self._client

    def experiment(self) -> str:
        """The id of the MLflow experiment, created if need be."""
        if self._experiment is None:
            from mlflow.exceptions import MlflowException

            found = self.client().get_experiment_by_name(self.section.experiment)
            if found is None:
                try:
                    self._experiment = self.client().create_experiment(self.section.experiment)
                except MlflowException:  # another process was faster
                    found = self.client().get_experiment_by_name(self.section.experiment)
            self._experiment = self._experiment or found.experiment_id
        return self._experiment

    def deliver(self, identity: str) -> bool:
        """Bring MLflow up to date with a run folder; False if the tracker is away (said once)."""
        return self._try(lambda: self._deliver(identity))

    def deliver_sweep(self, identity: str) -> bool:
        """Bring the parent run of a sweep up to date; False if the tracker is away."""
        return self._try(lambda: self._deliver_sweep(identity))

    def _try(self, act: Any) -> bool:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        if not self.section.enabled:
            return True
        try:
            act()
        except (MlflowException, SQLAlchemyError, OSError) as error:
            if self.away is None:
                first = str(error).strip().split("\n")[0][:200]
                log.warning(
                    "MLflow at %s does not answer (%s). Nothing is lost: runs are kept in %s and `python -m lab.sync` "
                    "delivers them.", self.uri, first, self.runs_dir,
                )
            self.away = str(error)
            return False
        self.away = None
        return True

    def _deliver(self, identity: str) -> None:
        run = runs.load(self.runs_dir, identity)
        if run is None:
            return
        run_dir = runs.folder(self.runs_dir, identity)
        note = run_dir / "delivered.json"
        done = json.loads(note.read_text()) if note.exists() else {}
        if done.get("uri") != self.uri or done.get("started") != run.started:
            done = {"uri": self.uri, "started": run.started, "run_id": self._find(run) or self._create(run), "points": 0}
        client, run_id = self.client(), done["run_id"]
        rows = list(runs.curves(run_dir, skip=done["points"]))
        points = [
            _metric(key, value, int(row["step"]), run.started, row["seconds"])
            for row in rows
            for key, value in row.items()
            if key not in ("step", "seconds")
        ]
        for start in range(0, len(points), POINTS_A_CALL):
            client.log_batch(run_id, metrics=points[start : start + POINTS_A_CALL])
        done["points"] += len(rows)
        told = done.get("metrics", {})
        new = {key: value for key, value in run.metrics.items() if repr(told.get(key)) != repr(value)}
        if new or run.status != done.get("status"):
            client.log_batch(run_id, metrics=[_metric(key, value, 0, run.ended or run.started, 0.0) for key, value in new.items()])
            if run.status != runs.RUNNING:
                self._artifacts(run, run_dir, run_id)
                client.set_terminated(run_id, STATUS[run.status])
            done |= {"status": run.status, "metrics": run.metrics}
        runs.write_atomically(note, json.dumps(done) + "\n")

    def _find(self, run: Run) -> str | None:
        """The MLflow run of this very start, if a delivery was cut off before it was noted."""
        tags = f"tags.`lab.identity` = '{run.identity}' and tags.`lab.started` = '{run.started}'"
        found = self.client().search_runs([self.experiment()], filter_string=tags, max_results=1)
        return found[0].info.run_id if found else None

    def _create(self, run: Run) -> str:
        from mlflow.entities import Param, RunTag

        tags = {"lab.identity": run.identity, "lab.started": run.started, "lab.command": run.command}
        if run.sweep is not None:
            parent = self._deliver_sweep(run.sweep)
            if parent is not None:
                tags["mlflow.parentRunId"] = parent
        created = self.client().create_run(self.experiment(), run_name=run.name, tags=tags).info.run_id
        params = [Param(key, str(value)[:500]) for key, value in flat(run.config).items() if not key.startswith("tracking.")]
        for start in range(0, len(params), PARAMS_A_CALL):
            self.client().log_batch(created, params=params[start : start + PARAMS_A_CALL])
        self.client().log_batch(created, tags=[RunTag("lab.run_folder", str(runs.folder(self.runs_dir, run.identity)))])
        return created

    def _artifacts(self, run: Run, run_dir: Path, run_id: str) -> None:
        for name in ("run.json", "contract.json", "log.txt"):
            if (run_dir / name).exists():
                self.client().log_artifact(run_id, str(run_dir / name))
        for name in ("predictions", "adapter"):
            if (run_dir / name).is_dir():
                self.client().log_artifacts(run_id, str(run_dir / name), artifact_path=name)

    def _deliver_sweep(self, identity: str) -> str | None:
        sweep = runs.load_sweep(self.runs_dir, identity)
        if sweep is None:
            return None
        tag = f"tags.`lab.sweep` = '{sweep.identity}'"
        found = self.client().search_runs([self.experiment()], filter_string=tag, max_results=1)
        parent = found[0].info.run_id if found else self._create_sweep(sweep)
        status = "FINISHED" if sweep.ended else "RUNNING"
        if found and found[0].info.status != status:
            self.client().update_run(parent, status)
        return parent

    def _create_sweep(self, sweep: Sweep) -> str:
        tags = {"lab.sweep": sweep.identity, "lab.command": sweep.command, "lab.dials": ", ".join(sweep.dials)}
        if sweep.question:
            tags["mlflow.note.content"] = sweep.question
        return self.client().create_run(self.experiment(), run_name=sweep.name, tags=tags).info.run_id


def _metric(key: str, value: float, step: int, started: str, seconds: float) -> Any:
    from datetime import datetime

    from mlflow.entities import Metric

    timestamp = int(1000 * (datetime.fromisoformat(started).timestamp() + seconds))
    return Metric(key, float(value), timestamp, step)


class Background:
    """Delivers one run every few seconds from a thread, so that a slow tracker never slows a step."""

    def __init__(self, courier: Courier, identity: str, every_s: float = 5.0) -> None:
        self.courier = courier
        self.identity = identity
        self.every_s = every_s
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._loop, name="courier", daemon=True)

    def __enter__(self) -> Background:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()
        self.courier.deliver(self.identity)

    def _loop(self) -> None:
        while not self.stop.wait(self.every_s):
            self.courier.deliver(self.identity)
