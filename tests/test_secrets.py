"""Tokens and passwords reach no log, record, parameter, tag, artifact, report, error message or quoted command."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lab import data
from lab.config import as_dict, identity
from lab.errors import DataError
from lab.host.redaction import Formatter, without_secrets
from lab.store import runs
from lab.store.runs import Run
from lab.sweeping.arms import quoted

ROOT = Path(__file__).parents[1]
PLANTED = {
    "HF_TOKEN": "hf_plantedtokenofthehub",
    "MLFLOW_TRACKING_USERNAME": "planted-username",
    "MLFLOW_TRACKING_PASSWORD": "planted-password",
    "MLFLOW_TRACKING_TOKEN": "planted-bearer",
}
URI = "http://uri-user:uri-pass/word@x@127.0.0.1:9"
IN_URI = ("uri-user", "uri-pass", "word@x")


def door(python: str, name: str, *arguments: str, folder: Path) -> subprocess.CompletedProcess:
    """Only the report itself draws its figures."""
    environment = {**os.environ, **PLANTED}
    command = [python, "-m", *(["blank_figures"] if name != "report" else []), f"lab.{name}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def leaks(folder: Path, *printed: str) -> list[str]:
    """Where a planted secret is found: files of any kind, by their bytes, and printed text."""
    secrets = [word.encode() for word in (*PLANTED.values(), *IN_URI)]
    places = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    places |= {f"printed {i}": text.encode() for i, text in enumerate(printed)}
    return [f"{secret.decode()} in {place}" for place, content in places.items() for secret in secrets if secret in content]


def test_a_sweep_with_planted_secrets(tmp_path, tiny_folder, migrated, fast_python) -> None:
    """Two arms, one of which fails, the tracker away; then delivered to a store that can be read, and reported."""
    small = [
        f"model.path={tiny_folder}", "data.num_train=16", "data.num_minival=8", "data.num_dev=8", "trainer.max_steps=2",
        "trainer.batch_size=4", "evaluation.latency_examples=0", "evaluation.verify=false",
    ]
    done = door(fast_python, "train", "optim.lr=0.001,0.0", *small, f"tracking.uri={URI}", "-m", folder=tmp_path)
    assert done.returncode == 1 and done.stderr.count("does not answer") == 1, done.stderr
    assert "http://***@127.0.0.1:9" in done.stderr and "http://***@127.0.0.1:9" in done.stdout
    wrong = door(fast_python, "train", f"tracking.url={URI}", folder=tmp_path)
    assert wrong.returncode == 2 and "tracking.url" in wrong.stderr
    (tmp_path / "mlflow.db").write_bytes(migrated.read_bytes())
    delivered = door(fast_python, "sync", "--uri", f"sqlite:///{tmp_path}/mlflow.db", folder=tmp_path)
    assert delivered.returncode == 0, delivered.stderr
    report = door(fast_python, "report", folder=tmp_path)
    assert report.returncode == 0, report.stderr
    records = runs.all_runs(tmp_path / "runs")
    assert {run.status for run in records} == {runs.FINISHED, runs.FAILED} and list((tmp_path / "mlruns").rglob("run.json"))
    printed = [each.stdout + each.stderr for each in (done, wrong, delivered, report)]
    assert leaks(tmp_path, *printed) == []


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("http://me:pw@host/x", "http://***@host/x"),
        ("at postgresql+psycopg://me:p/w@x@host:5432/db (down)", "at postgresql+psycopg://***@host:5432/db (down)"),
        ("https://token@host", "https://***@host"),
        ("http://host?user=me&password=pw&x=1", "http://host?user=me&password=***&x=1"),
        ("sqlite:///a@b.db", "sqlite:///a@b.db"),
        ("http://host/path, mail me@there", "http://host/path, mail me@there"),
        ("hf://datasets/x@main", "hf://datasets/x@main"),
        ("'tracking.uri=http://me:pw@host' -m", "'tracking.uri=http://***@host' -m"),
    ],
)
def test_credentials_in_an_address(given, shown) -> None:
    assert without_secrets(given) == shown


def test_tokens_of_the_environment(monkeypatch) -> None:
    """In a message, and in the traceback under it; a value of a letter or two is no secret."""
    monkeypatch.setenv("HF_TOKEN", "hf_longenough")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "a")
    try:
        raise OSError("401 for hf_longenough")
    except OSError:
        record = logging.LogRecord("lab", logging.ERROR, "", 0, "a token: %s", ("hf_longenough",), sys.exc_info())
    shown = Formatter("%(message)s").format(record)
    assert shown.startswith("a token: ***") and "401 for ***" in shown and "longenough" not in shown


def test_records_and_commands_hold_no_credentials(composer, tmp_path) -> None:
    x = composer(f"tracking.uri='{URI}'", f"tracking.runs_dir={tmp_path}")
    assert x.tracking.uri == URI and as_dict(x)["tracking"]["uri"] == "http://***@127.0.0.1:9"
    command = f"python -m lab.train 'tracking.uri={URI}'"
    runs.save(tmp_path, Run(identity(x), "a run", as_dict(x), command, error=f"RuntimeError: {URI}/api"))
    kept = runs.load(tmp_path, identity(x))
    assert kept.command == "python -m lab.train 'tracking.uri=http://***@127.0.0.1:9'" and kept.error.endswith("http://***@127.0.0.1:9/api")
    assert leaks(tmp_path) == []
    assert identity(composer("model.path=https://a:b@host/m")) == identity(composer("model.path=https://c:d@host/m"))


def test_values_never_reach_a_shell(composer, tmp_path, monkeypatch) -> None:
    """What a shell would run is the name of a folder that is not there, in the message and in the command to type again."""
    monkeypatch.chdir(tmp_path)
    evil = "$(touch made) `touch made`; touch made"
    x = composer("data=nlvr", f"data.root='{evil}'")
    with pytest.raises(DataError, match="touch made"):
        data.load(x.data, tmp_path)
    shown = subprocess.run(["sh", "-c", "echo " + quoted(f"data.root='{evil}'")], capture_output=True, text=True, check=True).stdout
    assert shown == f"data.root='{evil}'\n" and not list(tmp_path.iterdir())
