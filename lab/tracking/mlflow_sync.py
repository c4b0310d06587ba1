"""Run folders delivered to MLflow, batched: one call for many points.

A delivery may be cut anywhere: by a kill on either side, by a time-out whose request arrived all the same. The next one
then asks MLflow what it has, and sends the rest: every point is there once, and a run has one MLflow run for each start.
"""

from __future__ import annotations

import importlib.util
import logging
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from lab.config import Tracking
from lab.errors import ConfigError
from lab.host.redaction import without_secrets
from lab.store import curve_files, runs, sync_state
from lab.store.runs import Run
from lab.store.sync_state import LOCK, SHAPE, Delivered, one_at_a_time
from lab.tracking import naming
from lab.tracking.delivery import Delivery
from lab.tracking.mlflow_entities import (
    LONGEST_NAME,
    LONGEST_PARAM,
    LONGEST_TAG,
    cut,
    dataset_inputs,
    final_points,
    milliseconds,
    points_of,
    same,
)  # fmt: skip
from lab.tracking.mlflow_store import MlflowStore

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Metric

log = logging.getLogger(__name__)

POINTS_A_CALL = 1000
"""MLflow's limit for one `log_batch`."""
PARAMS_A_CALL = 100
REPLACED = "RESOURCE_DOES_NOT_EXIST"
"""What MLflow says of a run that its store does not know: the store was replaced since the last delivery."""
FINAL = (runs.FINISHED, runs.FAILED, runs.KILLED, runs.STOPPED)
STATUSES = {runs.PAUSED: runs.RUNNING, runs.STOPPED: runs.KILLED}
"""What MLflow calls those of ours that it does not know."""


class MlflowSync(Delivery):
    """Delivers run folders of one `runs_dir` to one MLflow experiment.

    changed: runs whose record is no longer what was sent, which the user knows.
    Raises `ConfigError` where MLflow is not installed and `tracking.enabled` asks for it.
    """

    title = "MLflow"

    def __init__(self, section: Tracking) -> None:
        super().__init__(section)
        if section.enabled and importlib.util.find_spec("mlflow") is None:
            raise ConfigError(
                "tracking.enabled=true: the package mlflow is not installed. Install it with `pip install mlflow`, or give "
                "tracking.enabled=false: runs are kept in tracking.runs_dir all the same."
            )
        self.store = MlflowStore(section)
        self.uri = self.store.uri
        self.changed: set[str] = set()

    @property
    def address(self) -> str:
        return without_secrets(self.uri)

    def client(self) -> MlflowClient:
        """The MLflow client."""
        return self.store.client()

    def failures(self) -> tuple[type[Exception], ...]:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        return MlflowException, SQLAlchemyError, OSError, ImportError

    def refused(self, error: Exception) -> bool:
        from mlflow.exceptions import MlflowException

        return isinstance(error, MlflowException) and error.get_http_status_code() < 500

    def known(self, run: Run) -> Delivered | None:
        """What is noted of a run's delivery to this store."""
        run_dir = runs.folder(self.runs_dir, run.identity)
        return sync_state.read(run_dir, self.address, self.section.experiment, run.started)

    def bring(self, identity: str, check: bool) -> None:
        from mlflow.exceptions import MlflowException

        run_dir = runs.folder(self.runs_dir, identity)
        if runs.load(self.runs_dir, identity) is None:
            return
        with one_at_a_time(run_dir / LOCK):
            run = runs.load(self.runs_dir, identity)
            assert run is not None
            run = runs.truthful(self.runs_dir, run)
            try:
                known = self.known(run)
                if known is not None and check:
                    self.client().get_run(known.run_id)
                self._bring(run, run_dir, known or self._begin(run, run_dir))
            except MlflowException as error:
                if error.error_code != REPLACED:
                    raise
                self.store.forget()
                self._bring(run, run_dir, self._begin(run, run_dir))

    def _begin(self, run: Run, run_dir: Path) -> Delivered:
        """The MLflow run of this start: the one that a delivery made and could not note, or a new one."""
        from mlflow.entities import Param

        tags = f"tags.`lab.identity` = '{run.identity}' and tags.`lab.started` = '{run.started}'"
        found = self.client().search_runs([self.store.experiment()], filter_string=tags, max_results=1)
        run_id = found[0].info.run_id if found else self._create(run)
        there = found[0].data.params if found else {}
        wanted = {key: cut(value, LONGEST_PARAM) for key, value in naming.parameters(run.config).items()}
        params = [Param(key, value) for key, value in wanted.items() if key not in there]
        for start in range(0, len(params), PARAMS_A_CALL):
            self.client().log_batch(run_id, params=params[start : start + PARAMS_A_CALL])
        earlier = bool(found) and "lab.role" not in found[0].data.tags
        note = Delivered(
            self.address, self.section.experiment, run.started, run_id, sending=bool(found), shape=1 if earlier else SHAPE
        )
        note.keep(run_dir)
        return note

    def _tags(self, run: Run) -> dict[str, str]:
        tags = {"lab.identity": run.identity, "lab.started": run.started, "lab.command": cut(run.command, LONGEST_TAG)}
        tags |= {"lab.role": naming.ARM, "lab.run_folder": str(runs.folder(self.runs_dir, run.identity))}
        tags["lab.replicate_group"] = naming.replicate_group(run.config)
        return tags | ({"lab.sweep": run.sweep} if run.sweep is not None else {})

    def _create(self, run: Run) -> str:
        """A new MLflow run; those of earlier starts are no arms of a sweep any longer."""
        tags = f"tags.`lab.identity` = '{run.identity}' and tags.`lab.role` = '{naming.ARM}'"
        for earlier in self.client().search_runs([self.store.experiment()], filter_string=tags):
            self.client().set_tag(earlier.info.run_id, "lab.role", naming.REPLACED)
        name = cut(naming.name_of(run), LONGEST_NAME)
        created = self.client().create_run(self.store.experiment(), milliseconds(run.started), self._tags(run), run_name=name)
        return created.info.run_id

    def _reshape(self, run: Run, run_dir: Path, note: Delivered) -> None:
        """Make of an MLflow run below a parent, as an earlier version logged it, an arm on its own; its points stay as they are."""
        for key, value in self._tags(run).items():
            self.client().set_tag(note.run_id, key, value)
        if "mlflow.parentRunId" in self.client().get_run(note.run_id).data.tags:
            self.client().delete_tag(note.run_id, "mlflow.parentRunId")
        note.shape, note.status = SHAPE, None  # so that what only finished runs have is sent
        note.keep(run_dir)

    def _bring(self, run: Run, run_dir: Path, note: Delivered) -> None:
        """Send what the note says is missing: points of the curves, the summary of a run that has finished, files, status.

        MLflow forgets no point, so each name is sent once for a step. The summary of a run that has not finished may change when
        it goes on; till then it is in `run.json` alone.
        """
        if note.shape < SHAPE:
            self._reshape(run, run_dir, note)
        curves = self._curves(run, run_dir, note)
        final = naming.final(run) if run.status == runs.FINISHED else {}
        new = {key: value for key, value in final.items() if key not in note.metrics}
        self._tell_changed(run, note)
        if not new and run.status == note.status:
            return
        if run.status == runs.FINISHED:
            if inputs := dataset_inputs(run):
                self.client().log_inputs(note.run_id, datasets=inputs)
            self._log_model(run, run_dir, note)
        self._send(run_dir, note, final_points(run, new, curves, note.model_id), once=True)
        note.metrics = {**note.metrics, **new}
        note.keep(run_dir)
        if run.status in FINAL:
            self._artifacts(run, run_dir, note.run_id)
            self.client().set_terminated(note.run_id, STATUSES.get(run.status, run.status), milliseconds(run.ended or runs.now()))
        elif note.status is not None:  # it has gone on
            self.client().update_run(note.run_id, STATUSES.get(run.status, run.status))
        note.status = run.status
        note.keep(run_dir)

    def _curves(self, run: Run, run_dir: Path, note: Delivered) -> dict[str, float]:
        """Send new lines of the curves; return the last value of each curve that was logged, by name."""
        rows, samples = list(curve_files.read(run_dir)), list(curve_files.samples(run_dir))
        if rows[note.points :] or samples[note.system :]:
            sent = {same(point) for row in [*rows[: note.points], *samples[: note.system]] for point in points_of(row, run.started)}
            fresh = {same(p): p for row in [*rows[note.points :], *samples[note.system :]] for p in points_of(row, run.started)}
            self._send(run_dir, note, [point for name, point in fresh.items() if name not in sent])
            note.points, note.system = len(rows), len(samples)
            note.keep(run_dir)
        return {naming.curve_name(key): value for row in rows for key, value in row.items() if key not in ("step", "seconds")}

    def _tell_changed(self, run: Run, note: Delivered) -> None:
        """Say once which numbers of a run are no longer those that MLflow was sent."""
        changed = [key for key, sent in note.metrics.items() if repr(run.metrics.get(key, sent)) != repr(sent)]
        if changed and run.identity not in self.changed:
            log.warning("%s: run.json has other numbers than MLflow was sent, which keeps those (%s)", run.identity, ", ".join(changed))
        self.changed |= {run.identity} if changed else set()

    def _send(self, run_dir: Path, note: Delivered, points: list[Metric], once: bool = False) -> None:
        """Log points, each once, also where a delivery before this one was cut off and its points may be there.

        A number that is not finite is left to a tag: MLflow would store another in its place. once: points of step 0 are left out also
        where another step is there, as earlier versions logged final numbers.
        """
        strange = {p.key: f"{p.value} at step {p.step}" for p in reversed(points) if not math.isfinite(p.value)}
        if strange.keys() - note.not_finite.keys():
            note.not_finite = strange | note.not_finite
            told = ", ".join(f"{key} is {value}" for key, value in note.not_finite.items())
            self.client().set_tag(note.run_id, "lab.not_finite", cut(told, LONGEST_TAG))
        points = [point for point in points if math.isfinite(point.value)]
        if note.sending:
            points = self._missing(note.run_id, points, once)
        note.sending = True
        note.keep(run_dir)
        for start in range(0, len(points), POINTS_A_CALL):
            self.client().log_batch(note.run_id, metrics=points[start : start + POINTS_A_CALL])
        note.sending = False

    def _missing(self, run_id: str, points: list[Metric], once: bool) -> list[Metric]:
        """The points that MLflow does not have."""
        there = {same(point) for key in {point.key for point in points} for point in self.client().get_metric_history(run_id, key)}
        names = {key for key, _ in there} if once else set()
        return [point for point in points if same(point) not in there and (point.step or point.key not in names)]

    def _log_model(self, run: Run, run_dir: Path, note: Delivered) -> None:
        """The arm as a model that MLflow can rank; the one that a delivery made and could not note, or a new one."""
        from mlflow.entities import LoggedModelOutput

        if note.model_id is not None:
            return
        found = self.client().search_logged_models([self.store.experiment()], f"source_run_id = '{note.run_id}'", max_results=1)
        model = found[0] if found else self._create_model(run, note.run_id)
        there = self.client().get_run(note.run_id).outputs
        if not found or there is None or model.model_id not in [output.model_id for output in there.model_outputs]:
            self.client().log_outputs(note.run_id, [LoggedModelOutput(model.model_id, 0)])
        self.client().finalize_logged_model(model.model_id, "READY")
        note.model_id = model.model_id
        note.keep(run_dir)

    def _create_model(self, run: Run, run_id: str) -> LoggedModel:
        name = re.sub(r"[/:.%\"']", "_", cut(naming.name_of(run), LONGEST_NAME))
        return self.client().create_logged_model(
            self.store.experiment(), name, source_run_id=run_id, tags={"lab.identity": run.identity},
            params=naming.parameters(run.config), model_type="lora",
        )  # fmt: skip

    def _artifacts(self, run: Run, run_dir: Path, run_id: str) -> None:
        self.client().log_text(run_id, yaml.safe_dump(run.config, sort_keys=False), "config.yaml")
        for name in ("run.json", "contract.json", "log.txt"):
            if (run_dir / name).exists():
                self.client().log_artifact(run_id, str(run_dir / name))
        for name in ("predictions", "adapter"):
            if (run_dir / name).is_dir():
                self.client().log_artifacts(run_id, str(run_dir / name), artifact_path=name)
