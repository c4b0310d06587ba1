"""The report: numbers that can be recomputed, arms never dropped, text that stays text, files that stay whose they are."""

from __future__ import annotations

import dataclasses
import json
import re
import statistics
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from synthetic_runs import (
    CONFIG,
    Questions,
    answers,
    changed,
    write_example,
    write_many,
    write_run,
    write_sweep,
)

from lab.answers import predictions
from lab.config import as_dict, flat
from lab.errors import LabError
from lab.records import Scored
from lab.report import confidence_figures, drawing, figures, select_runs, speed, svg, tables
from lab.report.__main__ import main
from lab.report.document import Link, Mono, Strong, Table
from lab.report.findings import study
from lab.report.formatting import quantity
from lab.report.headline import headline
from lab.report.kinds import choice
from lab.report.markdown import markdown_block, markdown_text
from lab.report.measure import POOL_FROM, Unmeasured, measure_all
from lab.report.palette import NARROW, STYLE, WIDTH
from lab.report.select_runs import choose
from lab.report.side_by_side import compare_sweeps
from lab.report.summary import summary, summary_of_run
from lab.report.webpage import SCRIPT, css_width, html_block
from lab.report.write import is_ours, latex, write_report
from lab.statistics import calibration, functional
from lab.statistics.comparing import compare, holm
from lab.statistics.intervals import intervals
from lab.statistics.metrics import KINDS, summarise
from lab.statistics.resampling import clusters
from lab.statistics.seeds import compare_seeds, noise_floor
from lab.statistics.verdict import verdict
from lab.store import curve_files, runs
from lab.store.runs import Run
from lab.store.sync_state import Delivered

METRICS = KINDS["choice"].metrics
ROOT = Path(__file__).parents[1]
HOSTILE = '<script>alert("x")</script> & |`$1$` [a](javascript:b)\n\\input{c} #_*~'


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of a sweep with a baseline, four trained arms and a failed one."""
    runs_dir = tmp_path_factory.mktemp("example") / "runs"
    write_example(runs_dir)
    return runs_dir


@pytest.fixture(scope="module")
def written(example: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of that sweep."""
    return write_report(choose(example), tmp_path_factory.mktemp("report"))


def few(runs_dir: Path, *overrides: dict, num: int = 140, **options) -> list[str]:
    """Small finished runs of the same questions, one for each set of overrides."""
    dev, minival = Questions.draw("dev", num), Questions.draw("minival", 70, seed=1)
    names = []
    for i, one in enumerate(overrides):
        skill = 0.3 + 0.1 * i
        write_run(runs_dir, f"run{i}", one, answers(dev, skill, seed=i), answers(minival, skill, seed=i), **options)
        names.append(f"run{i}")
    return names


def rows_of(markdown: str, header: str) -> dict[str, list[str]]:
    """The rows of the first pipe table whose header line begins so, by their first cell."""
    lines = markdown.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {header}"))
    found = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        found[cells[0].split("`")[1] if "`" in cells[0] else cells[0]] = cells
    return found


def test_every_number_of_the_table_comes_from_the_predictions(example: Path, written: Path) -> None:
    rows = rows_of((written / "report.md").read_text(), "arm | trainable")
    for identity, label in {"zero": "lora=none", "rank8": "lora.r=8", "few": "lora.r=8 vision_tokens=resize"}.items():
        table = predictions.read(example / identity / "predictions" / "dev.parquet")
        run = runs.load(example, identity)
        wanted, within = summarise(table), intervals([table], ("accuracy", "ece"))[0]
        chance = functional.consistency_by_chance(table.question_group)
        spent = [count for row in table.visual_tokens for count in row]
        _, parameters, tokens, accuracy, consistency, ece, auroc, aurc, nll, brier, latency, rate, size, run_id = rows[label]

        def percent(value: float) -> str:
            return f"{100 * value:.1f}"

        def bracketed(name: str) -> str:
            found = within[name]  # noqa: B023 (called within the loop)
            return f"{percent(found.estimate)} [{percent(found.low)}, {percent(found.high)}]"

        assert parameters == f"{run.metrics['parameters/trainable']:,.0f}"
        assert tokens == ("196" if identity != "few" else f"{np.mean(spent):.1f} ({min(spent)} to {max(spent)})")
        assert (accuracy, ece) == (bracketed("accuracy"), bracketed("ece"))
        assert consistency == f"{percent(wanted['consistency'])} ({percent(chance)})"
        for cell, name in ((auroc, "auroc_confidence"), (aurc, "aurc"), (nll, "nll"), (brier, "brier")):
            assert cell == f"{wanted[name]:.3f}"
        assert size == f"{len(table):,} / {clusters(table).max() + 1:,}"
        assert run_id == f"`{identity}`"
        assert latency.startswith({"zero": "12.1 / 15.7", "rank8": "12.6 / 16.4", "few": "7.90 / 10.3"}[identity])
        assert rate == f"{9000 / run.metrics['latency/p50_ms']:,.0f}"
    commoner = table.label.mean() >= 0.5
    assert rows[f"always {commoner}"][3] == percent((table.label == commoner).mean())
    assert "zero-shot" in rows["lora=none"][0]


def test_figures_drawn_by_several_processes_are_those_of_one() -> None:
    def lines(width: float) -> Figure:
        figure = Figure((width, 1))
        figure.subplots().plot([0, 1])
        return figure

    def refused(width: float) -> Figure:
        raise LabError("too few")

    ways = {"lines": lines, "nothing": lambda width: None, "refused": refused}
    pictures = {name: drawing.Picture(draw, name, "A caption.") for name, draw in ways.items()}
    alone, together = drawing.drawings(pictures), drawing.drawings(pictures, workers=2)
    assert alone == together and list(alone) == ["lines", "refused"]
    assert alone["lines"].png is not None and alone["refused"].caption == "too few"


def test_baselines_of_the_data_stand_below_the_arms(example: Path) -> None:
    first = measure_all(choose(example).arms)[0]
    told = dataclasses.replace(first.arm, run=dataclasses.replace(first.arm.run, facts={"data": {"baselines": {"blind": 0.67}}}))
    *_, always, blind = tables.main_table([dataclasses.replace(first, arm=told)], first.kind).rows
    assert always[0].startswith("always") and blind[0] == "blind" and blind[3] == "67.0"


def test_what_arms_share_changes_no_number(example: Path) -> None:
    """Questions read once and draws made once give each arm what `lab.evaluation` gives of its file alone."""
    for measured in measure_all(choose(example).arms)[:5]:
        table = predictions.read(measured.arm.folder / "predictions" / "dev.parquet")
        assert measured.metrics == {name: pytest.approx(METRICS[name].of(table), abs=1e-12) for name in measured.metrics}
        for name, wanted in intervals([table], ("accuracy", "ece"))[0].items():
            found = measured.intervals[name]
            assert (found.estimate, found.low, found.high) == pytest.approx((wanted.estimate, wanted.low, wanted.high), abs=1e-12)
            assert dataclasses.replace(found, estimate=0, low=0, high=0) == dataclasses.replace(wanted, estimate=0, low=0, high=0)
        assert measured.subsets.keys() == {"attribute", "comparison", "counting", "location"}
        inside = table.subset == "counting"
        assert measured.subsets["counting"] == (inside.sum(), pytest.approx(table.correct[inside].mean()))


def test_calibration_is_fitted_on_minival_and_shown_on_dev(example: Path, written: Path) -> None:
    rows = rows_of((written / "report.md").read_text(), "arm | temperature")
    for identity, label in {"rank2": "lora.r=2", "rank32": "lora.r=32"}.items():
        dev, minival = (predictions.read(example / identity / "predictions" / f"{s}.parquet") for s in ("dev", "minival"))
        fitted = calibration.fit(minival, "minival")
        after = summarise(calibration.apply(fitted, dev))
        assert rows[label][1] == f"{fitted.value:.3g}"
        assert rows[label][3] == f"{100 * after['ece']:.1f}" and rows[label][5] == f"{after['nll']:.3f}"
    assert after["ece"] < summarise(dev)["ece"]


def test_every_measure_of_calibration_before_and_after(example: Path, written: Path) -> None:
    """Each cell is the metric of the run's predictions, and of the same at the temperature that minival gives."""
    rows = rows_of((written / "report.md").read_text(), "arm | ECE, %")
    folder = example / "rank32" / "predictions"
    dev = predictions.read(folder / "dev.parquet")
    after = calibration.apply(calibration.fit(predictions.read(folder / "minival.parquet"), "minival"), dev)
    cells = dict(zip((METRICS[name].title for name in choice.FORMULAS), rows["lora.r=32"][1:], strict=True))
    for header, name, digits, scale in (
        ("ECE, %", "ece", 1, 100), ("P(True), %", "ece_p_true", 1, 100), ("smooth ECE, %", "smece", 1, 100),
        ("MCE, %", "mce", 1, 100), ("NLL, nats", "nll", 3, 1), ("Brier", "brier", 3, 1),
    ):  # fmt: skip
        one, other = (f"{scale * METRICS[name].of(table):.{digits}f}" for table in (dev, after))
        assert cells[header] == f"{one} → {other}"
    assert cells["AUROC of confidence"] == f"{METRICS['auroc_confidence'].of(dev):.3f}"
    assert METRICS["aurc"].of(after) == pytest.approx(METRICS["aurc"].of(dev), abs=1e-12)
    parts = functional.brier_parts(after.p_true, after.label)
    assert cells["= reliability"].endswith(f"→ {parts['reliability']:.3f}")
    assert cells["+ uncertainty"] == f"{parts['uncertainty']:.3f}"


def test_claims_are_the_statistics_own_sentences(example: Path, written: Path) -> None:
    page = (written / "report.md").read_text()
    findings = study(choose(example))
    compared = findings.compared
    assert len(compared.pairs) == 5 * 4 / 2
    adjusted = holm([pair.comparison.p_value for pair in compared.pairs])
    tables_of = {m.arm.label: predictions.read(m.arm.folder / "predictions" / "dev.parquet") for m in findings.measured}
    for pair, p in zip(compared.pairs, adjusted, strict=True):
        again = compare(tables_of[pair.first], tables_of[pair.second])
        assert pair.comparison == again
        assert pair.claim == verdict(again, pair.first, pair.second, holm_p=float(p))
        assert f"- {pair.claim.sentence}" in page
    assert "noise floor between seeds was not measured" in page
    finest = [pair.resolution.smallest_detectable for pair in compared.pairs]
    assert f"{100 * min(finest):.1f} to {100 * max(finest):.1f} points" in page


def test_a_failed_arm_is_shown_with_its_error(written: Path) -> None:
    for name in ("report.md", "report.html", "table.tex"):
        page = (written / name).read_text().replace("<wbr>", "")
        assert "lora.r=512" in page and "OutOfMemoryError: 18.2 GiB asked for" in page and "FAILED" in page
    assert "5 finished, 1 failed" in (written / "report.md").read_text()


@pytest.mark.usefixtures("blank_figures")
def test_arms_without_numbers_of_every_kind_are_shown(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    names = few(runs_dir, {"lora.r": 2}, {"lora.r": 4}, {"lora.r": 8}, {"lora.r": 16})
    (runs_dir / "run1" / "predictions" / "dev.parquet").unlink()
    (runs_dir / "run2" / "predictions" / "dev.parquet").write_bytes(b"PAR1 torn")
    stopped = runs.load(runs_dir, "run3")
    runs.save(runs_dir, dataclasses.replace(stopped, status=runs.KILLED, error="KeyboardInterrupt: "))
    write_sweep(runs_dir, "s", [*names, "never"], ["lora.r"])
    folder = write_report(choose(runs_dir), tmp_path / "out")
    page = (folder / "report.md").read_text()
    rows = rows_of(page, "arm | trainable")
    assert len(rows) == 5 + 1
    assert "**NO PREDICTIONS**" in rows["lora.r=4"][0] and "**NO PREDICTIONS**" in rows["lora.r=8"][0]
    assert "**KILLED**" in rows["lora.r=16"][0] and "**NOT STARTED**" in rows["never"][0]
    assert "1 finished, 1 killed, 2 no predictions, 1 not started" in page
    assert "Nothing: there are no two arms to compare." in page


@pytest.mark.usefixtures("blank_figures")
def test_a_run_with_nothing_but_predictions_is_reported(tmp_path: Path) -> None:
    """Runs of an older laboratory, or made by hand: what was not recorded is a dash."""
    runs_dir = tmp_path / "runs"
    few(runs_dir, {"lora.r": 2}, {"lora.r": 4})
    runs.save(runs_dir, Run("run0", "by hand", {}, "", status=runs.FINISHED))
    (runs_dir / "run0" / "curves.jsonl").unlink()
    (runs_dir / "run0" / "predictions" / "minival.parquet").unlink()
    page = (write_report(choose(runs_dir), tmp_path / "out") / "report.md").read_text()
    row = rows_of(page, "arm | trainable")["by hand"]
    assert row[1] == row[10] == row[11] == "–" and re.fullmatch(r"\d+\.\d \[.*\]", row[3])
    assert "No temperature for 1 arm: no minival predictions" in page


def test_a_sweep_of_which_nothing_finished_has_a_page(tmp_path: Path) -> None:
    runs.save(tmp_path / "runs", Run("a", "lora.r=2", changed({"lora.r": 2}), "c", status=runs.FAILED, error="boom"))
    write_sweep(tmp_path / "runs", "s", ["a"], [])
    folder = write_report(choose(tmp_path / "runs"), tmp_path / "out")
    assert "boom" in (folder / "report.html").read_text() and not list(folder.glob("figures/*"))
    assert "boom" in summary(tmp_path / "runs", "s")


class Seen(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.places: set[str] = set()
        self.handlers: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self.places |= {value or "" for name, value in attrs if name == "id"}
        self.handlers += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_text_stays_text(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    names = few(runs_dir, {"prompt.name": HOSTILE}, {"prompt.name": "qa"}, facts={"data": {"notes": [HOSTILE]}})
    failed = Run("bad", HOSTILE, changed({"prompt.name": "x" + HOSTILE}), HOSTILE, status=runs.FAILED, error=HOSTILE)
    runs.save(runs_dir, failed)
    rows = [
        dataclasses.replace(row, subset=HOSTILE) for row in answers(Questions.draw("dev", 140), 0.3, seed=0)
    ]
    predictions.write(runs_dir / "run0" / "predictions" / "dev.parquet", rows)
    write_sweep(runs_dir, "s", [*names, "bad"], ["prompt"], HOSTILE)
    folder = write_report(choose(runs_dir), tmp_path / "out")
    seen = Seen()
    seen.feed((folder / "report.html").read_text())
    page = (folder / "report.html").read_text()
    assert page.count("<script") == page.count(f"<script>{SCRIPT}</script>") == 1 and not seen.handlers
    assert all(link.startswith(("#", "../../runs/")) for link in seen.links)
    assert seen.text.count('<script>alert("x")</script> & |`$1$` [a](javascript:b)') >= 6
    markdown = (folder / "report.md").read_text()
    outside_code = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", markdown)
    assert not re.search(r"(?<!\\)<script", outside_code) and "](javascript:" not in outside_code.replace(r"\]", "")
    for header in ("arm | trainable", "arm | temperature", "run | arm"):
        assert len({len(cells) for cells in rows_of(markdown, header).values()}) == 1
    for line in (folder / "table.tex").read_text().splitlines():
        if not line.startswith("%"):
            assert r"\input" not in line and not re.search(r"(?<!\\)[$#_]", line.replace(r"\textbackslash{}", ""))


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a*b_c d_e_ <i>", r"a\*b_c d_e\_ \<i>"),
        (("x", Strong("1|2")), r"x**1\|2**"),
        (Mono("a`b"), "``a`b``"),
        (("[a]", "(b)"), r"\[a\](b)"),
        ("71.2 [69.9, 72.4]", "71.2 [69.9, 72.4]"),
        ("# no heading", "&#35; no heading"),
        ("1. no list", "&#49;. no list"),
        ("- no\nlist", "&#45; no list"),
    ],
)
def test_markdown_escapes(text, written: str) -> None:
    assert markdown_text(text) == written


def test_a_bar_in_a_code_cell_does_not_end_the_cell() -> None:
    table = Table(("a", "b"), (((Mono("x|y"),), "1"),), frozenset({1}))
    assert markdown_block(table, Path()).splitlines()[-1] == r"| `x\|y` | 1 |"
    assert "<code>x|y</code>" in html_block(table)


def test_latex_escapes() -> None:
    assert latex(r"50 % of {a_b} & \c") == r"50 \% of \{a\_b\} \& \textbackslash{}c"
    assert latex("[1]").startswith("{}[")


@pytest.mark.usefixtures("blank_figures")
def test_no_foreign_file_is_overwritten(tmp_path: Path) -> None:
    runs_dir, out = tmp_path / "runs", tmp_path / "out"
    few(runs_dir, {"lora.r": 2}, {"lora.r": 4})
    theirs = out / "all" / "report.md"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("my notes\n")
    with pytest.raises(LabError, match="was not written by lab.report"):
        write_report(choose(runs_dir), out)
    assert theirs.read_text() == "my notes\n" and list(theirs.parent.iterdir()) == [theirs]
    theirs.unlink()
    folder = write_report(choose(runs_dir), out)
    mine = sorted(path for path in folder.rglob("*") if path.is_file())
    assert len(mine) == 3 + 5 and all(is_ours(path) for path in mine)
    write_report(choose(runs_dir), out)  # its own files it may replace
    for name in ("report.md", "report.html", "table.tex"):
        path = folder / name
        ours = path.read_text()
        path.write_text(ours + "an afterthought\n")
        with pytest.raises(LabError, match="edited since"):
            write_report(choose(runs_dir), out)
        assert path.read_text().endswith("an afterthought\n")
        path.write_text(ours)
    figure = folder / "figures" / "reliability.png"
    figure.write_bytes(b"\x89PNG mine")
    with pytest.raises(LabError, match="reliability"):
        write_report(choose(runs_dir), out)


def test_figures_are_there_and_readable(written: Path) -> None:
    names = {path.stem for path in written.glob("figures/*.png")}
    assert names == {"accuracy_and_ece", "accuracy_against_cost", "reliability", "risk_coverage", "training_curves"}
    page = (written / "report.html").read_text()
    for path in written.glob("figures/*.png"):
        data = path.read_bytes()
        assert data.startswith(b"\x89PNG") and 400 < css_width(data) < 800
        assert f"figures/{path.name}" in (written / "report.md").read_text()
    assert page.count("<svg ") == 2 * len(names) and "http:" not in page and "https:" not in page


def test_values_can_be_read_off_the_figures(example: Path) -> None:
    """Every arm's mark says its name, accuracy with interval and latency, and leads to its run; colours are the page's."""
    measured = [m for m in measure_all(choose(example).arms) if not isinstance(m, Unmeasured)]
    _, drawn = drawing.png_and_svgs(lambda width: figures.against_cost(measured, width), "x", "y")
    assert drawn[0] != drawn[1] and float(re.search(r"width: (\d+)px", drawn[1])[1]) < 400
    for drawing_ in drawn:
        root = ElementTree.fromstring(drawing_)
        told = {group.get("data-runs"): group.find("title").text for group in root.iter("g") if group.get("data-runs")}
        for m in measured:
            interval = m.intervals["accuracy"]
            said = f"{100 * m.headline:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
            assert told[m.arm.run.identity].startswith(f"{m.arm.label}\n") and said in told[m.arm.run.identity]
            assert f"{quantity(m.arm.run.metrics['latency/p50_ms'])} ms" in drawing_ and f'href="#run-{m.arm.run.identity}"' in drawing_
        assert not re.search(r"#[0-9a-f]{6}\b", re.sub(r'(href|id|clip-path)="[^"]*"', "", drawing_))


@pytest.mark.parametrize("num_arms", [3, figures.MOST_LINES + 1, pytest.param(figures.MOST_BARS, marks=pytest.mark.bar)])
def test_no_arm_is_without_a_label(tmp_path: Path, num_arms: int) -> None:
    """Each figure that shows an arm names it: itself, or by a number whose name stands below."""
    write_many(tmp_path / "runs", num_arms, 70, 35)
    measured = measure_all(choose(tmp_path / "runs").arms)
    shown = tables.best(measured, figures.MOST_BARS)
    assert len(shown) == num_arms
    with matplotlib.rc_context(STYLE):
        drawn = [figures.against_cost(shown, width) for width in (WIDTH, NARROW)]
        drawn += [figures.with_intervals(shown, "always", width) for width in (WIDTH, NARROW)]
        texts = [svg.inline(figure) for figure in drawn if figure is not None]
    assert len(texts) == 4
    for text in texts:
        words = " ".join("".join(one.itertext()) for one in ElementTree.fromstring(text).iter("text"))
        for name in figures.named(shown):
            assert all(part in words for part in name.split()), name


def test_the_pareto_front_is_what_nothing_beats(tmp_path: Path) -> None:
    write_many(tmp_path / "runs", 12, 70, 35)
    measured = measure_all(choose(tmp_path / "runs").arms)
    front = figures.frontier(measured, figures.LATENCY)
    places = [(figures.LATENCY.of(m), m.headline) for m in measured]
    beaten = {(cost, score) for cost, score in places for c, s in places if c <= cost and s >= score and (c, s) != (cost, score)}
    assert sorted((figures.LATENCY.of(m), m.headline) for m in front) == sorted(set(places) - beaten)
    assert all(m.arm.label in figures.front_in_words(measured) for m in front)


def test_the_answer_stands_on_top_and_says_no_more_than_the_claims(example: Path, written: Path) -> None:
    findings = study(choose(example))
    said = headline(findings)
    assert (written / "report.md").read_text().splitlines()[3] == f"**Answer.** {said}"
    leader = max((g for g in findings.compared.groups), key=lambda group: group.rank)
    assert said.startswith(f"{leader.label}, the best on minival, has accuracy {100 * leader.members[0].headline:.1f} % on 1,400 dev")
    beats, _, rest = said.partition("it beats ")[2].partition(", and no claim holds between it and ")
    for pair in findings.compared.pairs:
        if leader.label in (pair.first, pair.second):
            other = pair.second if pair.first == leader.label else pair.first
            assert (other in re.split(", | and ", beats)) == pair.claim.claimed and (other in re.split(", | and | \\(", rest)) != pair.claim.claimed
    assert "no second seed was run" in said


def test_the_answer_of_one_arm_and_of_none(tmp_path: Path) -> None:
    few(tmp_path / "runs", {"lora.r": 2})
    assert "it is alone, so nothing is compared" in headline(study(choose(tmp_path / "runs")))
    run = runs.load(tmp_path / "runs", "run0")
    runs.save(tmp_path / "runs", dataclasses.replace(run, status=runs.FAILED, error="boom"))
    assert headline(study(choose(tmp_path / "runs", None, ["run0"]))) == "Nothing can be said yet: none of 1 arm has finished."


@pytest.mark.usefixtures("blank_figures")
def test_a_score_says_how_it_came_about(tmp_path: Path) -> None:
    """One line for all arms, or one for each protocol, from the contract where the run has one."""
    names = few(tmp_path / "runs", {"lora.r": 2}, {"lora.r": 4}, {"lora.r": 8, "prompt.name": "qa"})
    contract = {"prompt": {"name": "declarative", "hash": "9218cba69fa3ed87"}, "chat_template": "{{ x }}"}
    contract["processor"] = {"size": {"shortest_edge": 4096, "longest_edge": 65536}}
    for name in names[:2]:
        (tmp_path / "runs" / name / "contract.json").write_text(json.dumps(contract))
    page = (write_report(choose(tmp_path / "runs"), tmp_path / "out") / "report.md").read_text()
    same, other = [line for line in page.splitlines() if "Protocol of" in line]
    assert "lora.r=2, lora.r=4" in same and "prompt declarative (hash 9218cba6); pixels an image 4,096 to 65,536; chat template " in same
    assert "one forward pass; split dev of pairs, 140 examples (samples cccccccc)" in same
    assert "prompt qa; pixels not recorded; chat template not recorded" in other


def test_every_number_leads_to_its_run(example: Path, written: Path) -> None:
    """Names of arms lead to the row that says where the run lies and which command makes it again; the paths are there."""
    seen = Seen()
    seen.feed((written / "report.html").read_text())
    assert {"#run-zero", "#run-rank512"} <= set(seen.links)
    assert {link[1:] for link in seen.links if link.startswith("#")} <= seen.places
    folders = [link for link in seen.links if not link.startswith("#")]
    assert len(folders) == 6 and all((written / unquote(link) / "run.json").is_file() for link in folders)
    assert html_block(Table(("a",), ((("x ", Link("<r>", '"&')),),))).count('<a href="&quot;&amp;"><code>&lt;r&gt;</code></a>') == 1


@pytest.mark.usefixtures("blank_figures")
def test_an_mlflow_run_is_named_and_linked_where_a_server_has_it(tmp_path: Path) -> None:
    for name, uri in zip(few(tmp_path / "runs", {"lora.r": 2}, {"lora.r": 4}), ("https://host/", "sqlite:///mlflow.db"), strict=True):
        Delivered(uri, "lab", "", f"{name}-there").keep(tmp_path / "runs" / name)
    folder = write_report(choose(tmp_path / "runs"), tmp_path / "out")
    page = (folder / "report.html").read_text()
    assert '<a href="https://host/#/runs/run0-there">' in page and "<code>run1-there</code></td>" in page
    assert "`run0-there`" in (folder / "report.md").read_text()


def test_an_unreadable_line_of_a_curve_costs_that_line(tmp_path: Path, caplog) -> None:
    few(tmp_path / "runs", {"lora.r": 2}, {"lora.r": 4})
    path = tmp_path / "runs" / "run1" / "curves.jsonl"
    whole = list(curve_files.read(path.parent))
    path.write_text("{torn\n[1]\n" + path.read_text())
    assert list(curve_files.read(path.parent)) == whole
    assert "curves.jsonl:1: this line is no point" in caplog.text and "curves.jsonl:2" in caplog.text
    assert figures.training_curves(measure_all(choose(tmp_path / "runs").arms)) is not None


def test_an_unreadable_curve_costs_only_its_figure(tmp_path: Path) -> None:
    few(tmp_path / "runs", {"lora.r": 2}, {"lora.r": 4})
    path = tmp_path / "runs" / "run1" / "curves.jsonl"
    path.unlink()
    path.mkdir()
    folder = write_report(choose(tmp_path / "runs"), tmp_path / "out")
    assert not (folder / "figures" / "training_curves.png").exists()
    assert "curves.jsonl: it cannot be read" in (folder / "report.md").read_text()


def test_arms_that_differ_only_in_their_seed_are_one_experiment(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    arms = [{"lora.r": rank, "seed": seed} for rank in (2, 8) for seed in (0, 1, 2)]
    few(runs_dir, *arms, {"lora.name": "none", "lora.r": 0, "trainer.max_steps": 0})
    findings = study(choose(runs_dir))
    by_label = {group.label: group for group in findings.compared.groups}
    assert {label: len(e.members) for label, e in by_label.items()} == {"lora.r=2": 3, "lora.r=8": 3, "lora=none": 1}
    accuracies = [m.metrics["accuracy"] for m in by_label["lora.r=8"].members]
    row = tables.seeds_table(findings.compared.groups, findings.kind).rows[1]
    assert row[1] == "0, 1, 2"
    assert row[2] == f"{100 * statistics.fmean(accuracies):.1f} ± {100 * statistics.stdev(accuracies):.1f}"
    floor = noise_floor([[m.metrics["accuracy"] for m in e.members] for e in by_label.values()])
    assert findings.compared.floor == floor
    loaded = [[predictions.read(m.arm.folder / "predictions/dev.parquet") for m in e.members] for e in by_label.values()]
    first, second = findings.compared.pairs[:2]
    assert first.comparison == compare_seeds(loaded[0], loaded[1]) and first.comparison.num_seeds == 3
    assert second.comparison == compare_seeds(loaded[0], loaded[2] * 3)  # no seed touches the baseline: it meets every seed
    assert f"noise floor {100 * floor.bound(3):.1f}" in first.claim.sentence


@pytest.mark.usefixtures("blank_figures")
def test_two_seeds_are_told_to_be_too_few(tmp_path: Path) -> None:
    few(tmp_path / "runs", *({"lora.r": rank, "seed": seed} for rank in (2, 32) for seed in (0, 1)))
    page = (write_report(choose(tmp_path / "runs"), tmp_path / "out") / "report.md").read_text()
    assert "(two seeds carry no interval; run at least three); noise floor" in page and "no claim." in page
    row = rows_of(page, "first | second")["lora.r=2"]
    assert "no interval" in row[2] and row[3:5] == ["–", "–"] and "inf" not in page


@pytest.mark.usefixtures("blank_figures")
def test_one_pair_of_seeds_is_told_to_be_a_wide_floor(tmp_path: Path) -> None:
    few(tmp_path / "runs", {"lora.r": 2, "seed": 0}, {"lora.r": 2, "seed": 1})
    page = (write_report(choose(tmp_path / "runs"), tmp_path / "out") / "report.md").read_text()
    assert "1 degree of freedom). It rests on one pair of runs" in page


@pytest.mark.usefixtures("blank_figures")
def test_latency_is_shown_stage_by_stage(example: Path, written: Path, tmp_path: Path) -> None:
    page = (written / "report.md").read_text()
    alone, together = rows_of(page, "arm | whole answer, ms"), rows_of(page, "arm | examples together")
    for identity, label in {"zero": "lora=none", "rank8": "lora.r=8"}.items():
        known = runs.load(example, identity).metrics
        cells = alone[label][1:-1]
        names = [f"{merged}{stage}" for merged in ("", "merged_") for stage in ("", "vision_", "prefill_", "decode_")]
        for name, cell in zip(names, cells, strict=True):
            p50, p95 = (known.get(f"latency/{name}{p}_ms") for p in ("p50", "p95"))
            assert cell == ("–" if p50 is None else f"{quantity(p50)} / {quantity(p95)}")
        assert alone[label][-1] == quantity(known["latency/tokens"])
        assert together[label][1] == "64"
    assert alone["lora=none"][5:9] == ["–"] * 4 and "peak memory of answering" not in page
    assert "Milliseconds an answer at batch 1, median, read off the logits: " in page and "planned" not in page
    few(tmp_path / "runs", {"lora.r": 2})
    run = runs.load(tmp_path / "runs", "run0")
    run.facts["planned"] = {"train": {"seconds": {"low": 10.0, "expected": 21.0, "high": 30.0}}}
    whole, further = (run.metrics[f"latency/{stage}p50_ms"] for stage in ("", "decode_"))
    assert speed.answer_ms(run.metrics | {"answers/tokens": 5.0}) == pytest.approx(whole + 4 * further)
    run.metrics = {key: value for key, value in run.metrics.items() if "prefill" not in key}
    runs.save(tmp_path / "runs", run)
    page = (write_report(choose(tmp_path / "runs"), tmp_path / "out") / "report.md").read_text()
    assert "whole answer, ms" not in page and "planned 21.0 (10.0 to 30.0), real 31.5 (+50 %, outside it)" in page


def test_experiments_without_a_common_seed_are_not_compared(tmp_path: Path) -> None:
    few(tmp_path / "runs", {"lora.r": 2, "seed": 0}, {"lora.r": 8, "seed": 1})
    compared = study(choose(tmp_path / "runs")).compared
    assert not compared.pairs and "share no seed" in compared.notes[0]


def test_many_arms_meet_the_best_on_minival_only(tmp_path: Path) -> None:
    zero = {"lora.name": "none", "lora.r": 0, "trainer.max_steps": 0}
    few(tmp_path / "runs", zero, *({"lora.r": 2**i} for i in range(1, 8)))
    findings = study(choose(tmp_path / "runs"))
    best = max(findings.measured, key=lambda m: m.minival)
    assert {pair.first for pair in findings.compared.pairs} == {best.arm.label} and len(findings.compared.pairs) == 7
    assert "the best on minival" in findings.compared.notes[0]


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.usefixtures("blank_figures")
def test_a_large_sweep_is_cut_where_a_reader_would_drown(tmp_path: Path) -> None:
    """50 runs, some through worker processes; what is cut says so, and no arm leaves the main table."""
    write_many(tmp_path / "runs", 50, 140, 70)
    selection = choose(tmp_path / "runs")
    some = selection.arms[:POOL_FROM]
    alone, spread = measure_all(some, 50, workers=1), measure_all(some, 50, workers=2)
    assert [(m.arm.label, m.metrics, m.intervals) for m in alone] == [(m.arm.label, m.metrics, m.intervals) for m in spread]
    folder = write_report(selection, tmp_path / "out", workers=1)
    page = (folder / "report.md").read_text()
    assert len(rows_of(page, "arm | trainable")) == 51
    assert len(rows_of(page, "arm | temperature")) == tables.MOST_ROWS
    assert len(rows_of(page, "first | second")) == 1
    assert page.count("- lora.r=") == 24
    for number in (figures.MOST_BARS, confidence_figures.MOST_PANELS, figures.MOST_LINES):
        assert f"The {number} best of 50 on minival." in page


def remarks_of(runs_dir: Path) -> str:
    return "\n".join(study(choose(runs_dir)).remarks)


def test_clean_arms_have_no_remarks(example: Path) -> None:
    assert remarks_of(example) == ""


def test_arms_asked_other_questions_are_told_and_not_compared(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    few(runs_dir, {"lora.r": 2}, {"lora.r": 4}, {"lora.r": 8})
    predictions.write(runs_dir / "run2" / "predictions" / "dev.parquet", answers(Questions.draw("other", 140), 0.5))
    findings = study(choose(runs_dir))
    assert "lora.r=2, lora.r=4 against lora.r=8" in findings.remarks[0]
    assert len(findings.compared.pairs) == 1 and "lora.r=8 is not compared" in findings.compared.notes[0]


def test_another_order_is_told_and_still_paired(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    few(runs_dir, {"lora.r": 2}, {"lora.r": 4})
    rows = answers(Questions.draw("dev", 140), 0.4, seed=1)
    predictions.write(runs_dir / "run1" / "predictions" / "dev.parquet", rows[::-1])
    findings = study(choose(runs_dir))
    assert "in another order" in findings.remarks[0] and len(findings.compared.pairs) == 1


def test_tokens_that_no_dial_explains_are_told(tmp_path: Path, example: Path) -> None:
    runs_dir = tmp_path / "runs"
    few(runs_dir, {"lora.r": 2}, {"lora.r": 4})
    rows = answers(Questions.draw("dev", 140), 0.4, tokens=100, seed=1)
    predictions.write(runs_dir / "run1" / "predictions" / "dev.parquet", rows)
    assert "different numbers of visual tokens, and no dial says so" in remarks_of(runs_dir)


def test_training_on_other_data_is_told(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    few(runs_dir, {"lora.r": 2}, {"lora.r": 4, "trainer.batch_size": 32})
    run = runs.load(runs_dir, "run1")
    run.facts["data"]["samples"]["train"] = "other"
    run.facts["data"]["order"]["examples_seen"] = 9600
    run.facts["versions"]["torch"] = "2.14.0"
    run.metrics["dev/accuracy"] += 0.01
    runs.save(runs_dir, run)
    told = remarks_of(runs_dir)
    assert "same train samples" in told and "(1 arm on 4,800, 1 arm on 9,600)" in told
    assert "torch 2.13.0 / 2.14.0" in told and "records dev/accuracy" in told
    assert "arms differ in trainer.batch_size" in told


def test_smaller_batches_after_out_of_memory_are_told(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    few(runs_dir, {"lora.r": 2}, {"lora.r": 4})
    run = runs.load(runs_dir, "run1")
    run.facts["out_of_memory"] = [{"batch_size": 4, "accumulate_grad_batches": 2}]
    runs.save(runs_dir, run)
    assert "Out of memory, lora.r=4 went on with smaller batches" in remarks_of(runs_dir)


def test_gradient_checkpointing_of_some_arms_is_told(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    few(runs_dir, {"lora.r": 2}, {"lora.r": 4})
    for i, on in enumerate((False, True)):
        assert "Gradient checkpointing" not in remarks_of(runs_dir)
        run = runs.load(runs_dir, f"run{i}")
        run.facts["gradient_checkpointing"] = {"on": on, "by": "memory plan"}
        runs.save(runs_dir, run)
    assert "Gradient checkpointing was on for lora.r=4 and off for others" in remarks_of(runs_dir)


def test_latency_under_load_and_on_several_machines_is_told(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    few(runs_dir, {"lora.r": 2}, {"lora.r": 4}, {"lora.r": 8})
    for name, (host, start, end) in {"run0": ("a", 0, 30), "run1": ("a", 10, 50), "run2": ("b", 20, 40)}.items():
        run = runs.load(runs_dir, name)
        run.process = {"pid": 1, "host": host}
        run.started, run.ended = f"2026-07-01T10:00:{start:02d}+00:00", f"2026-07-01T10:00:{end:02d}+00:00"
        runs.save(runs_dir, run)
    told = remarks_of(runs_dir)
    assert "1 of 3 arms were measured while another arm ran" in told and "2 different machines (a, b)" in told


def test_little_captured_mass_is_told(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    few(runs_dir, {"lora.r": 2})
    rows = [
        dataclasses.replace(row, said=Scored(tuple(each - 1.6 for each in row.said.log_p), 0.2, row.said.prediction))
        for row in answers(Questions.draw("dev", 140), 0.4)
    ]
    predictions.write(runs_dir / "run0" / "predictions" / "dev.parquet", rows)
    assert "hold less than half" in remarks_of(runs_dir)


@pytest.mark.usefixtures("blank_figures")
def test_one_cluster_has_no_interval_and_says_why(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    few(runs_dir, {"lora.r": 2}, {"lora.r": 4})
    for name in ("run0", "run1"):
        rows = [dataclasses.replace(row, image_set="one") for row in answers(Questions.draw("dev", 140), 0.4)]
        predictions.write(runs_dir / name / "predictions" / "dev.parquet", rows)
    page = (write_report(choose(runs_dir), tmp_path / "out") / "report.md").read_text()
    assert "No interval for lora.r=2, lora.r=4" in page and "Nothing is compared" in page


@pytest.mark.parametrize(
    ("dials", "arms", "labels"),
    [
        (["lora.r"], [{"lora.r": 2}, {"lora.r": 8}], ["lora.r=2", "lora.r=8"]),
        (["lora"], [{"lora.name": "llm"}, {"lora.name": "all", "lora.where": ["llm", "vision"]}], ["lora=llm", "lora=all"]),
        (
            [],
            [{}, {"prompt.name": "qa"}, {"optim.lr": 0.1}, {"optim.lr": 0.2}],
            ["optim.lr=0.002", "prompt=qa optim.lr=0.002", "optim.lr=0.1", "optim.lr=0.2"],
        ),
        (
            [],
            [{}, {"prompt.name": "qa"}, {"optim.lr": 0.1}, {"vision_tokens.name": "resize"}],
            ["prompt=declarative vision_tokens=native optim.lr=0.002", "prompt=qa", "optim.lr=0.1", "vision_tokens=resize"],
        ),
        (
            ["lora.r", "seed"],
            [{"lora.r": 2, "seed": 0}, {"lora.r": 2, "seed": 1}, {"lora.r": 8, "seed": 0}, {"lora.r": 8, "seed": 1}],
            ["lora.r=2 seed=0", "lora.r=2 seed=1", "lora.r=8 seed=0", "lora.r=8 seed=1"],
        ),
        ([], [{"trainer.threads": 1}, {"trainer.threads": 4}], ["trainer.threads=1", "trainer.threads=4"]),
    ],
)
def test_labels_say_what_differs_and_no_more(tmp_path: Path, dials: list[str], arms: list[dict], labels: list[str]) -> None:
    found = [Run(str(i), " ".join(f"{k}={v}" for k, v in arm.items()), changed(arm), "c") for i, arm in enumerate(arms)]
    sweep = runs.Sweep("s", "s", "c", [run.identity for run in found], dials)
    assert [arm.label for arm in select_runs.select("s", "s", tmp_path, found, sweep).arms] == labels


def test_what_differs_besides_the_labels_is_listed(tmp_path: Path) -> None:
    found = [Run(str(r), "", changed({"lora.r": r, "optim.lr": 1 / r}), "c") for r in (2, 4, 8)]
    selection = select_runs.select("s", "s", tmp_path, found, runs.Sweep("s", "s", "c", ["2", "4", "8"], ["lora.r"]))
    assert [arm.label for arm in selection.arms] == ["lora.r=2", "lora.r=4", "lora.r=8"] and selection.also == ("optim.lr",)


def test_the_summary_fits_a_terminal(example: Path) -> None:
    text = summary(example, "ranks")
    assert max(map(len, text.partition("compare:")[0].splitlines())) <= 100  # the commands are as long as the paths
    assert re.search(r"lora\.r=8 +FINISHED +49,152 +\d\d\.\d \[\d\d\.\d, \d\d\.\d\] +\d+\.\d +12\.6 +714", text)
    assert re.search(r"lora\.r=512 +FAILED", text) and "OutOfMemoryError" in text
    assert "python -m lab.report --sweep ranks" in text and text == summary(example, runs.load_sweep(example, "ranks"))
    alone = summary_of_run(example, runs.load(example, "rank8"))
    assert "python -m lab.report --run rank8" in alone and max(map(len, alone.partition("compare:")[0].splitlines())) <= 100


def test_the_summary_wraps_long_names(tmp_path: Path) -> None:
    few(tmp_path / "runs", {"lora.target_modules": "x" * 90}, {"lora.target_modules": "y" * 90})
    write_sweep(tmp_path / "runs", "s", ["run0", "run1"], ["lora.target_modules"])
    text = summary(tmp_path / "runs", "latest")
    table = text.partition("compare:")[0]
    assert max(map(len, table.splitlines())) <= 100 and table.count("x") >= 90


def test_the_door_reports_the_latest_sweep_without_torch(tmp_path: Path) -> None:
    runs_dir = tmp_path / "runs"
    write_sweep(runs_dir, "ranks", few(runs_dir, {"lora.r": 2}, {"lora.r": 4}), ["lora.r"])
    code = (
        "import sys; from lab.report.__main__ import main\n"
        f"code = main(['--runs-dir', {str(runs_dir)!r}, '--out', {str(tmp_path)!r}])\n"
        "print(code, [name for name in ('torch', 'mlflow', 'transformers', 'matplotlib.pyplot') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip().endswith("0 []")
    assert (tmp_path / "ranks" / "report.html").is_file()


def test_the_manual_is_light() -> None:
    code = (
        "import runpy, sys\nsys.argv = ['lab.report', '--help']\n"
        "try:\n    runpy.run_module('lab.report', run_name='__main__')\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'mlflow', 'matplotlib', 'numpy', 'pyarrow') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert out.strip().endswith("[]") and "--sweep" in out and "--bootstrap" in out


@pytest.mark.usefixtures("blank_figures")
def test_what_is_reported_by_default_and_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs_dir = tmp_path / "runs"
    few(runs_dir, {"lora.r": 2}, {"lora.r": 4}, {"lora.r": 8})

    def chosen(*arguments) -> tuple[str, list[str]]:
        selection = choose(runs_dir, *arguments)
        return selection.name, [arm.run.identity for arm in selection.arms]

    assert chosen() == ("all", ["run0", "run1", "run2"])
    write_sweep(runs_dir, "one", ["run0", "run1"], ["lora.r"])
    write_sweep(runs_dir, "two", ["run1", "run2"], ["lora.r"])
    assert chosen() == chosen("latest") == ("two", ["run1", "run2"])
    assert chosen("sweep one") == chosen("one") == ("one", ["run0", "run1"])
    assert chosen(None, ["run1"]) == ("run1", ["run1"])
    name, arms = chosen("one", ["run2", "run0"])
    assert name.startswith("one-") and arms == ["run0", "run1", "run2"]
    assert main(["--runs-dir", str(runs_dir), "--out", str(tmp_path / "out"), "--run", "run1"]) == 0
    assert (tmp_path / "out" / "run1" / "report.md").exists() and "1 of 1 arms finished" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--sweep", "rank"], "Did you mean 'ranks'?"),
        (["--run", "rank9"], "Did you mean 'rank8'?"),
        (["--runs-dir", "nowhere"], "--runs-dir=nowhere: there is no such folder"),
    ],
)
def test_the_door_says_what_is_wrong_in_a_sentence(example: Path, arguments: list[str], said: str, capsys) -> None:
    where = [] if "--runs-dir" in arguments else ["--runs-dir", str(example)]
    assert main([*where, *arguments]) == 2
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_an_empty_folder_and_a_broken_record_are_told(tmp_path: Path, caplog) -> None:
    with pytest.raises(LabError, match="no sweep and no finished run"):
        choose(tmp_path)
    with pytest.raises(LabError, match="holds no sweep"):
        choose(tmp_path, "latest")
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "s.json").write_text(json.dumps({"identity": "s"}))
    with pytest.raises(LabError, match="no sweep and no finished run"):
        choose(tmp_path)
    assert "s.json: this is no sweep" in caplog.text


def test_the_fixture_is_a_config_of_this_laboratory(composer) -> None:
    """Every key of the synthetic config is one of a composed experiment, with a value of the same type."""
    real, made = flat(as_dict(composer())), flat(CONFIG)
    assert made.keys() - real.keys() == set()
    kinds = {key: (type(value), type(real[key])) for key, value in made.items() if value is not None and real[key] is not None}
    assert len(kinds) > 15 and {key: pair for key, pair in kinds.items() if pair[0] is not pair[1]} == {}


@pytest.fixture()
def two_sweeps(tmp_path: Path) -> Path:
    """Two ranks under two prompts, a sweep for each prompt."""
    arms = [{"lora.r": rank, "prompt.name": prompt} for prompt in ("declarative", "qa") for rank in (2, 8)]
    names = few(tmp_path / "runs", *arms)
    write_sweep(tmp_path / "runs", "plain", names[:2], ["lora.r"], "Which rank?")
    write_sweep(tmp_path / "runs", "asked", names[2:], ["lora.r"])
    return tmp_path


def test_two_sweeps_are_compared_question_by_question(two_sweeps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs_dir = two_sweeps / "runs"
    assert main(["--runs-dir", str(runs_dir), "--out", str(two_sweeps / "out"), "plain", "asked"]) == 0
    folder = two_sweeps / "out" / "plain-against-asked"
    assert f"2 of 2 and 2 of 2 arms finished. Read {folder / 'report.html'}" in capsys.readouterr().out
    page = (folder / "report.md").read_text()
    rows = rows_of(page, "arm | A accuracy")
    versus = compare_sweeps(study(choose(runs_dir, "plain")), study(choose(runs_dir, "asked")), 2000)
    by_rank = {pair.first.removesuffix(" of A"): pair for pair in versus.pairs if pair.first[:-1] == pair.second[:-1]}
    adjusted = holm([pair.comparison.p_value for pair in versus.pairs])
    for place, label in enumerate(("lora.r=2", "lora.r=8")):
        one, other = (predictions.read(runs_dir / f"run{i}" / "predictions" / "dev.parquet") for i in (place, place + 2))
        again = compare(one, other)
        assert by_rank[label].comparison == again
        assert rows[label][1].startswith(f"{100 * again.first:.1f} [") and rows[label][2].startswith(f"{100 * again.second:.1f} [")
        assert rows[label][3].startswith(f"{100 * again.difference:+.1f} [")
    assert all(pair.claim.holm_p == pytest.approx(p) and f"- {pair.claim.sentence}" in page for pair, p in zip(versus.pairs, adjusted, strict=True))
    assert rows_of(page, "key | A | B") == {"prompt.name": ["`prompt.name`", "`declarative`", "`qa`"]}
    assert {path.stem for path in folder.glob("figures/*.png")} == {"both_with_intervals", "both_against_cost"}
    seen = Seen()
    seen.feed((folder / "report.html").read_text())
    assert {link[1:] for link in seen.links if link.startswith("#")} <= seen.places


def test_what_two_sweeps_do_not_share_is_not_compared(two_sweeps: Path) -> None:
    runs_dir = two_sweeps / "runs"
    predictions.write(runs_dir / "run3" / "predictions" / "dev.parquet", answers(Questions.draw("other", 140), 0.5))
    write_sweep(runs_dir, "mixed", ["run0", "run3"], ["lora.r"])
    versus = compare_sweeps(*(study(choose(runs_dir, name)) for name in ("plain", "mixed")), 2000)
    assert not versus.pairs and "lora.r=2 is the same run in both." in "".join(versus.notes)
    assert "were not asked the same dev questions" in "".join(versus.notes)


@pytest.mark.usefixtures("blank_figures")
def test_a_name_is_a_sweep_or_a_run_and_two_are_the_most(two_sweeps: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--runs-dir", str(two_sweeps / "runs"), "--out", str(two_sweeps / "out")]
    assert main([*where, "run1"]) == 0 and (two_sweeps / "out" / "run1" / "report.html").is_file()
    for wrong in (["plain", "asked", "run1"], ["plain", "--run", "run1"]):
        assert main([*where, *wrong]) == 2
        assert "takes one name or two" in capsys.readouterr().err


def test_what_authors_say_of_a_checkpoint_stands_beside_ours_with_its_source(tmp_path: Path) -> None:
    """Only where it is asked as it is, on the data of that figure; a trained arm of it is another model."""
    untrained = {"model.path": "dandelin/vilt-b32-finetuned-nlvr2", "data.name": "nlvr2", "lora.r": 0}
    few(tmp_path, {**untrained, "trainer.max_steps": 0, "trainer.max_epochs": None}, {**untrained, "lora.r": 4})
    page = (write_report(choose(tmp_path), tmp_path / "report") / "report.md").read_text()
    table = page.partition("## Ours and the published")[2].partition("\n## ")[0]
    assert table.count("dandelin/vilt-b32-finetuned-nlvr2") == 2 and table.count("EVAL.md") == 2
    assert "75.65 (dev)" in table and "76.52 (test)" in table and "has no test" in table


def test_a_sweep_may_have_a_longer_name_than_a_file() -> None:
    from lab.report.published import rows_of

    assert rows_of("lora.r=8 " * 60) == [] and rows_of("product_vqa")
