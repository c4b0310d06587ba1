"""What the last two stages of the tiny base's training teach: true answers about own pictures, nothing of easy-VQA's."""

import hashlib
import re

import numpy as np
import pytest
import torch
from PIL import Image

from lab.data.scenes import Kind
from tools.pretraining import short_questions
from tools.pretraining.curriculum import TURN
from tools.pretraining.figures_stage import MANY, SMALL, picture_cells
from tools.pretraining.lean_tower import features_of, to_patches
from tools.pretraining.pictures import COLOURS, SHAPES, SIZES, compose_picture, coverage, draw_picture, shown
from tools.pretraining.recipe import Recipe, Round
from tools.pretraining.sequence_packing import IMAGE, hidden_states, lay_out, make_prefix
from tools.pretraining.short_answers_stage import digit_places, draw_short, grid_of
from tools.pretraining.short_questions import NOUNS, ask, ask_where, boxes_text, fill, fits

FORMS = (
    short_questions.COLOUR + short_questions.SHAPE + short_questions.ONLY_SHAPE + short_questions.PRESENT
    + short_questions.ABSENT + short_questions.WHERE + short_questions.EVERY
)  # fmt: skip


def pictures(number, size=(64, 64), seed=0):
    rng = np.random.default_rng(seed)
    return [compose_picture(rng, size) for _ in range(number)]


def test_nothing_of_easy_vqa_is_in_the_pretraining():
    easy_vqa = pytest.importorskip("easy_vqa")
    theirs = {text.strip().lower() for text in easy_vqa.get_train_questions()[0] + easy_vqa.get_test_questions()[0]}
    names = [f"{colour} {noun}".strip() for colour in ("", *COLOURS) for noun in (*NOUNS, *SHAPES)]
    ours = {fill(form, name).strip().lower() for form in FORMS for name in names}
    assert len(theirs) == 107 and len(ours) > 2000
    assert not ours & theirs
    paths = [*easy_vqa.get_train_image_paths().values(), *easy_vqa.get_test_image_paths().values()]
    seen = {pixels_hash(Image.open(path)) for path in paths}
    assert len(seen) > 4900
    assert not {pixels_hash(draw_picture(picture)) for picture in pictures(300)} & seen


def pixels_hash(image):
    return hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()


def test_answers_are_true():
    rng, whether = np.random.default_rng(1), []
    for picture in pictures(400):
        question, answer, named = ask(rng, picture)
        _, colour, shape = named or ("", None, None)
        held = [figure for figure in picture.figures if fits(figure, colour, shape)]
        if answer in ("yes", "no"):
            denied = re.search(r"\b(no|not|free|missing|absent)\b", question.split("\nAnswer")[0].split(" Answer")[0])
            assert (answer == "yes") == (bool(held) != bool(denied)), question
            whether.append(answer == "yes")
        elif "<|box_start|>" in answer or answer == short_questions.NONE:
            ordered = sorted(held, key=lambda figure: (figure.box[1], figure.box[0]))
            assert answer == boxes_text(ordered, picture.size), question
        else:
            assert len(held) == 1 and answer in (held[0].colour, held[0].shape), question
    assert 0.4 < np.mean(whether) < 0.6


@pytest.mark.parametrize("size", [(64, 64), SMALL, *SIZES])
def test_boxes_are_where_the_pixels_are(size):
    for picture in pictures(12, size, seed=2):
        bare = [type(picture)(size, (255, 255, 255), (figure,), 0.0, 0) for figure in picture.figures]
        for alone, figure in zip(bare, picture.figures, strict=True):
            rows, columns = np.nonzero((np.asarray(draw_picture(alone)) != 255).any(-1))
            drawn = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            np.testing.assert_allclose(np.array(figure.thousandths(size)) * [*size, *size] / 1000, drawn, atol=1.1)
        boxes = np.array([figure.box for figure in picture.figures])
        assert boxes.min() >= -0.01 and (boxes[:, 2:] <= np.array(size) + 0.01).all()


def test_a_box_is_written_as_qwen2_vl_writes_it(processor):
    rng, box = np.random.default_rng(3), re.compile(
        r"<\|object_ref_start\|>([a-z ]+)<\|object_ref_end\|><\|box_start\|>\((\d+),(\d+)\),\((\d+),(\d+)\)<\|box_end\|>"
    )
    for picture in pictures(60, seed=4):
        asked = ask_where(rng, picture)
        if asked is None or asked[1] == short_questions.NONE:
            continue
        assert box.sub("", asked[1]) == ""
        for name, x0, y0, x1, y1 in box.findall(asked[1]):
            assert name in {figure.name for figure in picture.figures}
            assert 0 <= int(x0) < int(x1) <= 999 and 0 <= int(y0) < int(y1) <= 999
    labels = torch.tensor([processor.tokenizer.encode("(123,4),(56,789)")])
    assert digit_places(processor, labels)[0].tolist() == [0, 1, 2, 3, 0, 1, 0, 0, 0, 1, 2, 0, 1, 2, 3, 0]


def test_cells_say_what_they_show():
    for picture in pictures(40, seed=5):
        shares = coverage(picture, (4, 4))
        cells, targets = shown(shares), picture_cells([picture], (4, 4))
        best = shares.argmax(1).tolist()
        assert all(index in cells or best.count(best[index]) > 1 for index in range(len(picture.figures)))
        for cell, index in enumerate(cells.tolist()):
            if index < 0:
                assert targets.edges[cell].isnan().all() and shares[:, cell].max() < 0.5
                continue
            figure = picture.figures[index]
            assert (COLOURS[targets.colours[cell]], SHAPES[targets.shapes[cell]]) == (figure.colour, figure.shape)
            x, y = cell % 4 + 0.5, cell // 4 + 0.5
            np.testing.assert_allclose(targets.edges[cell] + torch.tensor([x, y, x, y]), np.array(figure.box) / 16, atol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (70, 58)])
def test_the_tower_in_a_batch_is_the_tower(model, processor, size):
    rng = np.random.default_rng(6)
    images = [draw_picture(compose_picture(rng, size, MANY)) for _ in range(3)]
    with torch.no_grad():
        patches, grid = to_patches(processor, images)
        inputs = processor.image_processor(images=images, return_tensors="pt")
        alone = model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
        torch.testing.assert_close(features_of(model, patches, grid), torch.stack(list(alone)), atol=1e-5, rtol=1e-4)
    assert grid == grid_of(compose_picture(rng, size)) == tuple((inputs["image_grid_thw"][0, 1:] // 2).tolist())


def test_a_question_is_exactly_a_single_turn_chat(model, processor):
    drawn, rows = draw_short(Recipe(short_pictures=2, short_branches=4, short_names=0, other_sizes=0), Round(1, 0, 0, 0, True), 0)
    images = [draw_picture(picture) for picture in drawn]
    prefix, layout = make_prefix(model, processor, 1), lay_out(processor, rows, 1)
    assert all(isinstance(kind, Kind) for kind in layout.kinds) and layout.held_by.shape[1:] == (1, 16)
    with torch.no_grad():
        packed = hidden_states(model, prefix, layout, features_of(model, *to_patches(processor, images)))[-1]
        for index, row in enumerate(rows):
            first = min(row, key=lambda b: len(processor.tokenizer.encode(f"{b.question}{b.answer}<|im_end|>")))
            content = [*IMAGE, {"type": "text", "text": first.question.removesuffix(TURN)}]
            chat = [{"role": "user", "content": content}, {"role": "assistant", "content": first.answer}]
            text = processor.apply_chat_template(chat, tokenize=False).removesuffix("\n")
            alone = model.model(**processor(text=[text], images=images[index], return_tensors="pt")).last_hidden_state[0]
            torch.testing.assert_close(packed[index, : len(alone)], alone, atol=2e-5, rtol=1e-4)
