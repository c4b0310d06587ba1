"""What else moved: a planted harm is told, arms that are alike are not, and drawn twins ask what their pictures show."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from prediction_tables import prediction
from synthetic_runs import Questions, answers, write_run, write_sweep
from test_rescoring import said

from lab import data
from lab import run as running
from lab.answers import predictions
from lab.config import DataDial
from lab.data.images import decode
from lab.errors import ConfigError
from lab.records import Choice, Picture, Text
from lab.report.findings import study
from lab.report.select_runs import choose
from lab.report.transfer import HELPS, HURTS, UNTOLD, Cell
from lab.report.write import write_report
from lab.store import runs
from lab.sweeping.arms import Arm, SweepSource
from lab.sweeping.sweep import run_sweep

pytestmark = pytest.mark.usefixtures("blank_figures")

TWINS = ("drawn_signs", "drawn_charts", "drawn_diagrams")


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_draws_the_same_questions_when_asked_and_no_picture_is_in_two_splits(name: str, tmp_path: Path) -> None:
    splits, again = (data.option(f"{name} num_train=9 num_minival=3 num_dev={number}").load(tmp_path).splits for number in (9, 6))
    assert splits.dev.index(0).images[0].data is None and splits.dev[4] == again.dev[4]
    (picture,), (drawn,) = splits.dev.index(4).images, splits.dev[4].images
    assert isinstance(picture, Picture) and isinstance(drawn, Picture) and decode(drawn).size == picture.size
    assert len({split[k].images[0].data for split in (splits.train, splits.minival, splits.dev) for k in range(len(split))}) == 7
    dev = [splits.dev.index(k) for k in range(9)]
    assert len({sample.image_set for sample in dev}) == 3 and len({sample.subset for sample in dev}) == 3
    assert all(sample.text.count(f"\n{letter}. ") for sample in dev for letter in "ABC") == (splits.kind == Choice.kind)
    with pytest.raises(ConfigError, match="data.num_dev=0"):
        data.option(f"{name} num_dev=0").load(tmp_path)


def swept(runs_dir: Path, skills: dict[str, dict[str, float]], n: int = 420) -> list[Cell]:
    """Cells of arms that answer other data with such skill, beside a base that answers with 0.8."""
    own = Questions.draw("own", 70)
    for seed, arm in enumerate(("base", *skills)):
        keys = {"lora.name": "none", "lora.r": 0, "trainer.max_steps": 0} if arm == "base" else {"lora.r": 2 * seed}
        write_run(runs_dir, arm, keys, answers(own, 0.5, seed=seed), curve=False)
        for place, name in enumerate(next(iter(skills.values()))):
            rows = answers(Questions.draw(name, n, seed=place), 0.8 if arm == "base" else skills[arm][name], seed=10 * seed + place)
            predictions.write(runs.folder(runs_dir, arm) / "predictions" / f"{name}.dev.parquet", rows)
    write_sweep(runs_dir, "moved", ["base", *skills], ["lora.name", "lora.r"])
    return list(study(choose(runs_dir, "moved")).transfer.cells)


def test_a_cell_is_told_where_the_data_carry_it_and_says_what_it_could_have_shown(tmp_path: Path) -> None:
    cells = swept(tmp_path / "runs", {"harmed": {"charts": 0.0, "signs": 0.8}, "helped": {"charts": 0.8, "signs": 1.8}})
    found = {(cell.arm, cell.data): cell for cell in cells}
    assert {key: cell.verdict for key, cell in found.items()} == {
        ("lora.r=2", "charts"): HURTS, ("lora.r=2", "signs"): UNTOLD, ("lora.r=4", "charts"): UNTOLD, ("lora.r=4", "signs"): HELPS,
    }  # fmt: skip
    for cell in cells:
        assert cell.comparison.num_examples == 420 and cell.comparison.num_clusters == 60 and cell.smallest is not None
        assert cell.claim.holm_p >= cell.comparison.p_value and 0.03 < cell.smallest < 0.3
    folder = write_report(choose(tmp_path / "runs", "moved"), tmp_path / "out")
    page, latex = (folder / "report.md").read_text(), (folder / "transfer.tex").read_text()
    assert "**Transfer.** lora.r=2 hurts charts; lora.r=4 helps signs; 2 of 4 cells cannot be told." in page
    assert latex.count(r" \\") == 5 and "hurts" in latex and "helps" in latex


def test_arms_that_are_alike_are_rarely_told_apart(tmp_path: Path) -> None:
    """Of 30 cells without any difference none is told, as the family is all of them; alone at most 6 would be: four standard errors."""
    skills = {f"arm{k}": {"charts": 0.8} for k in range(30)}
    cells = swept(tmp_path / "runs", skills, 210)
    assert len(cells) == 30 and all(cell.verdict == UNTOLD for cell in cells), "Holm is over all of them"
    assert sum(cell.comparison.p_value < 0.05 for cell in cells) <= 6


def test_a_benchmark_is_compared_by_its_own_rule(tmp_path: Path) -> None:
    """20 for 20.4 is right by relaxed accuracy and no exact match; without the files it is the latter, and that is said."""
    import benchmark_twins as twins

    root = tmp_path / "chartqa"
    twins.parquet(root, "chartqa")
    dial = DataDial(name="chartqa", root=str(root), profile="ours")
    dev = data.load(dial, tmp_path / "cache").dev
    right = [answer.references[0] for k in range(len(dev)) if isinstance(answer := dev.index(k).answer, Text)]
    near = [f"{float(word) * 1.02:g}" if word.replace(".", "").isdigit() else word for word in right]
    assert near != right
    for name, replies, keys in (("base", right, {"lora.name": "none", "lora.r": 0, "trainer.max_steps": 0}), ("near", near, {})):
        also = {"evaluation.also": [f"chartqa root={root}"]}
        write_run(tmp_path / "runs", name, {**keys, **also}, [prediction("a", True), prediction("b", False)], curve=False)
        rows = [said(dev.index(k), reply) for k, reply in enumerate(replies)]
        predictions.write(runs.folder(tmp_path / "runs", name) / "predictions" / "chartqa.dev.parquet", rows)
    write_sweep(tmp_path / "runs", "rule", ["base", "near"], ["lora.name"])
    (cell,) = study(choose(tmp_path / "runs", "rule")).transfer.cells
    assert cell.comparison.metric.name == "relaxed_accuracy" and cell.comparison.difference == 0
    root.rename(tmp_path / "gone")
    again = study(choose(tmp_path / "runs", "rule")).transfer
    assert again.cells[0].comparison.metric.name == "exact_match" and again.cells[0].comparison.difference < 0
    assert "compared in exact match, not by the benchmark's rule" in again.notes[0]


def coloured(path: Path, colour: tuple[int, int, int], place: int, side: int = 64) -> Path:
    """A square of a colour somewhere on white."""
    image = Image.new("RGB", (side, side), "white")
    x, y = (side * (8 + 16 * at) // 64 for at in divmod(place, 4))
    ImageDraw.Draw(image).rectangle((x, y, x + side // 4, y + side // 3), fill=colour)
    image.save(path)
    return path


def test_pictures_of_the_training_data_are_named_and_scores_stand_without_them(composer, tiny_folder, tmp_path: Path, nominal_costs) -> None:
    """One with the same pixels in another format, one a little larger, two of another colour or place."""
    red, blue = (200, 30, 30), (30, 30, 200)
    rows = {"train": [coloured(tmp_path / "a.png", red, 0), coloured(tmp_path / "b.png", blue, 6)], "dev": [coloured(tmp_path / "c.png", blue, 9)]}
    rows["minival"] = [coloured(tmp_path / "d.png", red, 15)]
    lines = [f"{path.name},What colour is it?,red,{part}" for part, paths in rows.items() for path in paths]
    (tmp_path / "own.csv").write_text("\n".join(["image,question,answer,split", *lines]) + "\n")
    other = {
        "same": coloured(tmp_path / "same.bmp", red, 0), "near": coloured(tmp_path / "near.png", blue, 6, side=96),
        "colour": coloured(tmp_path / "colour.png", (30, 160, 30), 0), "place": coloured(tmp_path / "place.png", red, 11),
    }  # fmt: skip
    lines = [f"{name},{path.name},What colour is it?,red,dev" for name, path in other.items()]
    (tmp_path / "other.csv").write_text("\n".join(["id,image,question,answer,split", *lines]) + "\n")
    x = composer(
        f"model.path={tiny_folder}", f"tracking.runs_dir={tmp_path / 'runs'}", f"tracking.cache_dir={tmp_path / 'cache'}", "tracking.enabled=false",
        "data=questions", f"data.path={tmp_path / 'own.csv'}", "data.kind=text", "trainer.max_steps=1", "trainer.batch_size=2",
        "evaluation.verify=false", "evaluation.latency_examples=0", "evaluation.max_new_tokens=2",
        f"evaluation.also=['questions path={tmp_path / 'other.csv'} kind=text as=other']",
    )  # fmt: skip
    run = running.run_alone(x, "command", time.time())
    found = json.loads((runs.folder(tmp_path / "runs", run.identity) / "overlap" / "other.json").read_text())
    named = {row["id"]: (row["how"], Path(row["train_picture"]).name) for row in found["found"]}
    assert named == {"same": ("pixels", "a.png"), "near": ("near", "b.png")}
    assert (found["pictures"], found["train_pictures"], found["exact"], found["near"], found["questions"]) == (4, 2, 1, 1, 2)
    assert run.facts["also"]["other"]["overlap"]["near"] == 1
    section = (write_report(choose(tmp_path / "runs"), tmp_path / "out") / "report.md").read_text().partition("in other data")[2]
    assert "(n = 4) | " in section and "(n = 2) |" in section and "same.bmp" in section and "has the pixels of" in section and "is near" in section


def wrong_answers(folder: Path) -> Path:
    """Questions about drawn charts, all answered with a colour that no bar has."""
    splits = data.option("drawn_charts num_train=48 num_minival=3 num_dev=3").load(folder).splits
    with (folder / "wrong.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "question", "answer", "split"))
        for part in ("train", "minival", "dev"):
            split = getattr(splits, part)
            for k in range(len(split)):
                sample = split[k]
                (folder / f"{sample.image_set}.png").write_bytes(sample.images[0].data or b"")
                writer.writerow((f"{sample.image_set}.png", sample.text, "teal", part))
    return folder / "wrong.csv"


def test_the_sweep_tells_a_planted_harm_and_no_other(composer, tmp_path: Path, nominal_costs) -> None:
    """The shipped base, an arm trained on wrong answers about charts, and one that hardly moves; asked the three twins."""
    small = (
        f"tracking.runs_dir={tmp_path / 'runs'}", f"tracking.cache_dir={tmp_path / 'cache'}", "tracking.enabled=false",
        "evaluation.also=['drawn_signs num_dev=6','drawn_charts num_dev=48','drawn_diagrams num_dev=6']",
        "data=questions", f"data.path={wrong_answers(tmp_path)}", "trainer.max_steps=10", "trainer.batch_size=8", "evaluation.verify=false",
        "evaluation.latency_examples=0", "evaluation.max_new_tokens=3", "trainer.val_every=null", "trainer.save_every=null", "sweep.self_check=false",
    )  # fmt: skip
    own = (("lora=none", "trainer.max_steps=0"), ("lora=llm", "optim.lr=2e-3"), ("lora=llm", "optim.lr=1e-9", "trainer.max_steps=1"))
    arms = [Arm(composer(*small, *keys, config_name="transfer"), (*small, *keys)) for keys in own]
    assert run_sweep(arms, SweepSource("transfer", "command", "transfer", None, time.time())) == 0
    cells = study(choose(tmp_path / "runs", "latest")).transfer.cells
    told = {(cell.data, place): cell.verdict for place, cell in enumerate(cells)}
    assert len(cells) == 6
    assert [cell.verdict for cell in cells if cell.data == "drawn_charts"] == [HURTS, UNTOLD], told
    assert all(cell.verdict == UNTOLD and np.isclose(cell.comparison.difference, 0) for cell in cells[1::2]), told
    page = (write_report(choose(tmp_path / "runs", "latest"), tmp_path / "out") / "report.md").read_text()
    assert "drawn_signs: none of its 2 pictures is among the 16 of the training data." in page
