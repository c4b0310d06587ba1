"""The gallery: which cases, whose pictures, how much they weigh, and what it says where the data are gone."""

from __future__ import annotations

import base64
import io
import re
import subprocess
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prediction_tables import prediction
from synthetic_runs import write_run, write_sweep

from lab import data
from lab.answers import predictions
from lab.config import DataDial
from lab.data.images import decode
from lab.records import Choice, Picture, Prediction, Sample, Scored, Written
from lab.report.document import Answer, Case, Gallery, Heading, Warn
from lab.report.findings import Findings, study
from lab.report.gallery import MOST_BYTES, choose_cases, gallery_blocks, pictures
from lab.report.markdown import to_markdown
from lab.report.select_runs import choose
from lab.report.webpage import SCRIPT, to_html
from lab.statistics.metrics import KINDS

ARMS = {"base": 0.3, "r2": 0.6, "r8": 0.9}


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, data.Split]:
    """Made-up answers of three arms to real samples; every sixth is missed by all. The folder, and the samples."""
    folder = tmp_path_factory.mktemp("answered")
    dial = DataDial(name="pairs", num_train=4, num_minival=4, num_dev=48)
    dev = data.load(dial, folder / "cache").dev
    common = {f"data.{key}": getattr(dial, key) for key in ("num_train", "num_minival", "num_dev")}
    for number, (name, skill) in enumerate(ARMS.items()):
        rows = [said(dev.index(i), i % 6 > 0 and np.random.default_rng((number, i)).random() < skill) for i in range(len(dev))]
        facts = {"data": {"counts": {"dev": len(dev)}, "samples": {"dev": data.fingerprint(dev)}}}
        write_run(folder / "runs", name, {"lora.r": number, "tracking.cache_dir": str(folder / "cache"), **common}, rows, facts=facts)
    write_sweep(folder / "runs", "pictured", list(ARMS), ["lora.r"], "What is seen?")
    return folder, dev


@pytest.fixture(scope="module")
def studied(answered: tuple[Path, data.Split]) -> Findings:
    return study(choose(answered[0] / "runs", run_ids=["base"]))


def said(sample: Sample, right: bool) -> Prediction:
    assert isinstance(sample.answer, Choice)
    place = sample.answer.right if right else 1 - sample.answer.right
    log_p = (np.log(0.8), np.log(0.2)) if place == 0 else (np.log(0.2), np.log(0.8))
    scored = Scored(tuple(map(float, log_p)), 1.0, place)
    return Prediction(sample.sample_id, sample.image_set, sample.question_group, sample.subset, sample.answer, scored, (0, 1), (4, 4))


def test_the_door_shows_pictures_of_the_data_without_torch(answered: tuple[Path, data.Split]) -> None:
    folder, dev = answered
    code = (
        "import sys; from lab.report.__main__ import main\n"
        f"code = main(['--runs-dir', '{folder}/runs', '--out', '{folder}/out', '--gallery', '12'])\n"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    page = (folder / "out" / "pictured" / "report.html").read_text()
    cards = page.split('<div class="case">')[1:]
    assert len(cards) == 12 and len(re.findall("✗</span>", cards[-1])) == len(ARMS)
    assert all(len(set(re.findall("[✓✗](?=</span>)", card))) == 2 for card in cards[:8])
    shown = [Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB").tobytes() for one in re.findall("image/webp;base64,([^\"]+)", page)]
    real = {decode(image).tobytes(): dev.index(i).text for i in range(len(dev)) for image in dev[i].images}
    assert len(shown) == 24 and set(shown) <= real.keys()
    markdown = (folder / "out" / "pictured" / "report.md").read_text()
    section = markdown.partition("## Gallery")[2].partition("\n## ")[0]
    assert len([line for line in section.splitlines() if line.startswith("| ") and "%)" in line]) == 12 and "webp" not in section


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda run: run["tracking"].update(cache_dir="/nowhere"), "the pictures are not here: tracking.cache_dir=/nowhere"),
        (lambda run: run["data"].update(seed=1), "samples of data=pairs are no longer those that run base was asked"),
        (lambda run: run["data"].update(num_dev=24), "24 of 48 samples of run base are no longer in data=pairs"),
        (lambda run: run["data"].update(name="mine"), "one of your own comes with plugins"),
        (lambda run: run["data"].update(colour="red"), "is none of this version of the laboratory"),
    ],
)
def test_data_that_are_gone_cost_the_gallery_alone(answered: tuple[Path, data.Split], studied: Findings, monkeypatch, change, sentence) -> None:
    run = studied.measured[0].arm.run
    monkeypatch.setattr(run, "config", deepcopy(run.config))
    change(run.config)
    heading, said = gallery_blocks(studied, 24)
    assert heading == Heading(2, "Gallery") and isinstance(said, Warn) and str(said.text).startswith("No gallery: ") and sentence in said.text
    assert gallery_blocks(studied, 0) == []


def test_arms_that_differ_most_come_first_then_what_all_miss() -> None:
    """Of ten samples in ten image sets, right for none, one, two or all of four arms."""
    rights = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]])[np.array([0, 1, 2, 3, 0, 1, 2, 3, 0, 1])]
    tables = [predictions.table([prediction(f"s{i}", True, answer=bool(right)) for i, right in enumerate(arm)]) for arm in rights.T]
    differing, missed = choose_cases(tables, KINDS["choice"].main, 6)
    assert set(differing[:2]) == {2, 6} and set(differing[2:]) < {1, 5, 9} and len(differing) == 4
    assert len(missed) == 2 and set(missed) < {0, 4, 8}
    assert sum(map(len, choose_cases(tables, KINDS["choice"].main, 24))) == 8
    assert choose_cases(tables[:1], KINDS["choice"].main, 3)[0] == []


def test_pictures_fit_whatever_they_show() -> None:
    noise = np.random.default_rng(0).integers(0, 255, (600, 900, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(noise).save(out, "PNG")
    images = tuple(Picture(f"noise#{i}", out.getvalue()) for i in range(6))
    small = pictures([Sample(f"s{i}", "?", images, Choice.truth(True), "set", "group") for i in range(8)])
    assert {len(one) for one in small.values()} == {4}
    assert 0 < 4 / 3 * sum(len(one) for images in small.values() for one in images) <= MOST_BYTES


def test_what_strangers_wrote_is_text() -> None:
    bad = '<script>alert("x")</script> | `'
    gallery = Gallery((Case((b"x",), bad, bad, (Answer(bad, bad, 1.0), Answer("b", bad, 0.0), Answer("c", "d", 0.6))),))
    page, markdown = to_html([gallery], "t"), to_markdown([gallery], Path())
    assert page.replace(f"<script>{SCRIPT}</script>", "").count("<script") == 0 and page.count("&lt;script&gt;") == 5
    assert "<script" not in markdown.replace("\\<", "") and len(markdown.splitlines()) == 3
    assert all(f'aria-label="{word}"' in page for word in ("right", "wrong", "60 % right")) and "◐ d" in markdown


def test_answers_in_words_have_one_too(tmp_path: Path) -> None:
    """A file of questions of one's own."""
    colours = ("red", "lime", "blue")
    for i in range(9):
        Image.new("RGB", (8 + i, 8), colours[i % 3]).save(tmp_path / f"{i}.png")
    rows = [f"{i}.png,Which colour has {i}?,{colours[i % 3]},{['train', 'minival', 'dev'][i // 3]}" for i in range(9)]
    (tmp_path / "mine.csv").write_text("\n".join(["image,question,answer,split", *rows]))
    (tmp_path / "cache").mkdir()
    dial = data.dial_of("questions", [], "test", path=str(tmp_path / "mine.csv"))
    dev = data.load(dial, tmp_path / "cache").dev
    said = [
        Prediction(s.sample_id, s.image_set, s.question_group, None, s.answer, Written(text, "none", 2, True, np.log(0.5), -1.0, 2), (0,), (4,))
        for s, text in zip(map(dev.index, range(3)), ("red", "<b>red</b>", ""), strict=True)
    ]
    facts = {"data": {"counts": {"dev": 3}, "samples": {"dev": data.fingerprint(dev)}}}
    given = {"tracking.cache_dir": str(tmp_path / "cache"), "data.name": "questions", "data.path": dial.path, "data.num_dev": None}
    write_run(tmp_path / "runs", "words", given, said, facts=facts)
    _, _, heading, shown = gallery_blocks(study(choose(tmp_path / "runs", run_ids=["words"])), 24)
    assert heading == Heading(3, "All arms miss") and isinstance(shown, Gallery)
    answers = {case.reference: (case.answers[0].sign, case.answers[0].text, len(case.pictures)) for case in shown.cases}
    assert answers == {"lime": ("✗", "<b>red</b> (50 %)", 1), "blue": ("✗", "(nothing) (50 %)", 1)}
