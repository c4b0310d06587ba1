"""`lab doctor`: what keeps training from starting fails with what to type; everything else is a remark."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest
from grid.dimensions import options
from packaging.requirements import Requirement

from lab import doctor
from lab.doctor import FAIL, NOTE, OK


@pytest.mark.parametrize(("wanted", "text"), [("numpy>=1", ""), ("numpy>=999", "numpy>=999 ("), ("nowhere>=1", "nowhere>=1 (not installed)")])
def test_a_requirement_that_is_not_met(wanted: str, text: str) -> None:
    assert doctor.unmet(Requirement(wanted)).startswith(text) and bool(doctor.unmet(Requirement(wanted))) == bool(text)


def test_the_store(composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = composer()

    def at(uri: str, **values) -> doctor.Finding:
        return doctor.store(replace(x, tracking=replace(x.tracking, uri=uri, **values)))

    path = tmp_path / "mlflow.db"
    assert at("", enabled=False).state == NOTE
    assert at(f"sqlite:///{path}").state == OK and not path.exists()
    with sqlite3.connect(path) as connection:
        connection.execute("create table runs (id)")
        connection.execute("insert into runs values (1)")
    assert at(f"sqlite:///{path}").text.endswith(": 1 runs")
    path.write_bytes(b"no database at all" * 100)
    assert at(f"sqlite:///{path}").state == NOTE and "lab sync" in at(f"sqlite:///{path}").text
    away = at("http://user:secret@127.0.0.1:9")
    assert away.state == NOTE and "lab sync" in away.text and "secret" not in away.text


def test_a_folder_that_cannot_be_made_fails(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert doctor.disk("tracking.runs_dir", tmp_path / "new" / "runs").state in (OK, NOTE)
    finding = doctor.disk("tracking.runs_dir", tmp_path / "file" / "runs")
    assert finding.state == FAIL and "Type lab train tracking.runs_dir=FOLDER" in finding.text


def test_only_the_chosen_checkpoint_must_be_there(composer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(doctor.checkpoints(composer()))
    assert found[0].state == OK and "model=tiny: " in found[0].text and "tiny_base" in found[0].text
    assert len(found) == len(options("model")) and FAIL not in {one.state for one in found}
    missing = list(doctor.checkpoints(composer(f"model.path={tmp_path}")))
    assert missing[0].state == FAIL and "model.path=FOLDER" in missing[0].text


def test_the_command_ends_with_what_it_found(composer, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    assert doctor.act(["tracking.enabled=false"]) == 0
    assert capsys.readouterr().out.strip().endswith("Training can start: lab train lora.r=8,16,32 -m")
    monkeypatch.setattr(doctor, "packages", lambda: iter([doctor.Finding("packages", "torch>=2 (not installed)", FAIL)]))
    assert doctor.act(["tracking.enabled=false"]) == 1
    printed = capsys.readouterr().out
    assert "\nFAIL  packages    torch>=2 (not installed)\n" in printed and "cannot start" in printed
