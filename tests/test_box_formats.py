"""Boxes in texts: every format is read as its family means it, survives what models write, and is written and read back."""

import json
import random
import time
from pathlib import Path

import pytest
from box_texts import check_round_trip
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.answers.box_formats import FORMATS, WRITTEN
from lab.answers.regions import read, write
from lab.errors import ConfigError
from lab.records import Region

VECTORS = Path(__file__).parents[2] / "shared" / "vectors" / "shown_box_strings.json"
CASES = json.loads(VECTORS.read_text())["cases"] if VECTORS.exists() else []
SIZE = (1000, 1000)
LABELS = ("nutrition-table", 'a "quoted" one', "two words (2)", "día")


def boxes_of(regions):
    return [list(region[1:]) for region in regions]


@pytest.mark.skipif(not CASES, reason="the golden vectors are not here")
@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_golden_strings(case):
    name = case["format"].removesuffix("_vl")
    resized = tuple(case["resized_wh"]) if case.get("resized_wh") else None
    strict, repaired = (read(case["text"], name, size=tuple(case["original_wh"]), resized=resized, repair=repair) for repair in (False, True))
    assert strict.status == repaired.status == case["status"]
    assert [region.label for region in strict.regions] == case["labels"]
    assert boxes_of(strict.regions) == [pytest.approx(box, abs=1e-6) for box in case["boxes"]]
    assert boxes_of(repaired.regions) == [pytest.approx(box, abs=1e-6) for box in case.get("repaired", [])]
    assert [[point.x0, point.y0] for point in strict.points] == case.get("points", [])


@pytest.mark.parametrize(
    ("name", "text", "status", "expected"),
    [
        ("qwen2", "table(1,2),(3,4)(5,6),(7,8)", "ok", [("table", 1, 2, 3, 4), ("table", 5, 6, 7, 8)]),
        ("qwen2", "a(1,2),(3,4), b(5,6),(7,8)", "ok", [("a", 1, 2, 3, 4), ("b", 5, 6, 7, 8)]),
        ("qwen2", write([Region("kid's (2)", 1, 2, 3, 4)], "qwen2", size=SIZE) + "<|im_end|>", "ok", [("kid's (2)", 1, 2, 3, 4)]),
        ("qwen2", "None.<|im_end|>", "empty", []),
        ("qwen2", "There is a table.", "failed", []),
        ("qwen2", "", "failed", []),
        ("qwen2", "<|object_ref_start|>a<|object_ref_end|><|box_start|>(1,2),(3,4)<|box_end|><|object_ref_start|>b", "partial", [("a", 1, 2, 3, 4)]),
        ("qwen2_5", "[{'bbox_2d': [1, 2, 3, 4], 'label': 'a'}]", "ok", [("a", 1, 2, 3, 4)]),
        ("qwen2_5", '<think>[{"bbox_2d":[9,9,9,9]}] no</think>[{"bbox_2d":[1,2,3,4],"label":"a [x] {y}"}]', "ok", [("a [x] {y}", 1, 2, 3, 4)]),
        ("qwen2_5", '<think>[{"bbox_2d":[1,2,3,4]}]', "failed", []),
        ("qwen2_5", '[{"bbox_2d": [1, 2, 3]}, {"bbox_2d": [1, 2, 3, 4]}]', "partial", [("", 1, 2, 3, 4)]),
        ("qwen2_5", '[{"point_2d": [1, 2], "label": "a"}]', "failed", []),
        ("qwen2_5", '{"objects": [{"bbox_2d": [1, 2, 3, 4], "label": "a"}]}', "ok", [("a", 1, 2, 3, 4)]),
        ("qwen2_5", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"},', "partial", [("a", 1, 2, 3, 4)]),
        ("qwen2_5", '[{"bbox_2d": [1, 2, 1e999, NaN]}, {"bbox_2d": [1, 2, 3, true]}]', "failed", []),
        ("qwen2_5", '[{"bbox_2d": [1, 2, 3, ' + "9" * 5000 + "]}]", "failed", []),
        ("qwen3", "No table here: []", "empty", []),
        ("qwen3", "There are no tables.", "failed", []),
        ("json", '[ [ " table ", 102, 40, 880, 960 ], [ "x", 1', "partial", [("table", 102, 40, 880, 960)]),
        ("paligemma", "<loc010><loc0001><loc0002><loc0003> t", "failed", []),
        ("florence2", "</s><s>car<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8>", "ok", [("car", 1, 2, 3, 4), ("car", 5, 6, 7, 8)]),
        ("kosmos2", "<phrase>a</phrase><object><patch_index_0044><patch_index_0046></object>", "ok", [("a", 375, 31.25, 468.75, 62.5)]),
        ("kosmos2", "<phrase>a</phrase><object><patch_index_0044></object>", "failed", []),
    ],
)  # fmt: skip
def test_what_models_write(name, text, status, expected):
    reading = read(text, name, size=SIZE, resized=SIZE)
    assert (reading.status, list(reading.regions)) == (status, [Region(*one) for one in expected])
    alone = [read(text[slice(*span)], name, size=SIZE, resized=SIZE).regions[0] for span in reading.spans]
    assert boxes_of(alone) == boxes_of(reading.regions)


def test_a_box_that_cannot_be_is_kept_wrong_unless_it_is_repaired():
    text = "a(700,200),(500,1100)"
    (strict,), (repaired,) = (read(text, "qwen2", size=SIZE, repair=repair).regions for repair in (False, True))
    assert strict == Region("a", 700, 200, 500, 1100) and not strict.valid(SIZE)
    assert repaired == Region("a", 500, 200, 700, 1000) and repaired.valid(SIZE)


def test_boxes_that_repeat_without_end_are_all_kept_and_the_cut_is_told():
    one = '{"bbox_2d": [1, 2, 3, 4], "label": "a"}'
    reading = read("[" + ", ".join([one] * 60 + ['{"bbox_2d": [1, 2']), "qwen3", size=SIZE)
    assert reading.status == "partial" and reading.regions == (Region("a", 1, 2, 3, 4),) * 60


def test_a_format_is_asked_for_as_it_can_be():
    with pytest.raises(ConfigError, match=r"boxes=qwen25: no such format; legal: qwen2, .*qwen2_5"):
        read("", "qwen25", size=SIZE)
    with pytest.raises(ConfigError, match=r"boxes=qwen2_5: .*pixels of the resized picture. Say resized="):
        read("[]", "qwen2_5", size=SIZE)
    with pytest.raises(ConfigError, match=r"boxes=kosmos2: such boxes are only read. Write qwen2, "):
        write([], "kosmos2", size=SIZE)


@pytest.mark.parametrize("name", FORMATS)
def test_no_text_takes_long_to_read(name):
    pieces = ("{", '{"', "[", '["', "(", "(1,", "<", "<loc0001>", "<loc_1>", "<|object_ref_start|>", "<object>", "<think>", "{'", "a", "<click>")
    start = time.process_time()
    for piece in pieces:
        read(piece * (20_000 // len(piece)), name, size=SIZE, resized=SIZE)
    assert time.process_time() - start < 5


@st.composite
def pictures(draw):
    """A picture, as it is and as it is shown to the model, and boxes in it."""
    sides = st.integers(16, 4200)
    size, resized = (draw(sides), draw(sides)), (28 * draw(st.integers(1, 60)), 28 * draw(st.integers(1, 60)))
    regions = []
    for label in draw(st.lists(st.sampled_from(LABELS), max_size=4)):
        (x0, x1), (y0, y1) = (sorted(draw(st.tuples(st.floats(0, side), st.floats(0, side)))) for side in size)
        regions.append(Region(label, x0, y0, x1, y1))
    return size, resized, tuple(regions)


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=40, deadline=None)
@given(picture=pictures())
def test_what_is_written_is_read_back_to_within_a_bin(name, picture):
    check_round_trip(name, *picture)


@pytest.mark.bar
@pytest.mark.parametrize("name", WRITTEN)
def test_ten_thousand_boxes_are_read_back(name):
    """Each in a picture of its own, of any proportions, shown at any size."""
    draw = random.Random(name)
    for _ in range(10_000):
        size, resized = ((draw.randint(16, 4200), draw.randint(16, 4200)) for _ in range(2))
        (x0, x1), (y0, y1) = (sorted((draw.uniform(0, side), draw.uniform(0, side))) for side in size)
        check_round_trip(name, size, resized, (Region(draw.choice(LABELS), x0, y0, x1, y1),))
