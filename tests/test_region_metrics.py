"""Metrics of boxes against the golden vectors; intervals and paired tests of a ranking; the cases that other code gets wrong."""

import math

import numpy as np
import pytest
from box_tables import drawn, prediction, table
from test_detection import vectors

from lab.statistics.comparing import compare
from lab.statistics.intervals import interval, intervals
from lab.statistics.metrics import KINDS, summarise
from lab.statistics.seeds import compare_seeds

METRICS = KINDS["regions"].metrics
SQUARE, BESIDE = (10, 10, 50, 50), (60, 60, 90, 90)


def of_vectors(policy):
    from test_detection import repaired

    rows = []
    for image in vectors("aggregate")["images"]:
        size = image["width"], image["height"]
        said = [repaired(box, *size) if policy == "repair" else box for box, _ in image["pred"] or []]
        status = "failed" if image["pred"] is None else None
        rows.append(prediction(image["id"], image["gt"], said, [score for _, score in image["pred"] or []], size=size, status=status))
    return table(rows)


def test_numbers_of_the_vectors():
    golden, values = vectors("aggregate")["repair"], summarise(of_vectors("repair"))
    expected = dict(zip(("precision", "recall", "f1"), golden["prf_hungarian@0.5"]["prf"], strict=True))
    expected |= {"mean_iou": golden["mean_iou_over_all_gt"], "failed": golden["parse_failures"] / 12}
    expected |= {ours: golden["coco_scores"][theirs] for ours, theirs in (("ap", "map"), ("ap50", "map_50"), ("ap75", "map_75"))}
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    strict = summarise(of_vectors("strict"))  # the page beside the vectors prints four digits
    assert [strict[name] for name in ("mean_iou", "f1", "ap", "ap50", "ap75")] == pytest.approx([0.5793, 0.6111, 0.3936, 0.5632, 0.4440], abs=5e-5)


def test_each_picture_of_the_vectors():
    for case in vectors("images")["cases"]:
        size = case["width"], case["height"]
        said = case["pred_raw"] if case["policy"] == "strict" else [box for box in case["boxes"] if box]
        values = summarise(table([prediction(case["id"], case["gt"], said or [], case["scores"], size=size)]))
        expected = case["at"]["0.5"]["prf_hungarian"]
        if case["gt"] and said:  # without either a ratio is undefined here, 0 there
            assert [values[name] for name in ("precision", "recall", "f1")] == pytest.approx(expected, abs=1e-9), case["id"]
            assert values["mean_iou"] == pytest.approx(case["mean_iou_over_gt"], abs=1e-9), case["id"]


def test_an_honest_none_is_right_and_a_box_too_many_is_not():
    values = summarise(table([prediction("a"), prediction("b", said=[SQUARE]), prediction("c", [SQUARE], [SQUARE])]))
    assert values["picture_f1"] == pytest.approx(2 / 3) and values["precision"] == 0.5 and values["recall"] == 1.0
    assert values["empty"] == pytest.approx(1 / 3) and values["failed"] == 0.0


def test_nothing_there_is_no_number():
    values = summarise(table([prediction("a"), prediction("b")]))
    assert values["picture_f1"] == 1.0
    assert all(math.isnan(values[name]) for name in ("ap", "ap50", "mean_iou", "precision", "recall", "recall_small"))


def test_a_label_almost_right_is_a_false_positive():
    values = summarise(table([prediction("a", [("apple", *SQUARE)], [("apples", *SQUARE)], [0.9])]))
    assert values["f1"] == 0.0 and values["ap"] == 0.0 and values["ap50_class_free"] == pytest.approx(1.0)


def test_repeats_are_counted_by_picture():
    values = summarise(table([prediction("a", [SQUARE], [SQUARE] * 60, np.linspace(1, 0.4, 60)), prediction("b", [BESIDE], [BESIDE])]))
    assert values["duplicates"] == 59 / 2 and values["precision"] == 2 / 61 and values["recall"] == 1.0 and values["crowded"] == 0.0
    assert summarise(table([prediction("a", [SQUARE], [SQUARE] * 150)]))["crowded"] == 1.0


def test_invalid_boxes_hit_nothing():
    swapped, beyond = (50, 50, 10, 10), (10, 10, 50, 481)
    values = summarise(table([prediction("a", [SQUARE, (10, 10, 50, 480)], [swapped, beyond, SQUARE], [0.9, 0.8, 0.1])]))
    assert values["invalid"] == pytest.approx(2 / 3) and values["recall"] == 0.5


def test_clicks_have_hits_and_a_distance_and_no_average_precision():
    rows = [prediction("a", [SQUARE], [(30, 30, 30, 30)], boxes="click"), prediction("b", [BESIDE], [(30, 30, 30, 30)], boxes="click")]
    values = summarise(table(rows))
    assert values["picture_f1"] == values["recall"] == 0.5
    assert values["distance"] == pytest.approx(math.hypot(45, 45) / 800 / 2)
    assert not {"ap", "ap50", "ap75", "mean_iou", "invalid"} & values.keys()
    assert "ap50" not in intervals([table(rows)], ("picture_f1", "ap50"))[0]


def test_without_scores_no_order_decides_and_it_is_said():
    rows = [prediction("a", [SQUARE], [SQUARE, BESIDE], ()), prediction("b", [SQUARE], [BESIDE], ())]
    one, other = table(rows), table(rows[::-1])
    assert METRICS["ap50"].note(one) == "no scores" and METRICS["ap50"].of(one) == METRICS["ap50"].of(other)
    assert "ece" not in summarise(one)
    assert METRICS["ap50"].note(table([prediction("a", [SQUARE], [SQUARE])])) == ""


@pytest.fixture(scope="module")
def arms():
    return [table(drawn(120, skill, seed)) for seed, skill in enumerate((0.35, 0.9))]


def test_an_interval_of_a_ranking_is_that_of_resamples_ranked_anew(arms):
    """Weights of pictures matched once give what the resampled table itself gives."""
    from lab.statistics.resampling import clusters, drawn_rows, quantiles

    worse, metric = arms[0], METRICS["ap50"]
    drawn_anew = [metric.of(worse.take(rows)) for rows, _ in zip(drawn_rows(clusters(worse), 2000, 0), range(15), strict=False)]
    from lab.statistics.reweighting import weighted_draws

    weighted = weighted_draws([metric.weighted(worse)], clusters(worse), 2000, 0)[:, 0]
    assert weighted[:15] == pytest.approx(drawn_anew, abs=1e-9)
    low, high = quantiles(weighted, 0.95)
    found = interval(worse, "ap50")
    assert (found.low, found.high) == (low, high) and found.low < found.estimate < found.high and found.num_clusters == 60


@pytest.mark.parametrize("name", ["picture_f1", "f1", "mean_iou", "ap50", "ap"])
def test_paired_tests_tell_a_better_arm(arms, name):
    comparison = compare(arms[1], arms[0], name)
    assert comparison.difference == pytest.approx(METRICS[name].of(arms[1]) - METRICS[name].of(arms[0]))
    assert 0 < comparison.low < comparison.difference < comparison.high and comparison.p_value < 0.01
    back = compare(arms[0], arms[1], name)
    assert (back.low, back.high) == pytest.approx((-comparison.high, -comparison.low)) and back.p_value == pytest.approx(comparison.p_value)


def test_an_arm_does_not_differ_from_itself(arms):
    comparison = compare(arms[0], arms[0], "ap50")
    assert comparison.difference == 0.0 and comparison.p_value == 1.0 and not comparison.has_interval


def test_seeds_are_compared_in_a_ranking(arms):
    first, second = ([table(drawn(60, skill, seed)) for seed in range(3)] for skill in (0.9, 0.35))
    comparison = compare_seeds(first, second, "ap50")
    assert comparison.num_seeds == 3 and 0 < comparison.low < comparison.difference


def test_swaps_are_false_alarms_as_often_as_they_say():
    """Two arms of one skill: p-values are about uniform."""
    p_values = [compare(table(drawn(30, 0.6, seed)), table(drawn(30, 0.6, 100 + seed)), "ap50").p_value for seed in range(12)]
    assert np.mean(np.array(p_values) < 0.3) < 0.75 and min(p_values) > 0.0005


def test_scores_are_calibrated_box_by_box():
    rows = [prediction(f"{i}", [SQUARE], [SQUARE if i < 8 else BESIDE], [0.8]) for i in range(10)]
    values = summarise(table(rows))
    assert values["ece"] == pytest.approx(0.0, abs=1e-12) and values["auroc_confidence"] == 0.5
    assert METRICS["ece"].value(METRICS["ece"].rows(table(rows)).sum(axis=0)) == pytest.approx(values["ece"], abs=1e-12)


def test_definitions_name_every_number_that_is_shown():
    said = " ".join(metric.says for metric in METRICS.values())
    assert all(METRICS[name].header in said for name in KINDS["regions"].shown)
