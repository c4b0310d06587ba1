"""Boxes in the LightningModule's validation: torchmetrics that gather over ranks and say what the report says."""

import box_tables
import pytest
import torch

from lab.statistics.metrics import KINDS
from lab.training import devices
from lab.training.box_metrics import BoxMetric
from lab.training.objective import RegionsObjective
from lab.training.resuming import ahead

METRICS = KINDS["regions"].metrics
NAMES = ("picture_f1", "mean_iou", "ap50", "ap")


@pytest.mark.parametrize("name", NAMES)
def test_parts_on_two_ranks_are_the_report_s_number(name, monkeypatch):
    rows = box_tables.drawn(40, 0.6)
    ranks = [BoxMetric(name), BoxMetric(name)]
    for rank, metric in enumerate(ranks):
        monkeypatch.setattr(devices, "rank", lambda rank=rank: rank)
        for start in range(20 * rank, 20 * rank + 20, 10):
            metric.update(rows[start : start + 10])
    states = [metric.metric_state for metric in ranks]
    gathered = BoxMetric(name)
    gathered.boxes, gathered.pictures = ([torch.cat([*states[0][part], *states[1][part]])] for part in ("boxes", "pictures"))
    gathered._update_count = 1
    assert float(gathered.compute()) == pytest.approx(METRICS[name].of(box_tables.table(rows)), abs=1e-12)


def test_answers_without_scores_and_without_boxes():
    rows = [box_tables.prediction("a", [(10, 10, 50, 50)], [(10, 10, 50, 50)], ()), box_tables.prediction("b", [(10, 10, 50, 50)])]
    metric = BoxMetric("ap50")
    metric.update(rows)
    assert float(metric.compute()) == METRICS["ap50"].of(box_tables.table(rows))
    metric.reset()
    metric.update([box_tables.prediction("a")])
    assert torch.isnan(metric.compute())


def test_what_is_watched_is_better_when_larger_and_clicks_have_no_average_precision():
    boxes, clicks = RegionsObjective("qwen2_5"), RegionsObjective("click")
    assert (boxes.watched, boxes.better, clicks.watched) == ("mean_iou", "max", "recall")
    assert METRICS[boxes.watched].higher_is_better and not {"ap", "ap50", "mean_iou"} & set(clicks.located)
    assert ahead(0.5, 0.4, "max") and not ahead(0.5, 0.4, "min") and not ahead(0.4, 0.4, "max")
