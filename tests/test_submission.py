"""A split of NLVR or NLVR2 without labels, answered by a run: the official CSV under its folder, and no number."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from lab import evaluate, score
from lab import run as running
from lab.cli import process_started

pytestmark = pytest.mark.usefixtures("nominal_costs")


def manifest(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def drawn(path: Path, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (200, 30, 40)).save(path)


def test_a_run_writes_the_official_submission_of_an_unlabelled_split(composer, tiny_folder, tmp_path: Path, capsys) -> None:
    small = ("data.num_dev=4", "lora=none", "trainer.max_steps=0", "evaluation.verify=false", "evaluation.latency_examples=0")
    small += ("tracking.enabled=false", f"model.path={tiny_folder}")
    x = composer(*small, f"tracking.runs_dir={tmp_path}/runs", f"tracking.cache_dir={tmp_path}/cache")
    run = running.run_alone(x, "test", process_started())
    folder, statements = tmp_path / "runs" / run.identity, [{"identifier": f"test2-{k}-0-0", "sentence": f"There are {k} boxes."} for k in range(3)]
    manifest(tmp_path / "nlvr2" / "test2.json", statements)
    for k in range(3):
        for side in (0, 1):
            drawn(tmp_path / "nlvr2" / "test2" / f"test2-{k}-0-img{side}.png", (32, 32))
    manifest(tmp_path / "nlvr" / "hidden" / "hidden.json", [{"identifier": "3266-0", "sentence": "There is a box.", "directory": "1"}])
    for k in range(6):
        drawn(tmp_path / "nlvr" / "hidden" / "images" / "1" / f"hidden-3266-0-{k}.png", (400, 100))

    def command(name: str, split: str, *more: str) -> int:
        words = [f"data={name}", f"data.root={tmp_path / name}", f"data.split={split}", *more]
        return evaluate.main([run.identity, *words, "--runs-dir", str(tmp_path / "runs")])

    for name, split, ids in (
        ("nlvr2", "test2", [f"test2-{k}-0-0" for k in range(3)]), ("nlvr", "hidden", [f"hidden-3266-0-{k}.png" for k in range(6)]),
    ):  # fmt: skip
        assert command(name, split) == 0
        place = folder / "evaluations" / f"{name}.{split}.csv"
        assert str(place) in capsys.readouterr().out
        lines = [line.split(",") for line in place.read_text().splitlines()]
        assert [line[0] for line in lines] == ids and all(re.fullmatch("True|False", line[1]) for line in lines)
        assert not [path for path in place.parent.iterdir() if path.suffix != ".csv"]
        marked = ["--answers", str(folder / "answers" / f"{name}.{split}.jsonl"), "--out", str(tmp_path / f"{name}.json")]
        assert score.main([f"data={name}", f"data.root={tmp_path / name}", f"data.split={split}", *marked]) == 0
        assert (tmp_path / f"{name}.csv").read_bytes() == place.read_bytes()
    assert command("nlvr2", "test2", "data.num_dev=1") == 2 and "the whole file" in capsys.readouterr().err
    manifest(tmp_path / "nlvr2" / "test2.json", [*statements[:2], statements[2] | {"label": "True"}])
    assert command("nlvr2", "test2") == 2 and "all or none must" in capsys.readouterr().err
