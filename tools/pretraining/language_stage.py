"""Stages 2 and 3: with the tower frozen, teach the language model names, then statements and captions."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from tools.pretraining.concept_stage import Probes, words_loss
from tools.pretraining.curriculum import LATER, OPENING, Pair, ask, caption, name
from tools.pretraining.grounding_stage import draw_pairs, see
from tools.pretraining.recipe import STREAM, Recipe
from tools.pretraining.sequence_packing import Branch, Prefix, hidden_states, lay_out

Lessons = tuple[list[Pair], list[list[Branch]]]


def draw_names(recipe: Recipe, step: int) -> Lessons:
    """Draw the scene pairs of one step of stage 2 and what is named beside each, from (seed, step) alone."""
    rng = np.random.default_rng([STREAM, recipe.seed, 3, step])
    pairs = draw_pairs(rng, recipe.words_pairs)
    rows = [[name(rng, palette, pair) for _ in range(recipe.words_branches)] for palette, pair in pairs]
    return [pair for _, pair in pairs], rows


def draw_lessons(recipe: Recipe, step: int) -> Lessons:
    """Draw the scene pairs of one step of stage 3 and what is asked of each, from (seed, step) alone."""
    rng = np.random.default_rng([STREAM, recipe.seed, 4, step])
    weights = OPENING if step < recipe.opening_share * recipe.language_steps else LATER
    pairs = draw_pairs(rng, recipe.language_pairs)
    rows = []
    for palette, pair in pairs:
        row = [caption(rng, pair)] if step % recipe.caption_every == 0 else []
        row += [ask(rng, recipe, palette, pair, weights) for _ in range(recipe.branches - len(row))]
        rows.append(row)
    return [pair for _, pair in pairs], rows


def pair_features(
    model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor, pairs: list[Pair]
) -> torch.Tensor:
    """Return what the frozen tower sees of each pair: float32 [pairs, 32, hidden]."""
    with torch.no_grad():
        features = see(model, processor, [scene for pair in pairs for scene in pair])
    return features.reshape(len(pairs), -1, features.shape[-1])


def lesson_loss(
    model: Qwen2VLForConditionalGeneration,
    processor: Qwen2VLProcessor,
    prefix: Prefix,
    probes: Probes,
    lessons: Lessons,
    words_weight: float,
) -> torch.Tensor:
    """Return the cross-entropy of the answer tokens, `<|im_end|>` included, plus what `words` teaches."""
    pairs, rows = lessons
    layout = lay_out(processor, rows)
    hidden = hidden_states(model, prefix, layout, pair_features(model, processor, pairs))
    loss = words_weight * words_loss(model, probes, prefix, layout, hidden)
    taken = layout.labels != -100
    if taken.any():
        answers = hidden[-1][:, len(prefix.ids) :][taken]
        loss = loss + functional.cross_entropy(model.lm_head(answers), layout.labels[taken])
    return loss
