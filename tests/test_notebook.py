"""The notebooks run from top to bottom in this interpreter, and are kept without outputs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from synthetic_runs import write_example

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_outputs_are_stripped(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@pytest.fixture
def execute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[NotebookNode, Path], list[NotebookNode]]:
    """Run a notebook in a folder, by this interpreter; what its cells gave."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    kernel.write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))

    def run(notebook: NotebookNode, folder: Path) -> list[NotebookNode]:
        NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(folder)}}).execute()
        return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]

    return run


def named(name: str) -> NotebookNode:
    """One of the notebooks."""
    (path,) = [path for path in NOTEBOOKS if path.name == f"{name}.ipynb"]
    return nbformat.read(path, as_version=4)


def test_the_ablation_report_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, execute) -> None:
    write_example(tmp_path / "runs", num_dev=420, num_minival=140)
    for path in (tmp_path / "runs").glob("*/predictions/*.parquet"):
        path.rename(path.with_name(f"pairs.{path.name}"))  # as runs have them since they may be asked other data
    monkeypatch.setenv("LAB_RUNS_DIR", str(tmp_path / "runs"))
    outputs = execute(named("ablation_report"), ROOT / "notebooks")
    images = [output for output in outputs if "image/png" in output.get("data", {})]
    told = "".join(output.get("text", "") for output in outputs)
    pages = "".join(output["data"].get("text/html", "") for output in outputs if "data" in output)
    assert len(images) == 5
    assert "lora.r=32 beats lora=none by" in told and "the surest" in told
    assert "FAILED" in pages and "lora.r=512" in pages.replace("<wbr>", "")


SMALLER = {
    '"trainer.max_steps=100", "data.num_train=800", "data.num_dev=400"': '"trainer.max_steps=10", "data.num_train=16", "data.num_minival=8", '
    '"data.num_dev=24", "trainer.batch_size=2", "evaluation.verify=false", "evaluation.latency_examples=1", "tracking.enabled=false"',
    "lora.r=4,8,16": "lora.r=4,8",
    '"trainer.max_steps=150"': '"trainer.max_steps=10", "trainer.batch_size=2", "evaluation.verify=false", "evaluation.latency_examples=0", '
    '"tracking.enabled=false"',
    "range(200)": "range(24)",
}
"""What the notebooks say, and what the test does instead."""


def smaller(notebook: NotebookNode) -> NotebookNode:
    """The notebook with less to train."""
    for cell in notebook.cells:
        for said, instead in SMALLER.items():
            cell.source = cell.source.replace(said, instead)
    return notebook


def pictures_and_tables(outputs: list[NotebookNode]) -> tuple[int, list[str]]:
    """How many pictures were shown, and the tables; nothing was complained of."""
    assert not [output.text for output in outputs if output.get("name") == "stderr" and ("Error" in output.text or "Warning" in output.text)]
    tables = [output["data"]["text/html"] for output in outputs if "text/html" in output.get("data", {})]
    return sum("image/png" in output.get("data", {}) for output in outputs), tables


@pytest.mark.bar
def test_ten_lines_train_and_show_a_figure(tmp_path: Path, execute) -> None:
    notebook = named("ten_lines")
    assert sum(len(list(filter(None, cell.source.splitlines()))) for cell in notebook.cells if cell.cell_type == "code") <= 10
    pictures, tables = pictures_and_tables(execute(smaller(notebook), tmp_path))
    assert (pictures, len(tables)) == (2, 2) and "accuracy" in tables[0] and "lora.r=4" in tables[1]
    assert len([path for path in (tmp_path / "runs").glob("*/run.json")]) == 2


@pytest.mark.bar
def test_own_pictures_come_to_a_gallery(tmp_path: Path, execute) -> None:
    outputs = execute(smaller(named("own_pictures")), tmp_path)
    pictures, tables = pictures_and_tables(outputs)
    assert (pictures, len(tables)) == (1, 3) and "exact_match" in tables[0] and tables[1].count("What is the colour?") == 4
    assert "it can train." in "".join(output.get("text", "") for output in outputs)
    assert {path.name for path in (tmp_path / "answers").iterdir()} >= {"predictions.csv", "gallery.html"}
    assert len([path for path in (tmp_path / "runs").glob("*/run.json")]) == 1
