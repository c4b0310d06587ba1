"""Parts of the tiny base's training do what their names say."""

import re

import numpy as np
import pytest
import torch

from lab.data.scenes import COLOURS, PALETTES, SHAPES, compose_pair, draw
from lab.data.sets.pairs import STREAM as PAIRS_STREAM
from lab.data.statements import HELD_BACK, TAUGHT, propose
from tools.pretraining import curriculum, sequence_packing
from tools.pretraining.architecture import make_model
from tools.pretraining.concept_stage import POINTERS, POINTING_BLOCK, indices, pointer_logits
from tools.pretraining.grounding_stage import draw_scenes, targets
from tools.pretraining.language_stage import draw_lessons, draw_names, pair_features
from tools.pretraining.recipe import STREAM, Recipe
from tools.pretraining.sequence_packing import MESSAGES, hidden_states, lay_out, make_prefix
from tools.pretraining.vocabulary import ANSWERS


def test_same_seed_same_start(processor, model):
    again, other = make_model(processor, 0), make_model(processor, 1)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert not torch.equal(model.lm_head.weight, other.lm_head.weight)


def test_answers_are_single_tokens_and_english_survives(processor):
    tokenizer = processor.tokenizer
    assert all(len(tokenizer.encode(word)) == 1 for word in ANSWERS)
    text = "There is a tower with exactly 3 boxes touching the wall; Zwölf Boxkämpfer."
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode("There is a blue tower with exactly three boxes touching the wall.")) == 13
    assert tokenizer.padding_side == "left"


def test_held_back_families_are_never_taught():
    recipe = Recipe(branches=40, language_pairs=4)
    texts = [
        branch.question for step in (0, 2001) for row in draw_lessons(recipe, step)[1] for branch in row
    ]
    banned = re.compile(r"\b([Bb]oth|[Nn]either|[Oo]nly|[Ss]ame|Exactly|than the (left|right))\b")
    assert not [text for text in texts if banned.search(text)]
    rng = np.random.default_rng(0)
    for family in HELD_BACK:
        assert banned.search(propose(rng, family, PALETTES["medium"]).text)
    assert set(curriculum.OPENING) | set(curriculum.LATER) == set(TAUGHT)
    assert STREAM != PAIRS_STREAM


def test_lessons_are_balanced():
    rng, recipe = np.random.default_rng(0), Recipe()
    pair = compose_pair(rng, PALETTES["medium"])
    answers = [curriculum.ask(rng, recipe, "medium", pair, curriculum.OPENING).answer for _ in range(600)]
    assert 0.4 < np.mean([answer in ("True", "Yes") for answer in answers]) < 0.6
    assert 0.15 < np.mean([answer in ("Yes", "No") for answer in answers]) < 0.35


def test_grounding_targets_say_what_stands_where():
    (scene,) = draw_scenes(Recipe(), 0, 1)
    colours, shapes = targets([scene])
    for cell, thing in enumerate(scene.cells()):
        expected = (COLOURS.index(thing.colour), SHAPES.index(thing.shape)) if thing else (len(COLOURS), len(SHAPES))
        assert (colours[cell].item(), shapes[cell].item()) == expected


@pytest.mark.parametrize("draw_step", [draw_names, draw_lessons])
def test_names_are_known_by_their_last_token(processor, draw_step):
    _, rows = draw_step(Recipe(), 3)
    layout = lay_out(processor, rows)
    nouns = (*SHAPES, "object")
    assert layout.held_by.shape == (len(layout.kinds), 2, 16)
    for (row, position), (_, shape) in zip(layout.named_at.tolist(), indices(layout.kinds).tolist(), strict=True):
        token = processor.tokenizer.decode([layout.ids[row, position]])
        assert token.strip().removesuffix("s") == nouns[shape]


def test_pointers_are_the_attention_of_block_2(model, processor, monkeypatch):
    pairs, rows = draw_names(Recipe(words_pairs=2, words_branches=3), 0)
    prefix, layout = make_prefix(model, processor), lay_out(processor, rows)
    eager = make_model(processor, 0).eval()
    eager.set_attn_implementation("eager")
    seen = []
    attention = eager.model.language_model.layers[POINTING_BLOCK - 1].self_attn
    handle = attention.register_forward_hook(lambda module, inputs, output: seen.append(output[1]))
    with torch.no_grad():
        features = pair_features(model, processor, pairs)
        with monkeypatch.context() as patch:  # eager attention adds its mask
            added = torch.zeros(1).masked_fill(~sequence_packing.visible(prefix, layout), -torch.inf)
            patch.setattr(sequence_packing, "visible", lambda *_: added)
            hidden = hidden_states(eager, prefix, layout, features)
        computed = pointer_logits(model, prefix, layout, hidden).softmax(-1)
    handle.remove()
    row, position = layout.named_at.T
    for side, head in enumerate(POINTERS):
        expected = seen[0][row, head, position + len(prefix.ids)]
        torch.testing.assert_close(computed[:, side], expected, atol=1e-5, rtol=1e-4)


def test_a_branch_is_exactly_a_single_turn_chat(model, processor):
    pairs, rows = draw_lessons(Recipe(language_pairs=2, branches=4), 0)
    prefix = make_prefix(model, processor)
    layout = lay_out(processor, rows)
    with torch.no_grad():
        packed = hidden_states(model, prefix, layout, pair_features(model, processor, pairs))[-1][:, len(prefix.ids) :]
        for index, row in enumerate(rows):
            start = 0
            by_length = sorted(row, key=lambda b: len(processor.tokenizer.encode(f"{b.question}{b.answer}<|im_end|>")))
            for branch, length in zip(by_length, layout.lengths, strict=True):
                user, _ = branch.question.split("<|im_end|>", 1)
                messages = [
                    {"role": "user", "content": [*MESSAGES[0]["content"], {"type": "text", "text": user}]},
                    {"role": "assistant", "content": [{"type": "text", "text": branch.answer}]},
                ]
                text = processor.apply_chat_template(messages, tokenize=False).removesuffix("\n")
                images = [draw(scene) for scene in pairs[index]]
                alone = model.model(**processor(text=[text], images=images, return_tensors="pt")).last_hidden_state[0]
                alone = alone[len(prefix.ids) :]
                torch.testing.assert_close(packed[index, start : start + len(alone)], alone, atol=2e-5, rtol=1e-4)
                start += length
