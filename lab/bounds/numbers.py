"""The bounds of every key that holds numbers. Light."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Bounds:
    """A number, or each number of a list, lies in [least, most], or in [least, most) where `open_above`. Never nan.

    length: how many numbers a list holds; None: at least one.
    """

    least: float
    most: float
    open_above: bool = False
    length: int | None = None

    def hold(self, value: float) -> bool:
        """Whether a number is legal."""
        return self.least <= value and (value < self.most if self.open_above else value <= self.most)

    @property
    def rule(self) -> str:
        """`it must be at least 0 and at most 1024`, `it must lie in [0, 1)`."""
        if self.open_above:
            return f"it must lie in [{self.least:g}, {self.most:g})"
        return f"it must be at least {short(self.least)} and at most {short(self.most)}"

    @property
    def range(self) -> str:
        """`0 to 1024`, `from 0, below 1`, `1 or more` where nothing beyond the upper bound could be computed anyway."""
        if self.open_above:
            return f"from {self.least:g}, below {self.most:g}"
        return f"{self.least:g} or more" if self.most >= 10**6 else f"{self.least:g} to {self.most:g}"


COUNT = 2**31 - 1
"""Most that is counted: samples, steps."""
SIZE = 2**16
"""Most that one dimension of a module is given."""
MACHINES = 2**10
"""Most processes or threads."""
SEED = 2**32 - 1
"""PyTorch's generator on the CPU keeps 32 bits of a seed: a larger one would draw what a smaller one draws."""
RATE = Bounds(0.0, 1e6)
MONEY = Bounds(0.0, 1e9)
SHARE = Bounds(0.0, 1.0, open_above=True)
BOUNDS: Mapping[str, Bounds] = {
    "data.seed": Bounds(0, 2**63 - 1),
    "data.num_train": Bounds(1, COUNT),
    "data.num_minival": Bounds(1, COUNT),
    "data.num_dev": Bounds(1, COUNT),
    "data.permutations": Bounds(1, 6),
    "data.max_length": Bounds(1, COUNT),
    "data.questions_per_image": Bounds(1, COUNT),
    "data.augment.crop": Bounds(0.05, 1.0),
    "data.augment.scale": Bounds(0.1, 10.0, length=2),
    "data.augment.flip": Bounds(0.0, 1.0),
    "data.augment.colour": SHARE,
    "data.augment.min_area": Bounds(0.0, 1.0),
    "data.video.fps": Bounds(0.01, 240.0),
    "data.video.num_frames": Bounds(2, SIZE),
    "data.video.min_frames": Bounds(2, SIZE),
    "data.video.max_frames": Bounds(2, SIZE),
    "data.video.max_pixels": Bounds(1, COUNT),
    "model.vision_feature_layer": Bounds(-SIZE, -1),
    "lora.r": Bounds(0, SIZE),
    "lora.trainable_parameters": Bounds(1, 10**13),
    "lora.lora_alpha": Bounds(1, COUNT),
    "lora.lora_dropout": SHARE,
    "lora.top_k_blocks": Bounds(1, SIZE),
    "prompt.version": Bounds(0, COUNT),
    "vision_tokens.budget": Bounds(1, SIZE),
    "vision_tokens.width": Bounds(1, SIZE),
    "vision_tokens.heads": Bounds(1, SIZE),
    "conditioning.every": Bounds(1, SIZE),
    "conditioning.layers": Bounds(0, SIZE),
    "conditioning.width": Bounds(1, SIZE),
    "conditioning.heads": Bounds(1, SIZE),
    "optim.lr": RATE,
    "optim.lr_vision": RATE,
    "optim.lr_projector": RATE,
    "optim.lr_llm": RATE,
    "optim.lr_extras": RATE,
    "optim.lr_b_ratio": RATE,
    "optim.weight_decay": RATE,
    "optim.betas": dataclasses.replace(SHARE, length=2),
    "optim.warmup_fraction": SHARE,
    "optim.warmup_steps": Bounds(0, COUNT),
    "optim.milestones": Bounds(0.0, 1e6),
    "optim.gamma": RATE,
    "trainer.max_steps": Bounds(0, COUNT),
    "trainer.max_epochs": Bounds(0.0, 1e6),
    "trainer.batch_size": Bounds(1, COUNT),
    "trainer.accumulate_grad_batches": Bounds(1, COUNT),
    "trainer.gradient_clip_val": RATE,
    "trainer.val_every": Bounds(1, COUNT),
    "trainer.token_budget": Bounds(1, COUNT),
    "trainer.log_every": Bounds(1, COUNT),
    "trainer.patience": Bounds(1, COUNT),
    "trainer.num_workers": Bounds(0, MACHINES),
    "trainer.threads": Bounds(1, MACHINES),
    "trainer.devices": Bounds(1, MACHINES),
    "trainer.save_every": Bounds(1, COUNT),
    "trainer.keep_checkpoints": Bounds(1, COUNT),
    "evaluation.batch_size": Bounds(1, COUNT),
    "evaluation.max_new_tokens": Bounds(1, 4096),
    "evaluation.max_samples": Bounds(1, COUNT),
    "evaluation.bootstrap": Bounds(2000, 10**6),
    "evaluation.latency_warmup": Bounds(0, COUNT),
    "evaluation.latency_examples": Bounds(0, COUNT),
    "evaluation.probe_examples": Bounds(1, COUNT),
    "evaluation.judge.workers": Bounds(1, MACHINES),
    "evaluation.judge.budget": MONEY,
    "evaluation.judge.prices.input_per_million": MONEY,
    "evaluation.judge.prices.output_per_million": MONEY,
    "endpoint.workers": Bounds(1, MACHINES),
    "endpoint.budget": MONEY,
    "endpoint.prices.input_per_million": MONEY,
    "endpoint.prices.output_per_million": MONEY,
    "sweep.replicates": Bounds(1, 1000),
    "race.rungs": Bounds(0.01, 1.0, open_above=True),
    "race.alpha": Bounds(0.001, 1.0, open_above=True),
    "race.indifference": SHARE,
    "race.pace": Bounds(0.0, 1.0),
    "race.budget": Bounds(0.0, 1.0),
    "tracking.cache_gb": Bounds(0.0, 1e9),
    "seed": Bounds(0, SEED),
}
"""Of every key that holds numbers. Where there is no natural bound, it is one beyond which nothing could be computed."""
SOURCE: Mapping[str, Bounds] = {"weight": Bounds(1e-9, 1e9), "cap": Bounds(1, COUNT), "epochs": Bounds(1e-6, 1e6)}
"""Of the numbers that an entry of `data.sources` may have beside its path."""


def is_number(value: Any) -> bool:
    """Whether a plain value is a number, for which Python takes booleans too."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def short(value: Any) -> str:
    """A number or a word in at most some 60 characters."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return f"{'-' if value < 0 else ''}(a number of about {round(math.log10(abs(value)))} digits)"
    text = f"{value}"
    return text if len(text) <= 60 else f"{text[:57]}..."
