"""Run the stages, one after the other, from wherever the last run stopped."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm
from transformers import Qwen2VLForConditionalGeneration, Qwen2VLProcessor

from lab.pretraining.branches import make_prefix
from lab.pretraining.checkpoint import load_state, save_state
from lab.pretraining.grounding import Dictionary, cells_right, draw_scenes, grounding_loss
from lab.pretraining.language import draw_lessons, draw_names, lesson_loss
from lab.pretraining.recipe import Recipe
from lab.pretraining.words import Probes

log = logging.getLogger(__name__)

STAGES = ("grounding", "words", "language")


@dataclass
class Course:
    """A base in the making: model, processor and how far it is."""

    recipe: Recipe
    out: Path
    model: Qwen2VLForConditionalGeneration
    processor: Qwen2VLProcessor
    save_every: int = 100
    probes: Probes = field(default_factory=Probes)
    history: list = field(default_factory=list)

    def run(self) -> None:
        """Run what is left of the stages."""
        state = load_state(self.out, self.recipe)
        first = 0
        if state is not None:
            self.model.load_state_dict(state["model"])
            self.probes.load_state_dict(state["probes"])
            self.history = state["history"]
            first = STAGES.index(state["stage"])
        for index, stage in enumerate(STAGES[first:], start=first):
            mine = state if state is not None and index == first else None
            parameters, steps, lr, loss = self._stage(stage)
            self._train(stage, parameters, steps, lr, loss, mine)

    def _stage(self, stage: str) -> tuple[list[nn.Parameter], int, float, Callable[[int], torch.Tensor]]:
        """Return what a stage trains, its steps, its peak rate, and its loss at a step."""
        recipe, model, processor = self.recipe, self.model, self.processor
        model.requires_grad_(False)
        if stage == "grounding":
            words = Dictionary(model, processor)
            parameters = list(model.model.visual.parameters())

            def loss(step: int) -> torch.Tensor:
                return grounding_loss(model, processor, words, draw_scenes(recipe, step, recipe.grounding_images))

            rate = (recipe.grounding_steps, recipe.grounding_lr)
        else:
            draw, weight = (draw_names, 1.0) if stage == "words" else (draw_lessons, recipe.words_weight)
            prefix = make_prefix(model, processor)
            parameters = [p for n, p in model.model.language_model.named_parameters() if "embed_tokens" not in n]
            parameters += list(self.probes.parameters())

            def loss(step: int) -> torch.Tensor:
                return lesson_loss(model, processor, prefix, self.probes, draw(recipe, step), weight)

            rate = (getattr(recipe, f"{stage}_steps"), getattr(recipe, f"{stage}_lr"))
        for parameter in parameters:
            parameter.requires_grad_(True)
        return parameters, *rate, loss

    def _train(
        self,
        stage: str,
        parameters: list[nn.Parameter],
        steps: int,
        lr: float,
        loss_at: Callable[[int], torch.Tensor],
        state: dict | None,
    ) -> None:
        optimizer = make_optimizer(parameters, self.recipe.weight_decay)
        start = 0
        if state is not None:
            optimizer.load_state_dict(state["optimizer"])
            start = state["step"]
        self.model.train()
        began, running = time.perf_counter(), None
        bar = tqdm(range(start, steps), desc=stage, initial=start, total=steps, mininterval=1.0)
        for step in bar:
            rate = rate_at(step, steps, lr)
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = loss_at(step)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            running = loss.item() if running is None else 0.95 * running + 0.05 * loss.item()
            bar.set_postfix(loss=f"{running:.3f}", refresh=False)
            if (step + 1) % self.save_every == 0 or step + 1 == steps:
                self.history.append({"stage": stage, "step": step + 1, "loss": loss.item()})
                save_state(self, stage, step + 1, optimizer)
        if start < steps:
            log.info("%s: steps %d to %d in %.0f s", stage, start, steps, time.perf_counter() - began)
        if stage == "grounding":
            self.check_grounding()

    def check_grounding(self) -> tuple[float, float]:
        """Log and return how many object and empty cells of unseen scenes are named right."""
        self.model.eval()
        scenes = draw_scenes(self.recipe, 0, 128, purpose=2)
        things, empty = cells_right(self.model, self.processor, Dictionary(self.model, self.processor), scenes)
        log.info("grounding: %.2f %% of object cells and %.2f %% of empty cells right", 100 * things, 100 * empty)
        return things, empty


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
