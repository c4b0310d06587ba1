"""Run folders delivered to MLflow: the only file that imports it.

Training never talks to the tracker. Run folders are the truth; `MlflowSync.deliver` copies what is new of one to MLflow
(batched: one call for many points), as often as it is called, and can do so again later if the server was away.
What it has is noted in the folder (`lab.store.sync_state`).

A delivery may be cut anywhere: by a kill on either side, by a time-out whose request arrived all the same. The next one
then asks MLflow what it has, and sends the rest: every point is there once, and a run has one MLflow run for each start.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import multiprocessing
import os
import shlex
import shutil
import signal
import sqlite3
import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab.config import Tracking, flat
from lab.errors import ConfigError, DataError
from lab.host.files import text_hash
from lab.host.redaction import without_secrets
from lab.store import runs, sync_state
from lab.store.runs import Run, Sweep
from lab.store.sync_state import LOCK, Delivered, one_at_a_time, store_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

log = logging.getLogger(__name__)

POINTS_A_CALL = 1000
"""MLflow's limit for one `log_batch`."""
PARAMS_A_CALL = 100
LONGEST_PARAM, LONGEST_TAG, LONGEST_NAME = 6000, 8000, 250
"""Characters that MLflow's columns hold."""
REPLACED = "RESOURCE_DOES_NOT_EXIST"
"""What MLflow says of a run that its store does not know: the store was replaced since the last delivery."""
EVERY_S = 5.0
EXIT_WARNED = 3
"""Exit code of a background courier that has told the user that the tracker is away."""
FINAL = (runs.FINISHED, runs.FAILED, runs.KILLED)


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


class MlflowSync:
    """Delivers run folders of one `runs_dir` to one MLflow experiment. An absent server is said once and costs no run.

    away: why the server gave no answer to the last delivery, or None. told: whether the user knows. strange: what was said of
    files that cannot be read. changed: runs whose record is no longer what was sent, which the user knows.
    Raises `ConfigError` where MLflow is not installed and `tracking.enabled` asks for it.
    """

    def __init__(self, section: Tracking) -> None:
        if section.enabled and importlib.util.find_spec("mlflow") is None:
            raise ConfigError(
                "tracking.enabled=true: the package mlflow is not installed. Install it with `pip install mlflow`, or give "
                "tracking.enabled=false: runs are kept in tracking.runs_dir all the same."
            )
        self.section = section
        self.uri = store_uri(section)
        self.runs_dir = Path(section.runs_dir)
        self.away: str | None = None
        self.told = False
        self.strange: set[str] = set()
        self.changed: set[str] = set()
        self._client: MlflowClient | None = None
        self._experiment: str | None = None

    def client(self) -> MlflowClient:
        """The MLflow client, made on first use. It never retries: undelivered records wait in the run folder."""
        if self._client is None:
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
            os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
            os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
            from mlflow import MlflowClient

            logging.getLogger("alembic").setLevel(logging.WARNING)
            logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # what it would say of an error, `_tell` says
            with one_at_a_time(schema_lock(self.uri)):
                copy_migrated_schema(self.uri, Path(self.section.cache_dir))
                self._client = MlflowClient(tracking_uri=self.uri)
        return self._client

    def experiment(self) -> str:
        """The id of the MLflow experiment, created if need be."""
        if self._experiment is None:
            from mlflow.exceptions import MlflowException

            name = self.section.experiment
            found = self.client().get_experiment_by_name(name)
            try:
                self._experiment = self.client().create_experiment(name) if found is None else found.experiment_id
            except MlflowException:
                found = self.client().get_experiment_by_name(name)
                if found is None:  # it was no other process that was faster
                    raise
                self._experiment = found.experiment_id
        return self._experiment

    def deliver(self, identity: str, check: bool = False) -> bool:
        """Bring MLflow up to date with a run folder; False if the tracker is away or refuses (said once).

        check: look whether what was delivered earlier is still there, and deliver all of it again if the store was replaced.
        """
        return self._try(lambda: self._deliver(identity, check))

    def deliver_sweep(self, identity: str) -> bool:
        """Bring the parent run of a sweep up to date; False if the tracker is away or refuses."""
        return self._try(lambda: self._deliver_sweep(identity))

    def deliver_all(self, identities: Sequence[str], sweep: str | None = None, check: bool = False) -> int:
        """Bring MLflow up to date with several runs, then their sweep; return how many are. Ends where no answer comes."""
        done = 0
        for identity in identities:
            done += self.deliver(identity, check)
            if self.away is not None:
                return done
        if sweep is not None:
            self.deliver_sweep(sweep)
        return done

    def _try(self, act: Callable[[], Any]) -> bool:
        if not self.section.enabled:
            return True
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        self.away = None
        try:
            act()
        except DataError as error:  # one file of a run folder; MLflow has nothing to do with it
            if str(error) not in self.strange:
                log.warning("%s It is not delivered.", error)
            self.strange.add(str(error))
            return False
        except (MlflowException, SQLAlchemyError, OSError, ImportError) as error:
            answered = isinstance(error, MlflowException) and error.get_http_status_code() < 500
            self._tell(error, "refuses a record" if answered else "does not answer")
            self.away = None if answered else str(error)
            return False
        return True

    def _tell(self, error: Exception, what: str) -> None:
        if not self.told:
            reason = without_secrets(str(error)).strip().split("\n")[0][:300]
            where = "" if self.section.runs_dir == "runs" else f" --runs-dir {shlex.quote(self.section.runs_dir)}"
            log.warning(
                "MLflow at %s %s (%s). Nothing is lost: runs are kept in %s, and what is missing is delivered as soon as it can "
                "be, or by `python -m lab.sync%s`.", without_secrets(self.uri), what, reason, self.runs_dir, where,
            )
        self.told = True

    def _deliver(self, identity: str, check: bool) -> None:
        from mlflow.exceptions import MlflowException

        run_dir = runs.folder(self.runs_dir, identity)
        if runs.load(self.runs_dir, identity) is None:
            return
        with one_at_a_time(run_dir / LOCK):
            run = runs.load(self.runs_dir, identity)
            assert run is not None
            run = runs.truthful(self.runs_dir, run)
            try:
                known = sync_state.read(run_dir, without_secrets(self.uri), self.section.experiment, run.started)
                if known is not None and check:
                    self.client().get_run(known.run_id)
                self._bring(run, run_dir, known or self._begin(run, run_dir))
            except MlflowException as error:
                if error.error_code != REPLACED:
                    raise
                self._experiment = None
                self._bring(run, run_dir, self._begin(run, run_dir))

    def _begin(self, run: Run, run_dir: Path) -> Delivered:
        """The MLflow run of this start: the one that a delivery made and could not note, or a new one."""
        from mlflow.entities import Param

        tags = f"tags.`lab.identity` = '{run.identity}' and tags.`lab.started` = '{run.started}'"
        found = self.client().search_runs([self.experiment()], filter_string=tags, max_results=1)
        run_id = found[0].info.run_id if found else self._create(run)
        there = found[0].data.params if found else {}
        wanted = {key: cut(str(value), LONGEST_PARAM) for key, value in flat(run.config).items() if not key.startswith("tracking.")}
        params = [Param(key, value) for key, value in wanted.items() if key not in there]
        for start in range(0, len(params), PARAMS_A_CALL):
            self.client().log_batch(run_id, params=params[start : start + PARAMS_A_CALL])
        note = Delivered(without_secrets(self.uri), self.section.experiment, run.started, run_id, sending=bool(found))
        note.keep(run_dir)
        return note

    def _create(self, run: Run) -> str:
        tags = {"lab.identity": run.identity, "lab.started": run.started, "lab.command": cut(run.command, LONGEST_TAG)}
        tags["lab.run_folder"] = str(runs.folder(self.runs_dir, run.identity))
        if run.sweep is not None:
            parent = self._deliver_sweep(run.sweep)
            if parent is not None:
                tags["mlflow.parentRunId"] = parent
        name = cut(run.name, LONGEST_NAME)
        return self.client().create_run(self.experiment(), milliseconds(run.started), tags, run_name=name).info.run_id

    def _bring(self, run: Run, run_dir: Path, note: Delivered) -> None:
        """Send what the note says is missing: points of the curve, files, status, and the summary of a run that has finished.

        MLflow forgets no point, so each name is sent once for a step. The summary of a run that has not finished may change when
        it goes on; till then it is in `run.json` alone.
        """
        rows = list(runs.curves(run_dir))
        if rows[note.points :]:
            known = {same(point) for row in rows[: note.points] for point in points_of(row, run.started)}
            fresh = {same(point): point for row in rows[note.points :] for point in points_of(row, run.started)}
            self._send(run_dir, note, [point for name, point in fresh.items() if name not in known])
            note.points = len(rows)
            note.keep(run_dir)
        new = {} if run.status != runs.FINISHED else {k: value for k, value in run.metrics.items() if k not in note.metrics}
        self._tell_changed(run, note)
        if not new and run.status == note.status:
            return
        last = {key: value for row in rows for key, value in row.items()}
        step = int(run.metrics.get("train/steps", 0))
        summary = {key: value for key, value in new.items() if repr(last.get(key)) != repr(value)}
        self._send(run_dir, note, [metric(key, value, step, run.ended or run.started) for key, value in summary.items()])
        note.metrics = {**note.metrics, **new}
        note.keep(run_dir)
        if run.status in FINAL:
            self._artifacts(run_dir, note.run_id)
            self.client().set_terminated(note.run_id, run.status, milliseconds(run.ended or runs.now()))
        elif note.status is not None:  # it has gone on
            self.client().update_run(note.run_id, run.status)
        note.status = run.status
        note.keep(run_dir)

    def _tell_changed(self, run: Run, note: Delivered) -> None:
        """Say once which numbers of a run are no longer those that MLflow was sent."""
        changed = [key for key, sent in note.metrics.items() if repr(run.metrics.get(key, sent)) != repr(sent)]
        if changed and run.identity not in self.changed:
            log.warning("%s: run.json has other numbers than MLflow was sent, which keeps those (%s)", run.identity, ", ".join(changed))
        self.changed |= {run.identity} if changed else set()

    def _send(self, run_dir: Path, note: Delivered, points: list[Metric]) -> None:
        """Log points, each once, also where a delivery before this one was cut off and its points may be there."""
        if note.sending:
            points = self._missing(note.run_id, points)
        note.sending = True
        note.keep(run_dir)
        for start in range(0, len(points), POINTS_A_CALL):
            self.client().log_batch(note.run_id, metrics=points[start : start + POINTS_A_CALL])
        note.sending = False

    def _missing(self, run_id: str, points: list[Metric]) -> list[Metric]:
        """The points that MLflow does not have."""
        keys = {point.key for point in points}
        there = {same(point) for key in keys for point in self.client().get_metric_history(run_id, key)}
        return [point for point in points if same(point) not in there]

    def _artifacts(self, run_dir: Path, run_id: str) -> None:
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
        with one_at_a_time(self.runs_dir / "sweeps" / LOCK):
            tag = f"tags.`lab.sweep` = '{sweep.identity}'"
            found = self.client().search_runs([self.experiment()], filter_string=tag, max_results=1)
            parent = found[0].info.run_id if found else self._create_sweep(sweep)
            status = self._status_of(sweep)
            if sweep.ended:
                self.client().set_terminated(parent, status, milliseconds(sweep.ended))
            elif found and found[0].info.status != status:
                self.client().update_run(parent, status)
        return parent

    def _status_of(self, sweep: Sweep) -> str:
        if not sweep.ended:
            return runs.RUNNING
        arms = [runs.look(self.runs_dir, name) for name in sweep.arms]
        return runs.FINISHED if all(run is not None and run.status == runs.FINISHED for run in arms) else runs.FAILED

    def _create_sweep(self, sweep: Sweep) -> str:
        tags = {"lab.sweep": sweep.identity, "lab.command": cut(sweep.command, LONGEST_TAG), "lab.dials": ", ".join(sweep.dials)}
        if sweep.question:
            tags["mlflow.note.content"] = sweep.question
        name = cut(sweep.name, LONGEST_NAME)
        return self.client().create_run(self.experiment(), milliseconds(sweep.started), tags, run_name=name).info.run_id


def cut(text: str, longest: int) -> str:
    """A text as long as MLflow keeps it, with a mark where the rest is missing; `run.json` has all of it."""
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def milliseconds(time: str, seconds: float = 0.0) -> int:
    """MLflow's time stamp of an ISO time, and some seconds after it."""
    return int(1000 * (datetime.fromisoformat(time).timestamp() + seconds))


def metric(key: str, value: float, step: int, time: str, seconds: float = 0.0) -> Metric:
    """One point; the same record gives the same point."""
    from mlflow.entities import Metric

    return Metric(key, float(value), milliseconds(time, seconds), step)


def points_of(row: dict[str, float], started: str) -> list[Metric]:
    """The points of one line of `curves.jsonl`."""
    values = {key: value for key, value in row.items() if key not in ("step", "seconds")}
    return [metric(key, value, int(row["step"]), started, row["seconds"]) for key, value in values.items()]


def same(point: Metric) -> tuple[str, int]:
    """What a point is known by. Not by its time or value: a run that goes on from a checkpoint writes some lines a second time."""
    return point.key, point.step


class BackgroundSync:
    """Delivers runs every few seconds from a process of its own, so that a slow tracker slows neither a step nor a sweep.

    It is forked before anything heavy is loaded, ends with a last delivery, and outlives a command that is killed by just
    that. Nothing is started where tracking is off.
    """

    def __init__(self, courier: MlflowSync, identities: Sequence[str], sweep: str | None = None, every_s: float = EVERY_S) -> None:
        self.courier = courier
        self.identities = list(identities)
        self.sweep = sweep
        self.every_s = every_s

    def __enter__(self) -> BackgroundSync:
        if self.courier.section.enabled:
            context = multiprocessing.get_context("fork")
            self.reader, self.writer = context.Pipe(duplex=False)
            self.process = context.Process(target=self._follow, name="courier", daemon=True)
            self.process.start()
            self.reader.close()
        return self

    def __exit__(self, *_: object) -> None:
        if not self.courier.section.enabled:
            return
        with contextlib.suppress(BrokenPipeError):  # it has ended already: its exit code says how
            self.writer.send_bytes(b"end")
        self.process.join()
        self.writer.close()
        if self.process.exitcode == EXIT_WARNED:
            self.courier.told = True
        elif self.process.exitcode != 0:  # it was stopped, as by a SIGTERM to all processes of a job
            self.courier.deliver_all(self.identities, self.sweep)

    def _follow(self) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self.writer.close()  # so that the pipe ends with the parent
        courier = MlflowSync(self.courier.section)
        courier.told = self.courier.told
        while not self.reader.poll(self.every_s):
            courier.deliver_all(self.identities, self.sweep)
        courier.deliver_all(self.identities, self.sweep)
        raise SystemExit(EXIT_WARNED if courier.told else 0)
