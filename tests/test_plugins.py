"""Pieces of one's own: a folder with a metric, a data set, a rule and an option, through every door; and what is never executed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.errors import OverrideParseException

from lab import plugins
from lab.data import check
from lab.errors import ConfigError
from lab.sweeping.launcher import foreseen

PIECES = {
    "a_metric.py": """
from lab.statistics.metrics import Metric, register
register("choice", Metric("said_true", "said true", "%", True, lambda table: float((table.prediction == 0).mean()), "said true: a share.",
                          each=lambda table: table.prediction == 0, interval=True, needs=("prediction",)))
""",
    "b_data.py": """
import io
from PIL import Image
from lab.data import register
from lab.data.splits import finish
from lab.records import Choice, Picture, Sample

def square(colour):
    out = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(out, "PNG")
    return out.getvalue()

def load(dial, cache_dir):
    def sample(part, i):
        colour = ("red", "blue")[i % 2]
        picture = Picture(f"{part}#{i}", square(colour))
        return Sample(f"{part}-{i}", f"The square is red, {i}.", (picture,), Choice.truth(colour == "red"), f"{part}-{i}", f"{part}-{i}")
    sizes = {"train": dial.num_train, "minival": dial.num_minival, "dev": dial.num_dev}
    return finish({part: [sample(part, i) for i in range(n or 12)] for part, n in sizes.items()}, [], dial, cache_dir, ["squares: drawn"])

register("squares", load)
""",
    "c_rule.py": """
from lab.statistics.intervals import interval
from lab.statistics.rules import register

class Mean:
    TITLE, SAYS, CHANCE = "Mean of squares", "A rule of one's own.", {"mean": 0.5}
    def intervals(self, asked):
        return {"mean": interval(asked)}

register("mean_of_squares", Mean())
""",
    "conf/data/squares.yaml": "# Squares of two colours.\nname: squares\nrule: mean_of_squares\n",
}


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("my pieces")
    for name, text in PIECES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def door(name: str, *arguments: str, cwd: Path) -> str:
    out = subprocess.run([sys.executable, "-m", f"lab.{name}", *arguments], capture_output=True, text=True, cwd=cwd)
    assert out.returncode == 0, out.stderr
    return out.stdout + out.stderr


def test_through_the_doors(pieces: Path, tmp_path: Path, fast_python: str) -> None:
    """Two steps on a data set of one's own; the manual and the report know it, and a report that was not given the folder says so."""
    given = f"plugins=['{pieces}']"
    assert re.search(r" data .*pairs, .*squares, .*winoground lora ", " ".join(door("train", "--help", given, cwd=tmp_path).split()))
    door(
        "train", given, "data=squares", "trainer.max_steps=2", "trainer.batch_size=4", "evaluation.verify=false",
        "evaluation.latency_examples=0", "tracking.enabled=false", cwd=tmp_path,
    )  # fmt: skip
    (record,) = (tmp_path / "runs").glob("*/run.json")
    run = json.loads(record.read_text())
    assert run["config"]["plugins"] == [str(pieces)] and run["config"]["data"]["name"] == "squares"
    assert {"dev/said_true", "dev/said_true_low", "dev/mean_of_squares/mean"} <= run["metrics"].keys()
    assert (record.parent / "predictions" / "squares.dev.parquet").exists()
    (pieces / "d_trap.py").write_text("from pathlib import Path\nPath('executed').touch()\n")
    door("report", cwd=tmp_path)
    page = (tmp_path / "report" / "all" / "report.md").read_text()
    assert "said true, %" not in page and "This report is without said_true, which came from plugins" in page
    assert not (tmp_path / "executed").exists(), "a report executes no code that a run names"
    door("report", "--plugins", str(pieces), cwd=tmp_path)
    page = (tmp_path / "report" / "all" / "report.md").read_text()
    assert "| said true, % [95 %] |" in page and "## Mean of squares" in page and "| The square is red, " in page
    assert "This report is without" not in page and (tmp_path / "executed").exists()


def test_what_is_not_there_or_breaks_is_told(tmp_path: Path) -> None:
    """By the commands too that compose no experiment of their own, or many."""
    given = "plugins=[/nowhere]"
    for act in (lambda: plugins.load(["/nowhere"]), lambda: check.act([given, "data=x"], tmp_path, None), lambda: foreseen([given], "train")):
        with pytest.raises(ConfigError, match=r"plugins=/nowhere: there is no such folder, nor an entry point of this name in vlm_lab.plugins"):
            act()
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(ConfigError, match=r"broken.py cannot be imported \(ZeroDivisionError"):
        plugins.load([str(tmp_path)])
    assert plugins.named(["lora.r=2", "plugins=[a,'b c']"]) == ["a", "b c"] and plugins.named(["lora.r=2"]) == []
    with pytest.raises(OverrideParseException):  # which lab.explaining has a sentence for
        plugins.named(["plugins=[~/mine]"])
    assert plugins.missing({"plugins": [str(tmp_path)]}) == [str(tmp_path)] and plugins.missing({}) == []
