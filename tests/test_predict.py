"""Predictions about pictures of one's own: those of the run's own evaluation, whatever file they come from; bad ones are listed."""

from __future__ import annotations

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lab import predict
from lab import run as running
from lab.answers import predictions
from lab.config import Experiment
from lab.store import runs
from lab.store.runs import Run

pytestmark = pytest.mark.usefixtures("quiet_root_logger", "nominal_costs")
COLOURS = ("red", "green", "blue")
SMALL = (
    "trainer.max_steps=2", "trainer.batch_size=4", "evaluation.latency_examples=0", "evaluation.verify=false", "tracking.enabled=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve pictures; questions in words about one each, and yes or no about two of them, in columns of other names."""
    folder = tmp_path_factory.mktemp("predict")
    splits = ["train"] * 6 + ["minival"] * 2 + ["dev"] * 4
    for i in range(12):
        Image.new("RGB", (56, 56 + i), COLOURS[i % 3]).save(folder / f"{i}.png")
    rows = [f"{i}.png,what colour is {i}?,{COLOURS[i % 3]},{split}" for i, split in enumerate(splits)]
    (folder / "words.csv").write_text("\n".join(["image,question,answer,split", *rows]))
    rows = [f"{i}.png|{(i + 1) % 12}.png,alike {i}?,{('no', 'yes')[i % 2]},{split}" for i, split in enumerate(splits)]
    (folder / "pairs.csv").write_text("\n".join(["images,Frage,answer,split", *rows]))
    return folder


@pytest.fixture(scope="module")
def trained(composer: Callable[..., Experiment], tiny_folder: Path, root: Path) -> dict[str, Run]:
    """A run of each kind, by the name of its file."""
    keys = {"words": (), "pairs": ("data.columns.question=Frage", "data.allow_shared_images=true")}
    places = (f"model.path={tiny_folder}", f"tracking.runs_dir={root}/runs", f"tracking.cache_dir={root}/cache")
    made = {name: composer("data=questions", f"data.path={root}/{name}.csv", *own, *places, *SMALL) for name, own in keys.items()}
    return {name: running.run_alone(x, "python -m lab.train", time.time()) for name, x in made.items()}


def ask(root: Path, run: Run, to: Path, *words: str) -> int:
    return predict.main([run.identity, *words, "--runs-dir", f"{root}/runs", "--to", str(to)])


def dev_rows(root: Path, name: str, *without: str) -> Path:
    """The file's dev rows without some columns, beside its pictures."""
    with (root / f"{name}.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "dev"]
    path = root / f"{name}.asked.jsonl"
    path.write_text("".join(json.dumps({key: value for key, value in row.items() if key not in without}) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("name", ["words", "pairs"])
def test_the_answers_are_those_of_the_evaluation(trained, root: Path, tmp_path: Path, name: str) -> None:
    """Of the run's own dev questions, in a file that has no answers: the same words and probabilities as the run has stored."""
    run = trained[name]
    assert ask(root, run, tmp_path / "out", str(dev_rows(root, name, "answer", "split"))) == 0
    rows = pq.read_table(tmp_path / "out" / "predictions.parquet").to_pydict()
    stored = predictions.read(runs.own_predictions(run, root / "runs" / run.identity, "dev"))
    assert len(stored) == 4 and rows["answer"] == stored.answered.tolist()
    assert np.abs(np.array(rows["probability"]) - stored.confidence).max() <= (0 if name == "pairs" else 1e-5)
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["image", "question", "answer", "probability", "id"]
    assert [row["question"] for row in table] == rows["question"] and [float(row["probability"]) for row in table] == rows["probability"]
    page = (tmp_path / "out" / "gallery.html").read_text()
    assert page.count("data:image/webp") == (8 if name == "pairs" else 4) and "Reference" not in page and rows["question"][0] in page


def test_bad_pictures_are_listed_and_a_folder_is_not_overwritten(trained, root: Path, tmp_path: Path, capsys) -> None:
    mine, out = tmp_path / "mine", tmp_path / "out"
    (mine / "more").mkdir(parents=True)
    Image.new("RGB", (60, 40), "red").save(mine / "more" / "good.jpg")
    (mine / "torn.png").write_bytes((root / "0.png").read_bytes()[:60])
    (mine / "notes.txt").write_text("no picture")
    assert ask(root, trained["words"], out, str(mine), str(tmp_path / "gone.png"), "--question", "what colour?") == 1
    told = capsys.readouterr().out
    assert "1 answers, 2 skipped" in told and "torn.png" in told and "gone.png: the file is missing" in told
    (row,) = pq.read_table(out / "predictions.parquet").to_pylist()
    assert row["image"] == str(mine / "more" / "good.jpg") and row["question"] == "what colour?" and 0 < row["probability"] <= 1
    with (out / "failed.csv").open() as file:
        assert [Path(each["source"]).name for each in csv.DictReader(file)] == ["torn.png", "gone.png"]
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert ask(root, trained["words"], out, str(mine / "more"), "--question", "again?") == 2
    assert "nothing is overwritten unasked" in capsys.readouterr().err and {path: path.read_bytes() for path in out.iterdir()} == before
    assert ask(root, trained["words"], out, str(mine / "more"), "--question", "again?", "--overwrite") == 0
    assert pq.read_table(out / "predictions.parquet")["question"].to_pylist() == ["again?"]
    assert (out / "failed.csv").read_text().splitlines() == ['"source","reason"']


def test_two_pictures_are_one_question(trained, root: Path, tmp_path: Path, capsys) -> None:
    """Of a run that was taught so: two files in their order, or a column images; never one, nor a folder of unknown order."""
    pair = [str(root / "8.png"), str(root / "9.png")]
    assert ask(root, trained["pairs"], tmp_path / "one", *pair, "--question", "alike 8?") == 0
    (row,) = pq.read_table(tmp_path / "one" / "predictions.parquet").to_pylist()
    run = trained["pairs"]
    stored = predictions.read(runs.own_predictions(run, root / "runs" / run.identity, "dev"))
    assert (row["answer"], row["probability"]) == (stored.answered[0], stored.confidence[0]) and row["image"] == "|".join(pair)
    for words in ([str(root)], pair[:1]):
        assert ask(root, run, tmp_path / "no", *words, "--question", "alike?") == 2
        assert "answers questions about 2 pictures at once" in capsys.readouterr().err
    rows = ["images,Frage,choices", "8.png|9.png,alike?,yes|no", "8.png,alike?,", "8.png|9.png,alike?,yes|perhaps"]
    (root / "mixed.csv").write_text("\n".join(rows))
    assert ask(root, run, tmp_path / "mixed", str(root / "mixed.csv")) == 1
    told = capsys.readouterr().out
    assert "1 answers, 2 skipped" in told and "it has 1 pictures" in told and "'perhaps' is none of the run's options: yes, no" in told


@pytest.mark.parametrize(("words", "sentence"), [
    (["{root}/0.png"], "nothing is asked of these pictures"), (["{root}/0.png", "--question", " "], "nothing is asked of these pictures"),
    (["{root}/words.csv", "--question", "what?"], "has questions of its own"),
    (["{root}/0.png", "--question", "what?", "data.root=x"], "data.root=x: it is read for one file of questions"),
    (["{root}/0.png", "--question", "what?", "prompt.separator=' '"], "prompt.separator: trained with"),
    (["{root}/0.png", "--question", "what?", "trainer.max_steps=9"], "an evaluation does not train"),
    ([], "PICTURES: none are given"),
])  # fmt: skip
def test_what_cannot_be_asked_is_said(trained, root: Path, tmp_path: Path, capsys, words: list[str], sentence: str) -> None:
    assert ask(root, trained["words"], tmp_path / "out", *(word.format(root=root) for word in words)) == 2
    assert sentence in capsys.readouterr().err and not (tmp_path / "out").exists()
