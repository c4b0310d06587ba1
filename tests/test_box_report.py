"""The report of boxes on synthetic runs: tables, figures, the gallery and its filter."""

from __future__ import annotations

import io
import re

import box_tables
import numpy as np
import pytest
from box_tables import SIZE, prediction
from PIL import Image, ImageDraw
from synthetic_runs import write_boxes

from lab.records import Picture, Sample
from lab.report import gallery as galleries
from lab.report.box_classes import class_counts, name_notes
from lab.report.box_gallery import gallery
from lab.report.document import BoxGallery
from lab.report.select_runs import choose
from lab.report.webpage import to_html
from lab.report.write import write_report

SQUARE, BESIDE = (10, 10, 50, 50), (60, 60, 90, 90)


def pictured(row):
    """A sample whose picture has a rectangle at every reference."""
    picture, out = Image.new("RGB", SIZE, (235, 232, 225)), io.BytesIO()
    for region in row.answer.regions:
        ImageDraw.Draw(picture).rectangle(region[1:], fill=(120, 130, 150) if region.label == "table" else (70, 70, 70))
    picture.save(out, "PNG")
    shown = (Picture(f"{row.sample_id}.png", out.getvalue()),)
    return Sample(row.sample_id, "Where are the tables?", shown, row.answer, row.image_set, row.question_group)


def from_rows(rows):
    """What `lab.report.gallery.read` gives, of drawn pictures: the synthetic runs name data that have none."""
    return lambda m, table, places: {place: pictured(rows[int(table.sample_id[place].partition("-")[2])]) for place in places}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder, patch = tmp_path_factory.mktemp("boxes"), pytest.MonkeyPatch()
    rows = box_tables.drawn(80, 0.15, 0)
    patch.setattr(galleries, "read", from_rows(rows))
    unranked = [prediction(r.sample_id, r.answer.regions, r.said.regions, (), cluster=r.image_set) for r in box_tables.drawn(80, 0.6, 5)]
    write_boxes(folder / "runs", 80, 20, unscored=unranked, clicks=box_tables.drawn(80, 0.6, 6, boxes="click"))
    written = write_report(choose(folder / "runs"), folder / "report", num_cases=8)
    patch.undo()
    return {name: (written / f"report.{name}").read_text() for name in ("html", "md")}


def section(markdown, title):
    return markdown.partition(f"## {title}\n")[2].partition("\n## ")[0]


def test_the_main_table_has_every_arm_and_the_mean_box(page):
    results = section(page["md"], "Results")
    header, _, *rows = [line for line in results.splitlines() if line.startswith("|")][:9]
    assert all(name in header for name in ("F1 by picture, % [95 %]", "mean IoU", "AP, %", "AP50, % [95 %]", "AP75"))
    assert "always the mean box" in results and "(no scores)" in next(row for row in rows if "lora.r=16" in row)
    clicks = next(row for row in rows if "lora.r=17" in row).split("|")
    assert clicks[header.split("|").index(next(cell for cell in header.split("|") if "AP50" in cell))].strip() == "–"
    assert "-1" not in results


def test_what_a_reader_must_know_first(page):
    assert re.search(r"Boxes of .*lora.r=16.* have no scores", page["md"])


def test_pairs_are_tested_in_what_all_arms_have(page):
    said = section(page["md"], "Calibration") + page["md"]
    assert "Pairs in each metric" in said and "F1 by picture [95 %], p" in said


def test_another_spelling_of_a_class_and_what_aliases_read_are_told():
    said = [("nutrition table", 10, 10, 50, 50), ("barcode", 60, 60, 90, 90)]
    table = box_tables.table([prediction("dev-1", [("nutrition-table", 10, 10, 50, 50)], said, text="code(1,2),(3,4)code(5,6),(7,8)", boxes="qwen2")])
    notes = name_notes(table, class_counts(table), {"code": "barcode", "other": "x"})
    assert notes == [
        "2 boxes that it calls code are read as barcode by data.aliases.",
        "1 boxes of the invented class nutrition table may be nutrition-table; data.aliases={nutrition table: nutrition-table} reads them so.",
    ]


def test_classes_invented_and_confused(page):
    classes = section(page["md"], "By class")
    assert "0 (invented)" in classes and "`tabel`" in classes and "What is taken for what" in classes and "none there" in classes


def test_recall_by_size_and_how_answers_were_read(page):
    assert "recall, small" in section(page["md"], "By size")
    assert all(name in section(page["md"], "How answers were read") for name in ("ok, %", "partial", "failed", "repeats a picture", "invalid boxes"))


def test_figures(page):
    assert "precision_recall.png" in page["md"] and "reliability.png" in page["md"]
    assert "the number of boxes in each bin" in page["md"] and "most confident boxes" in page["md"]


def test_the_gallery_draws_the_worst_first_behind_a_filter(page):
    html = page["html"].partition('class="boxes"')[2]
    cards = html.split('<div class="boxcase')[1:]
    assert len(cards) == 8 and "has-missed" in cards[0]
    assert all(card.count("<image ") == 1 and card.count("<use href=") == 5 for card in cards)  # one picture, five arms
    assert all(f'id="boxes-{name}"' in html for name in ("all", "true", "false", "missed"))
    assert "reference, found" in html and "predicted, false" in html


def test_a_card_names_every_box_once():
    rows = [prediction("dev-0", [SQUARE, BESIDE], [SQUARE, (0, 0, 5, 5), (50, 50, 10, 10)], [0.9, 0.8, 0.7])]
    _, block = gallery([("arm", "run")], [box_tables.table(rows)], {0: pictured(rows[0])}, known=True)
    assert isinstance(block, BoxGallery)
    (answer,) = block.cases[0].answers
    assert [box.outcome for box in answer.boxes] == ["reference", "missed", "true", "false", "false"]
    assert answer.said == "1 true, 2 false, 1 missed" and "invalid" in answer.boxes[-1].told
    html = to_html([block], "boxes")
    assert html.count("<rect ") == 10 and 'height="40.0"' in html  # each with its edge; swapped corners are drawn where they are


def test_names_on_a_card_are_no_code():
    bad = ("<script>alert(1)</script>", *SQUARE)
    rows = [prediction("dev-0", [bad], [bad], [0.9])]
    assert "<script>alert" not in to_html(gallery([("arm", "run")], [box_tables.table(rows)], {0: pictured(rows[0])}, known=True), "boxes")


def test_the_mean_box_is_below_an_arm_that_looks():
    from lab.report.kinds.regions import mean_box
    from lab.statistics.metrics import KINDS

    table = box_tables.table(box_tables.drawn(60, 0.9))
    name, values = mean_box(table.select("references", "width", "height"))
    assert name == "always the mean box" and values["ap50"] < 0.15 < KINDS["regions"].metrics["ap50"].of(table)
    assert not np.isnan(values["picture_f1"])
