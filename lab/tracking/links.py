"""What to open to see a run or a sweep in MLflow: the lines that a command prints at its end."""

from __future__ import annotations

import shlex
from urllib.parse import quote, urlencode

from lab.store import runs
from lab.store.runs import Run, Sweep
from lab.tracking import naming
from lab.tracking.mlflow_sync import MlflowSync

DRAWN = 10
"""Most runs that MLflow's page draws unasked: the first of its list. It says nothing of the others (3.17)."""
LOCAL = "http://127.0.0.1:5000"
"""Where `mlflow ui` answers."""


def arms_filter(sweep: Sweep) -> str:
    """The arms of a sweep in MLflow's search syntax; an arm of several sweeps has all of them in its tag."""
    return f"tags.`lab.sweep` LIKE '%{sweep.identity}%' AND tags.`lab.role` = '{naming.ARM}'"


def of_run(mlflow: MlflowSync, run: Run) -> list[str]:
    """How to open one run; nothing where tracking is off."""
    note = mlflow.known(run) if mlflow.section.enabled else None
    return opening(mlflow, None if note is None else f"runs/{note.run_id}")


def of_sweep(mlflow: MlflowSync, sweep: Sweep) -> list[str]:
    """How to open the arms of a sweep as bars, the best first; in words where the page would not draw them all."""
    query = {"searchFilter": arms_filter(sweep)}
    arms = [run for name in sweep.arms if (run := runs.look(mlflow.runs_dir, name)) is not None]
    kind = next((kind for run in arms if (kind := naming.kind_of(run.metrics)) is not None), None)
    if kind is not None:
        query |= {"orderByKey": f"metrics.`{naming.ARM}/{kind.headline}`", "orderByAsc": str(not kind.main.higher_is_better).lower()}
    query |= {"compareRunsMode": "CHART", "workflowType": "machine_learning"}
    drawn = f"the best {DRAWN}" if kind is not None else f"the newest {DRAWN}"
    said = f"          (MLflow draws {DRAWN} runs, {drawn} of {len(sweep.arms)} arms; the eye at the head of its list draws all)"
    lines = opening(mlflow, f"runs?{urlencode(query, quote_via=quote)}")
    return [*lines, *([said] if len(sweep.arms) > DRAWN and any("searchFilter" in line for line in lines) else [])]


def opening(mlflow: MlflowSync, place: str | None) -> list[str]:
    """The server's command where there is none, and the address of a place in the experiment, if MLflow is there to say its number."""
    if not mlflow.section.enabled:
        return []
    address, number = mlflow.address, []
    if place is not None and mlflow.away is None:
        mlflow.attempt(lambda: number.append(mlflow.store.experiment()))
    if address.startswith(("http://", "https://")):
        return ["MLflow:   " + "/".join([address.rstrip("/"), *(f"#/experiments/{one}/{place}" for one in number)])]
    links = [f"          {LOCAL}/#/experiments/{one}/{place}" for one in number]
    return [f"MLflow:   mlflow ui --backend-store-uri {shlex.quote(address)}", *links]
