"""What stage 6 teaches of boxes: each target is the box that the answer writes, and a head that tells columns apart."""

import re

import pytest
import torch

from tools.pretraining.architecture import make_model
from tools.pretraining.boxes_stage import (
    COLUMN_BLOCK,
    COLUMN_HEAD,
    boxes_loss,
    draw_boxes,
    numbers_of,
    see_columns,
)
from tools.pretraining.concept_stage import attention_logits
from tools.pretraining.pictures import draw_picture
from tools.pretraining.recipe import BoxRound, Recipe
from tools.pretraining.sequence_packing import Branch, hidden_states, lay_out, make_prefix
from tools.pretraining.short_answers_stage import ShortProbes, read_lessons
from tools.pretraining.training import held_rate

SMALL, ROUND = Recipe(boxes_pictures=3), BoxRound(1, 0, 2, 0.3)


def test_every_number_is_taught_where_it_is_written(model, processor):
    for step in range(6):
        read = read_lessons(model, processor, draw_boxes(SMALL, ROUND, step))
        numbers, layout = numbers_of(processor, read), read.layout
        digit = re.compile(r"\d+")
        assert len(numbers.starts) == len(layout.boxes) == len(layout.boxed_by)
        for (row, position), box in zip(numbers.starts.tolist(), layout.boxes.tolist(), strict=True):
            text = processor.tokenizer.decode(layout.ids[row, position : position + 24])
            assert text.startswith("<|box_start|>(")
            assert [int(number) for number in digit.findall(text.split("<|box_end|>")[0])] == [round(1000 * side) for side in box]
        for (row, position), box, value in zip(numbers.at.tolist(), numbers.box.tolist(), numbers.values.tolist(), strict=True):
            assert processor.tokenizer.decode(layout.labels[row, position]) in digit.findall("0 1 2 3 4 5 6 7 8 9")
            assert value in layout.boxes[box].tolist() and numbers.starts[box, 0] == row and numbers.starts[box, 1] < position


def test_a_box_is_pointed_at_in_its_own_figure(model, processor):
    pictures, rows = draw_boxes(SMALL, ROUND, 1)
    columns, lines = pictures[0].size[0] / 16, pictures[0].size[1] / 16
    boxes = [box for row in rows for branch in row for box in branch.boxes]
    assert boxes
    for cells, (x0, y0, x1, y1) in boxes:
        for cell in torch.tensor(cells).nonzero().flatten().tolist():
            x, y = cell % columns, cell // columns
            assert x < x1 * columns and x + 1 > x0 * columns and y < y1 * lines and y + 1 > y0 * lines


@pytest.mark.parametrize("size", [(64, 64), (128, 128)])
def test_one_head_tells_columns_apart_and_no_rows(processor, size):
    model = make_model(processor, 3).eval()
    see_columns(model, processor)
    prefix, layout = make_prefix(model, processor, 1, size), lay_out(processor, [[Branch(" a", None)]], 1)
    places = prefix.image_at.nonzero().flatten()
    features = torch.randn(1, len(places), 128, generator=torch.Generator().manual_seed(0)) * 0.1
    with torch.no_grad():
        hidden = hidden_states(model, prefix, layout, features)
        at = torch.stack([torch.zeros_like(places), places - len(prefix.ids)], dim=1)
        logits = attention_logits(model, prefix, layout, hidden, at, COLUMN_BLOCK, (COLUMN_HEAD,))[:, 0]
    told = (logits[:, places[0] - 1] - logits[:, 0]).reshape(size[1] // 16, -1)
    assert (told.diff(dim=1) > 0.5).all() and (told - told[0]).abs().max() < 0.05


def test_a_step_teaches_all_that_a_box_takes(processor):
    model, probes = make_model(processor, 0), ShortProbes()
    loss = boxes_loss(model, processor, probes, draw_boxes(SMALL, ROUND, 0), SMALL)
    loss.backward()
    assert loss.isfinite() and all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_the_rate_is_held_and_then_falls():
    rates = [held_rate(step, 400, 1.0) for step in range(400)]
    assert rates[0] == 1 / 40 and set(rates[39:201]) == {1.0} and rates[200:] == sorted(rates[200:], reverse=True) and 0 < rates[-1] < 0.02


def test_pictures_of_one_step_have_one_size_and_are_drawn_again_alike():
    (pictures, rows), (again, _) = draw_boxes(SMALL, ROUND, 5), draw_boxes(SMALL, ROUND, 5)
    assert pictures == again and len({picture.size for picture in pictures}) == 1
    assert draw_picture(pictures[0]).size == pictures[0].size and {len(row) for row in rows} == {7}
