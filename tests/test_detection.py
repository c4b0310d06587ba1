"""Average precision against the golden vectors and against two other libraries, and the cases that other code gets wrong."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.errors import LabError
from lab.statistics import detection, functional
from lab.statistics.detection import average_precision, iou, match

VECTORS = Path(__file__).parents[2] / "shared" / "vectors"
EXACT = 1e-9
SQUARE, BESIDE = (10.0, 10.0, 50.0, 50.0), (60.0, 60.0, 90.0, 90.0)


def vectors(name):
    path = VECTORS / f"shown_detection_{name}.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    return json.loads(path.read_text())


def repaired(box, width, height):
    """Corners sorted, then clamped."""
    x0, y0, x1, y1 = box
    x0, x1, y0, y1 = min(x0, x1), max(x0, x1), min(y0, y1), max(y0, y1)
    return [max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)]


def twelve(strict=False, reverse=False):
    """The vectors' pictures: references, predictions, scores, sizes."""
    rows = []
    for image in vectors("aggregate")["images"]:
        size = image["width"], image["height"]
        said = image["pred"] or []
        rows.append((image["gt"], [box if strict else repaired(box, *size) for box, _ in said], [score for _, score in said], size))
    return [list(column) for column in zip(*rows[:: -1 if reverse else 1], strict=True)]


def drawn(seed, pictures=30, classes=2, most=5, side=400):
    """Random boxes near their references, some missed, some invented, each with its own score."""
    generator, out = np.random.default_rng(seed), ([], [], [], [], [])
    for _ in range(pictures):
        corner = generator.uniform(0, side / 2, (generator.integers(0, most), 2))
        right = np.concatenate([corner, corner + generator.uniform(8, side / 2, corner.shape)], axis=1)
        said = right[generator.random(len(right)) < 0.8]
        said = np.concatenate([said, right[: generator.integers(0, 2)]]) + generator.normal(0, 6, (1, 4))
        said = np.stack([said[:, :2], np.maximum(said[:, 2:], said[:, :2] + 1)], axis=1).reshape(-1, 4)
        columns = right, said, generator.random(len(said)), generator.integers(0, classes, len(right)), generator.integers(0, classes, len(said))
        for column, value in zip(out, columns, strict=True):
            column.append(value)
    return out


class Labelled(tuple):
    """A box with a label, as `lab.records.Region` has it."""

    label = property(lambda self: self[0])
    x0, y0, x1, y1 = (property(lambda self, place=place: self[place]) for place in range(1, 5))


def labelled(boxes, names):
    return [[Labelled((str(name), *map(float, box))) for box, name in zip(*pair, strict=True)] for pair in zip(boxes, names, strict=True)]


def coco(references, predictions, scores, names_right, names_said, most=(1, 10, 100)):
    """What faster-coco-eval says of the same boxes, ids from 1."""
    from faster_coco_eval import COCO, COCOeval_faster

    def entries(boxes, names):
        rows = [(i, box, name) for i, (one, several) in enumerate(zip(boxes, names, strict=True)) for box, name in zip(one, several, strict=True)]
        return [
            {"id": place, "image_id": i + 1, "category_id": int(name) + 1, "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
             "area": float((box[2] - box[0]) * (box[3] - box[1])), "iscrowd": 0}
            for place, (i, box, name) in enumerate(rows, start=1)
        ]  # fmt: skip

    images = [{"id": i + 1, "width": 10_000, "height": 10_000} for i in range(len(references))]
    kinds = [{"id": i + 1, "name": str(i)} for i in range(1 + int(max([0, *(n for several in (*names_right, *names_said) for n in several)])))]
    truth = COCO({"images": images, "annotations": entries(references, names_right), "categories": kinds})
    said = [entry | {"score": float(score)} for entry, score in zip(entries(predictions, names_said), np.concatenate(scores), strict=True)]
    run = COCOeval_faster(truth, truth.loadRes(said), "bbox")
    run.params.maxDets = list(most)
    run.evaluate(), run.accumulate(), run.summarize()
    return dict(zip(("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large"), run.stats[:6], strict=True))


def test_iou_of_the_vectors():
    for case in vectors("images")["cases"]:
        boxes = [box or [0, 0, 0, 0] for box in case["boxes"]]
        expected = np.array(case["iou"], dtype=float).reshape(len(boxes), len(case["gt"]))
        assert iou(boxes, case["gt"]) == pytest.approx(expected, abs=EXACT), case["id"]
        size = case["width"], case["height"]
        assert [box is not None for box in case["boxes"]] == (
            detection.valid(detection.boxes_of(case["pred_raw"] or []), size).tolist() if case["policy"] == "strict" else [True] * len(boxes)
        )


def test_iou_is_symmetric_and_survives_boxes_without_area():
    assert iou(SQUARE, SQUARE) == 1.0 and iou(SQUARE, BESIDE) == 0.0
    assert iou((5, 5, 5, 5), (5, 5, 5, 5)) == 0.0
    assert iou((600, 800, 210, 310), (200, 300, 600, 800)) == 0.0
    assert iou([SQUARE, BESIDE], [SQUARE]).shape == (2, 1)
    assert iou([], [SQUARE]).shape == (0, 1)
    assert functional.iou is iou and functional.average_precision is average_precision


@pytest.mark.parametrize("reverse", [False, True])
def test_average_precision_of_the_vectors(reverse):
    references, predictions, scores, _ = twelve(reverse=reverse)
    golden = vectors("aggregate")["repair"]
    values = average_precision(references, predictions, scores)
    assert [values[name] for name in ("AP", "AP50", "AP75", "AP_large")] == pytest.approx(
        [golden["coco_scores"][name] for name in ("map", "map_50", "map_75", "map_large")], abs=EXACT
    )
    assert np.isnan(values["AP_small"]) and np.isnan(values["AP_medium"])  # COCO says -1
    constant = golden["coco_constant_1_images_reversed" if reverse else "coco_constant_1"]
    values = average_precision(references, predictions, [[1.0] * len(one) for one in predictions])
    assert [values[name] for name in ("AP", "AP50", "AP75")] == pytest.approx([constant[n] for n in ("map", "map_50", "map_75")], abs=EXACT)
    tied = golden["ap_constant_1_ties_in_one_step"]
    values = average_precision(references, predictions)
    assert [values[name] for name in ("AP", "AP50", "AP75")] == pytest.approx([tied[n] for n in ("map", "map_50", "map_75")], abs=EXACT)


def test_strict_boxes_are_wrong():
    """The figures of the page beside the vectors, printed to four digits."""
    references, predictions, scores, sizes = twelve(strict=True)
    values = average_precision(references, predictions, scores, sizes)
    assert [values[name] for name in ("AP", "AP50", "AP75")] == pytest.approx([0.3936, 0.5632, 0.4440], abs=5e-5)
    values = average_precision(references, predictions, None, sizes)
    assert [values[name] for name in ("AP", "AP50", "AP75")] == pytest.approx([0.1927, 0.3119, 0.2020], abs=5e-5)


@pytest.mark.parametrize("seed", range(6))
def test_other_libraries_agree(seed, capsys):
    import torch
    from torchmetrics.detection import MeanAveragePrecision

    references, predictions, scores, right, said = drawn(seed, classes=1 + seed % 3)
    values = average_precision(labelled(references, right), labelled(predictions, said), scores)
    expected = {name: np.nan if value == -1 else value for name, value in coco(references, predictions, scores, right, said).items()}
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-9, nan_ok=True)
    metric = MeanAveragePrecision(backend="faster_coco_eval", class_metrics=True)
    metric.update(
        [{"boxes": torch.tensor(boxes), "scores": torch.tensor(score), "labels": torch.tensor(names)}
         for boxes, score, names in zip(predictions, scores, said, strict=True)],
        [{"boxes": torch.tensor(boxes), "labels": torch.tensor(names)} for boxes, names in zip(references, right, strict=True)],
    )  # fmt: skip
    torch_values = metric.compute()
    assert [values[name] for name in ("AP", "AP50", "AP75")] == pytest.approx([float(torch_values[n]) for n in ("map", "map_50", "map_75")], abs=1e-6)


def test_one_perfect_box_is_worth_one():
    """No class and no annotation is known by a number, so that none can be taken for "unmatched"."""
    assert average_precision([[SQUARE]], [[SQUARE]], [[0.9]])["AP"] == pytest.approx(1.0, abs=1e-12)


def test_a_class_of_false_positives_only_is_told():
    """It leaves the mean over classes, as in every COCO code; the class-free number and the list of invented classes have it."""
    references = labelled([[SQUARE, BESIDE]], [["apple", "apple"]])
    predictions = labelled([[SQUARE, BESIDE, SQUARE, BESIDE]], [["apple", "apple", "apples", "apples"]])
    matches = match(references, predictions, [[0.5, 0.6, 0.9, 0.8]])
    values = detection.values_of(matches)
    assert values["AP"] == pytest.approx(1.0)
    assert matches.invented == {"apples": 2}
    assert values["AP50_class_free"] == pytest.approx(1.0)  # as boxes they are right
    strangers = labelled([[SQUARE, (0, 0, 5, 5), (0, 5, 5, 9)]], [["apple", "pear", "pear"]])
    values = average_precision(labelled([[SQUARE]], [["apple"]]), strangers, [[0.5, 0.9, 0.8]])
    assert values["AP"] == pytest.approx(1.0) and values["AP_class_free"] == pytest.approx(1 / 3, abs=0.01)


def test_more_than_a_hundred_boxes_are_cut_as_elsewhere_and_counted():
    generator = np.random.default_rng(0)
    predictions = [np.concatenate([np.tile([0.0, 0.0, 5.0, 5.0], (150, 1)), [SQUARE]])]
    scores = [np.append(generator.uniform(0.5, 1, 150), 0.4)]
    matches = match([[SQUARE]], predictions, scores)
    assert matches.crowded == 1 and detection.values_of(matches)["AP"] == 0.0
    assert coco([[SQUARE]], predictions, scores, [[0]], [[0] * 151])["AP"] == 0.0


def test_nothing_to_find_and_nothing_found():
    empty = average_precision([[]], [[SQUARE]], [[0.5]])
    assert all(np.isnan(value) for value in empty.values())  # no reference: undefined, never a number
    assert average_precision([[SQUARE]], [[]], [[]])["AP"] == 0.0
    assert average_precision([[SQUARE], []], [[SQUARE], [BESIDE]], [[0.5], [0.9]])["AP"] == pytest.approx(0.5, abs=0.01)


def test_a_number_of_something_else_is_refused():
    with pytest.raises(LabError, match="same pictures"):
        average_precision([[SQUARE]], [[SQUARE], []], [[0.5], []])
    with pytest.raises(LabError, match="a finite number of each"):
        average_precision([[SQUARE]], [[SQUARE]], [[float("nan")]])
    with pytest.raises(LabError, match="x0, y0, x1, y1"):
        average_precision([[SQUARE[:3]]], [[SQUARE]], [[0.5]])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_weights_are_repetitions(seed):
    """A picture that counts twice is a picture that is there twice."""
    references, predictions, scores, right, said = drawn(seed, pictures=12)
    times = np.random.default_rng(seed).integers(0, 4, 12)
    columns = labelled(references, right), labelled(predictions, said), scores
    repeated = [[one for one, count in zip(column, times, strict=True) for _ in range(count)] for column in columns]
    matches, again = match(*columns), match(*repeated)
    for options in ({}, {"size": "medium"}, {"class_free": True}):
        weighted = matches.average_precision(times[None].astype(float), **options)
        assert weighted == pytest.approx(again.average_precision(**options), abs=1e-9, nan_ok=True)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000))
def test_no_order_decides_without_scores(seed):
    references, predictions, _, right, said = drawn(seed, pictures=10)
    columns = labelled(references, right), labelled(predictions, said)
    turned = [column[::-1] for column in columns]
    assert average_precision(*columns) == pytest.approx(average_precision(*turned), abs=1e-12, nan_ok=True)


def test_two_thousand_resamples_take_seconds():
    references, predictions, scores, right, said = drawn(0, pictures=1000, classes=1)
    start = time.process_time()
    matches = match(labelled(references, right), labelled(predictions, said), scores)
    weights = np.random.default_rng(0).multinomial(1000, np.full(1000, 1e-3), 2000).astype(float)
    values = matches.average_precision(weights)
    assert np.std(values) > 0 and time.process_time() - start < 15
