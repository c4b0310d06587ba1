"""Train the stages one after the other."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable

import torch
from torch import nn
from tqdm import trange
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from tools.pretraining import pictures
from tools.pretraining.boxes_stage import boxes_loss, draw_boxes, see_columns
from tools.pretraining.concept_stage import Probes
from tools.pretraining.figures_stage import Edges, draw_figures, figures_loss
from tools.pretraining.grounding_stage import Dictionary, cells_right, draw_scenes, grounding_loss
from tools.pretraining.language_stage import draw_lessons, draw_names, lesson_loss
from tools.pretraining.recipe import BoxRound, Recipe, Round
from tools.pretraining.sequence_packing import make_prefix
from tools.pretraining.short_answers_stage import ShortProbes, draw_short, short_loss

log = logging.getLogger(__name__)


def train(recipe: Recipe, model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor) -> None:
    """Train the model in place by all stages of the recipe."""
    words, tower = Dictionary(model, processor), list(model.model.visual.parameters())
    train_stage(
        "grounding", model, tower, recipe, recipe.grounding_steps, recipe.grounding_lr,
        lambda step: grounding_loss(model, processor, words, draw_scenes(recipe, step, recipe.grounding_images)),
    )  # fmt: skip
    model.eval()
    things, empty = cells_right(model, processor, words, draw_scenes(recipe, 0, 128, purpose=2))
    log.info("grounding: %.2f %% of object cells and %.2f %% of empty cells right", 100 * things, 100 * empty)
    prefix, probes = make_prefix(model, processor), Probes()
    blocks = language_blocks(model)
    language = [*blocks, *probes.parameters()]
    train_stage(
        "words", model, language, recipe, recipe.words_steps, recipe.words_lr,
        lambda step: lesson_loss(model, processor, prefix, probes, draw_names(recipe, step), 1.0),
    )  # fmt: skip
    train_stage(
        "language", model, language, recipe, recipe.language_steps, recipe.language_lr,
        lambda step: lesson_loss(model, processor, prefix, probes, draw_lessons(recipe, step), recipe.words_weight),
    )  # fmt: skip
    seen, edges = Dictionary(model, processor, pictures.COLOURS, pictures.SHAPES), Edges()
    train_stage(
        "figures", model, [*tower, *edges.parameters()], recipe, recipe.figures_steps, recipe.figures_lr,
        lambda step: figures_loss(model, processor, seen, edges, draw_figures(recipe, step)),
    )  # fmt: skip
    for passing in recipe.short_rounds:
        probes, short_probes = Probes(), ShortProbes()

        def asked(step: int, passing: Round = passing, probes: Probes = probes, short_probes: ShortProbes = short_probes) -> torch.Tensor:
            number = passing.first + step
            lessons = draw_short(recipe, passing, number)
            loss = short_loss(model, processor, short_probes, lessons, recipe.names_weight, passing.whether)
            if number < passing.names_until or number % recipe.short_pairs_every:
                return loss
            statements = draw_lessons(recipe, recipe.language_steps + number)
            return loss + lesson_loss(model, processor, prefix, probes, statements, recipe.words_weight)

        language = [*blocks, *probes.parameters(), *short_probes.parameters()]
        train_stage("short answers", model, language, recipe, passing.steps, recipe.short_lr, asked)
    teach_boxes(recipe, model, processor)


def teach_boxes(recipe: Recipe, model: Qwen2VLForConditionalGeneration, processor: Qwen2VLProcessor) -> None:
    """Stage 6, in place."""
    model.eval()
    prefix, blocks = make_prefix(model, processor), language_blocks(model)
    see_columns(model, processor)
    for passing in recipe.boxes_rounds:
        probes, short_probes = Probes(), ShortProbes()

        def asked(step: int, passing: BoxRound = passing, probes: Probes = probes, short: ShortProbes = short_probes) -> torch.Tensor:
            lessons = draw_boxes(recipe, passing, passing.first + step)
            loss = boxes_loss(model, processor, short, lessons, recipe)
            if step % recipe.boxes_pairs_every:
                return loss
            statements = draw_lessons(recipe, recipe.language_steps + recipe.boxes_first_statement + 2 * passing.first + step)
            return loss + lesson_loss(model, processor, prefix, probes, statements, recipe.words_weight)

        language = [*blocks, *probes.parameters(), *short_probes.parameters()]
        train_stage("boxes", model, language, recipe, passing.steps, recipe.boxes_lr, asked, held_rate)
    model.eval()


def language_blocks(model: Qwen2VLForConditionalGeneration) -> list[nn.Parameter]:
    """All of the language model but the embeddings."""
    return [p for name, p in model.model.language_model.named_parameters() if "embed_tokens" not in name]


def train_stage(
    name: str,
    model: nn.Module,
    parameters: list[nn.Parameter],
    recipe: Recipe,
    steps: int,
    peak: float,
    loss_at: Callable[[int], torch.Tensor],
    rate: Callable[[int, int, float], float] | None = None,
) -> None:
    """Optimizer steps on the parameters alone. loss_at: the loss of a step, drawn from (seed, step). rate: `rate_at` if None."""
    model.requires_grad_(False)
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = make_optimizer(parameters, recipe.weight_decay)
    model.train()
    start = time.perf_counter()
    for step in trange(steps, desc=name, mininterval=1.0):
        for group in optimizer.param_groups:
            group["lr"] = (rate or rate_at)(step, steps, peak)
        loss = loss_at(step)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
    log.info("%s: %d steps in %.0f s", name, steps, time.perf_counter() - start)


def make_optimizer(parameters: Iterable[nn.Parameter], weight_decay: float) -> torch.optim.AdamW:
    """AdamW; decay on matrices only."""
    parameters = list(parameters)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98))


def rate_at(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 4 % of the steps, then a cosine down to 2 % of the peak."""
    warmup = max(1, round(0.04 * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))))


def held_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over 40 steps, the peak, and over the last half of the steps a line down to nothing."""
    return peak * min(1.0, (step + 1) / 40, (steps - step) / (steps / 2))
