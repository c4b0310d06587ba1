"""The parts run: on a GPU at full size, one after another; without one, small on the CPU, so that they cannot rot."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from . import precision
from .__main__ import unpack
from .parts import PARTS, run
from .scale import Scale
from .sheet import FAILED, PASSED, SKIPPED, Sheet

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_every_part_at_full_size(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "tests.gpu", "--out", str(tmp_path)], check=True, cwd=ROOT)
    sheets = [json.loads((tmp_path / f"{part}.json").read_text()) for part in PARTS]
    assert [sheet["status"] for sheet in sheets] == [PASSED] * len(PARTS)
    assert sum(sheet["seconds"] for sheet in sheets) <= 480


def test_a_part_runs_small_on_the_cpu(tmp_path: Path) -> None:
    """The one that every other part stands on: checkpoint, shipped YAML, lean and plain step; its sheet has numbers with units."""
    assert run("precision", tmp_path, device="cpu", small=True) == PASSED
    sheet = json.loads((tmp_path / "precision.json").read_text())
    assert {"ms", "nats"} <= {figure["unit"] for figure in sheet["figures"]}
    assert len(sheet["checks"]) == 2 and sheet["taken_on"]["commit"]


def test_arms_and_memory_run_small_on_the_cpu(tmp_path: Path) -> None:
    assert run("qwen2_vl_2b", tmp_path, device="cpu", small=True) == PASSED
    sheet = json.loads((tmp_path / "qwen2_vl_2b.json").read_text())
    assert any(figure["name"].endswith("memory, planned") and figure["value"] > 0 for figure in sheet["figures"])
    assert "flash_attention_2" in sheet["skipped"]


@pytest.mark.bar
@pytest.mark.parametrize("part", ["layouts", "arms", "arms_step"])
def test_the_other_parts_run_small_on_the_cpu(part: str, tmp_path: Path) -> None:
    assert run(part, tmp_path, device="cpu", small=True) == PASSED
    for figure in json.loads((tmp_path / f"{part}.json").read_text())["figures"]:
        print(f"{figure['name']}: {figure['value']:.4g} {figure['unit']}")


def test_a_part_that_breaks_leaves_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(scale: Scale, sheet: Sheet) -> None:
        sheet.add("a number", 1.0, "s")
        raise RuntimeError("planted")

    monkeypatch.setattr(precision, "precision", breaks)
    assert run("precision", tmp_path, device="cpu", small=True) == FAILED
    sheet = json.loads((tmp_path / "precision.json").read_text())
    assert [figure["name"] for figure in sheet["figures"]] == ["a number"]
    assert sheet["checks"] == [{"name": "it ran to its end", "holds": False, "found": "RuntimeError: planted"}]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_a_part_is_skipped_and_says_so(tmp_path: Path) -> None:
    assert run("precision", tmp_path) == SKIPPED
    assert "finds no CUDA device" in json.loads((tmp_path / "precision.json").read_text())["skipped"]["precision"]


def test_only_wheels_that_are_not_installed_are_unpacked(tmp_path: Path) -> None:
    for name in ("torch-9.9-py3-none-any.whl", "never_heard_of-1.0-py3-none-any.whl"):
        with zipfile.ZipFile(tmp_path / name, "w") as file:
            file.writestr(f"{name.partition('-')[0]}/__init__.py", "")
    unpack(tmp_path, tmp_path / "packages")
    assert [path.name for path in (tmp_path / "packages").iterdir()] == ["never_heard_of"]
