"""Run folders delivered to Weights & Biases (`tracking.also=[wandb]`), once a run has ended: the only file that imports it.

W&B has no answer offline to what it already has, so that the note in the run folder alone says what was sent. The key is W&B's own
affair (`wandb login`, WANDB_API_KEY); WANDB_MODE=offline keeps runs in ./wandb for `wandb sync`.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING

from lab.config import Tracking
from lab.errors import ConfigError
from lab.host.files import text_hash
from lab.store import curve_files, runs, sync_state
from lab.store.runs import Run
from lab.store.sync_state import LOCK, SHAPE, Delivered, one_at_a_time
from lab.tracking import naming
from lab.tracking.delivery import Delivery

if TYPE_CHECKING:
    import wandb

NOTE = "delivered.wandb.json"
ANSWER_S = 20.0
"""Longest wait for W&B's server."""


class WandbSync(Delivery):
    """Delivers runs that have ended to one W&B project, named as the MLflow experiment is. Raises `ConfigError` without wandb."""

    title = "Weights & Biases"

    def __init__(self, section: Tracking) -> None:
        super().__init__(section)
        if importlib.util.find_spec("wandb") is None:
            raise ConfigError(
                "tracking.also=[wandb]: the package wandb is not installed. Install it with `pip install 'vlm-lab[wandb]'`, or leave "
                "tracking.also empty."
            )

    @property
    def address(self) -> str:
        return "its server"

    def failures(self) -> tuple[type[Exception], ...]:
        import wandb

        return wandb.Error, OSError

    def refused(self, error: Exception) -> bool:
        from wandb.errors import AuthenticationError, UsageError

        return isinstance(error, UsageError | AuthenticationError)

    def bring(self, identity: str, check: bool) -> None:
        run_dir = runs.folder(self.runs_dir, identity)
        if (run := runs.load(self.runs_dir, identity)) is None:
            return
        with one_at_a_time(run_dir / LOCK):
            run = runs.truthful(self.runs_dir, run)
            note = sync_state.read(run_dir, "wandb", self.section.experiment, run.started, NOTE)
            name = f"{identity}-{text_hash(run.started, digits=6)}"
            note = note or Delivered("wandb", self.section.experiment, run.started, name, shape=SHAPE)
            final = naming.final(run) if run.status == runs.FINISHED else {}
            if run.status in (runs.RUNNING, runs.PAUSED) or (run.status == note.status and final.keys() <= note.metrics.keys()):
                return
            rows = list(curve_files.read(run_dir))
            self._send(run, run_dir, note, rows[note.points :], final)
            note.points, note.metrics, note.status = len(rows), final, run.status
            note.keep(run_dir, NOTE)

    def _send(self, run: Run, run_dir: Path, note: Delivered, rows: list[dict[str, float]], final: dict[str, float]) -> None:
        """One W&B run; curves go over `step`, since a run that goes on from a checkpoint goes back in it."""
        import wandb

        settings = wandb.Settings(silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True, init_timeout=ANSWER_S)
        try:
            sent = wandb.init(
                project=self.section.experiment, id=note.run_id, name=naming.name_of(run), group=run.sweep, job_type=naming.ARM,
                config=run.config, notes=run.command, resume="allow", reinit="create_new", settings=settings,
            )  # fmt: skip
            sent.define_metric("*", step_metric="step")
            for row in rows:
                values = {naming.curve_name(key): value for key, value in row.items() if key not in ("step", "seconds")}
                sent.log(finite(values) | {"step": row["step"]})
            sent.summary.update(finite(final) | {"lab.replicate_group": naming.replicate_group(run.config)})
            if run.status == runs.FINISHED and not note.metrics:
                sent.log_artifact(artifact(run, run_dir))
            sent.finish(exit_code=0 if run.status == runs.FINISHED else 1)
        finally:
            wandb.teardown()  # the process may be one that ends without asking modules to


def artifact(run: Run, run_dir: Path) -> wandb.Artifact:
    """The record and the adapter."""
    import wandb

    kept = wandb.Artifact(f"run-{run.identity}", type="run")
    kept.add_file(str(run_dir / "run.json"))
    if (run_dir / "adapter").is_dir():
        kept.add_dir(str(run_dir / "adapter"), name="adapter")
    return kept


def finite(values: dict[str, float]) -> dict[str, float]:
    """Those that are numbers; W&B's server takes others as text."""
    return {key: value for key, value in values.items() if math.isfinite(value)}
