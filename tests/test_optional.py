"""What a run does not need may be missing; what needs it says which package that is."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys

import pytest

from lab.config import Tracking
from lab.data import tables
from lab.errors import ConfigError
from lab.run.facts import OPTIONAL, versions
from lab.tracking.mlflow_sync import MlflowSync


def test_tables_name_the_package_that_reads_them(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    (tmp_path / "test.parquet").write_bytes(b"PAR1")
    for opened in (lambda: tables.open_tables(str(tmp_path), ["test"], ["image"], tmp_path), lambda: tables.open_arrow(str(tmp_path))):
        with pytest.raises(ConfigError, match=r"data: .*`pip install datasets`"):
            opened()


def test_tracking_names_the_package_that_it_needs_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="tracking.enabled=true: the package mlflow is not installed"):
        MlflowSync(Tracking())
    assert MlflowSync(Tracking(enabled=False)).deliver("a run")


def test_versions_leave_out_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        if name in OPTIONAL:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = versions.__wrapped__()
    assert not set(OPTIONAL) & set(found) and "torch" in found
