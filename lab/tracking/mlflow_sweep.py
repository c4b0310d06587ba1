"""The one MLflow run of a sweep: its table, best arm, figures, report, config and a note. Its arms are tied to it by tags."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lab.host.files import values_hash, write_atomically
from lab.store import runs
from lab.store.runs import Sweep
from lab.store.sync_state import LOCK, SHAPE, one_at_a_time
from lab.tracking import naming
from lab.tracking.mlflow_entities import LONGEST_NAME, LONGEST_TAG, cut, milliseconds
from lab.tracking.mlflow_sync import MlflowSync

if TYPE_CHECKING:
    from mlflow.entities import Run as MlflowRun

TABLE = "table.json"


class MlflowSweeps:
    """Brings MLflow up to date with sweeps whose arms a `MlflowSync` delivers."""

    def __init__(self, sync: MlflowSync) -> None:
        self.sync = sync
        self.runs_dir = sync.runs_dir

    def deliver(self, identity: str) -> bool:
        """Make the run of a sweep if need be, and tell whether it has ended; False if MLflow is away or refuses."""
        return self.sync.attempt(lambda: self._bring(identity))

    def publish(self, identity: str) -> bool:
        """Put the report into the run of a sweep, and names and colours on its arms, unless nothing has changed since.

        Takes seconds. False if MLflow is away or refuses.
        """
        return self.sync.attempt(lambda: self._publish(identity))

    def _bring(self, identity: str) -> str | None:
        sweep = runs.load_sweep(self.runs_dir, identity)
        if sweep is None:
            return None
        client = self.sync.client()
        with one_at_a_time(self.runs_dir / "sweeps" / LOCK):
            found = self._search(f"tags.`lab.sweep` = '{identity}' and tags.`lab.role` = '{naming.SWEEP}'")
            found = found or [run for run in self._search(f"tags.`lab.sweep` = '{identity}'") if "lab.role" not in run.data.tags]
            run_id = found[0].info.run_id if found else self._create(sweep)
            if found and "lab.role" not in found[0].data.tags:  # of an earlier version
                client.set_tag(run_id, "lab.role", naming.SWEEP)
            status = self._status_of(sweep)
            if sweep.ended:
                client.set_terminated(run_id, status, milliseconds(sweep.ended))
            elif found and found[0].info.status != status:
                client.update_run(run_id, status)
        return run_id

    def _search(self, tags: str) -> list[MlflowRun]:
        return self.sync.client().search_runs([self.sync.store.experiment()], filter_string=tags)

    def _create(self, sweep: Sweep) -> str:
        tags = {"lab.sweep": sweep.identity, "lab.role": naming.SWEEP, "lab.command": cut(sweep.command, LONGEST_TAG)}
        tags["lab.dials"] = ", ".join(sweep.dials)
        if sweep.question:
            tags["mlflow.note.content"] = sweep.question
        name, started = cut(f"sweep {sweep.name}", LONGEST_NAME), milliseconds(sweep.started)
        return self.sync.client().create_run(self.sync.store.experiment(), started, tags, run_name=name).info.run_id

    def _status_of(self, sweep: Sweep) -> str:
        if not sweep.ended:
            return runs.RUNNING
        arms = [runs.look(self.runs_dir, name) for name in sweep.arms]
        return runs.FINISHED if all(run is not None and run.status in (runs.FINISHED, runs.STOPPED) for run in arms) else runs.FAILED

    def _publish(self, identity: str) -> None:
        from lab.tracking.sweep_page import sweep_page

        run_id, sweep = self._bring(identity), runs.load_sweep(self.runs_dir, identity)
        if run_id is None or sweep is None:
            return
        arms = self._delivered(sweep)
        state = values_hash([SHAPE, run_id, sweep.ended, {name: (id, run.metrics, run.status) for name, (id, run) in arms.items()}])
        noted = self.runs_dir / "sweeps" / f".published.{identity}"
        if noted.exists() and noted.read_text() == state:
            return
        client = self.sync.client()
        with tempfile.TemporaryDirectory() as folder:
            page = sweep_page(self.runs_dir, sweep, Path(folder))
            client.log_artifacts(run_id, str(page.folder), "report")
        client.log_dict(run_id, page.table, TABLE)
        client.log_text(run_id, page.config, "config.yaml")
        tags = {"mlflow.note.content": cut(page.note, LONGEST_TAG), "mlflow.loggedArtifacts": json.dumps([{"path": TABLE, "type": "table"}])}
        if page.best is not None:
            tags |= {"lab.best_arm": page.arms[page.best].label, "lab.best_run": arms[page.best][0] if page.best in arms else page.best}
        for key, value in tags.items():
            client.set_tag(run_id, key, value)
        for name, (arm_id, _) in arms.items():
            arm = page.arms.get(name)  # one that a race stopped is in no table
            tags = {} if arm is None else {"lab.replicate_group": arm.group, "mlflow.runName": cut(arm.label, LONGEST_NAME)}
            tags |= {"mlflow.runColor": arm.colour} if arm and arm.colour else {}
            sweeps = client.get_run(arm_id).data.tags.get("lab.sweep", "").split()
            tags["lab.sweep"] = " ".join(dict.fromkeys([*sweeps, sweep.identity]))
            for key, value in tags.items():
                client.set_tag(arm_id, key, value)
        write_atomically(noted, state)

    def _delivered(self, sweep: Sweep) -> dict[str, tuple[str, runs.Run]]:
        """The MLflow run of each arm that MLflow has, and its record, by identity."""
        found = {name: runs.look(self.runs_dir, name) for name in sweep.arms}
        notes = {name: (self.sync.known(run), run) for name, run in found.items() if run is not None}
        return {name: (note.run_id, run) for name, (note, run) in notes.items() if note is not None}
