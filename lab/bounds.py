"""What each value of the schema may be: the bounds of every number, the words of every key that takes one of a few. Light.

Types are OmegaConf's affair (`lab.config`), what values mean to each other is `lab.freezing`'s. A test walks the schema: a key
that is in none of these tables fails it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
import typing
from collections.abc import Mapping
from typing import Any

from lab.config import PARTS, Experiment
from lab.errors import ConfigError, did_you_mean


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
    def told(self) -> str:
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


@dataclasses.dataclass(frozen=True)
class Words:
    """A key that takes one of a few words. also: a regular expression for more, as `also_told` writes it.

    refused: words that are known, and why they cannot be had.
    """

    legal: tuple[str, ...]
    also: str | None = None
    also_told: str = ""
    refused: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def hold(self, value: str) -> bool:
        """Whether a word is legal."""
        return value in self.legal or (self.also is not None and re.fullmatch(self.also, value, re.ASCII) is not None)


NEEDS_DATA = "it needs activations of training data before the adapter exists"
WORDS: dict[str, Words] = {
    "model.attn_implementation": Words(("sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention")),
    "model.device_map": Words(("auto", "balanced", "balanced_low_0", "sequential")),
    "optim.optimizer": Words(
        (
            "AdamW", "Adam", "Adamax", "NAdam", "RAdam", "SGD", "RMSprop", "Adagrad", "Adadelta", "Adafactor",
            "AdamW8bit", "PagedAdamW", "PagedAdamW8bit",
        ),
        refused={
            "LBFGS": "it asks for several forward passes a step",
            "SparseAdam": "gradients here are dense",
            "Muon": "it takes matrices alone, and modules that dials add have vectors too",
        },
    ),
    "data.difficulty": Words(("easy", "medium", "hard")),
    "data.image_layout": Words(("whole", "boxes")),
    "vision_tokens.name": Words(("native", "resize", "pool", "resampler", "prune", "merge")),
    "conditioning.name": Words(("prefix", "cross_attention", "add_cross_attention")),
    "lora.where": Words(PARTS),
    "lora.full": Words((*PARTS, "head")),
    "lora.init_lora_weights": Words(
        ("default", "gaussian", "orthogonal", "mica", "pissa", "olora"),
        also=r"pissa_niter_[1-9]\d{0,3}",
        also_told="pissa_niter_N",
        refused={
            "loftq": "PEFT computes it with bitsandbytes on a GPU from a base that is not quantised yet",
            "eva": NEEDS_DATA,
            "corda": NEEDS_DATA,
            "lora_ga": "it needs gradients of training data before the adapter exists",
        },
    ),
    "trainer.strategy": Words(
        ("auto", "ddp", "fsdp"),
        refused={"deepspeed": "it is not used here. fsdp shards weights, gradients and optimizer state, as ZeRO's stage 3 does"},
    ),
    "trainer.accelerator": Words(("auto", "cpu", "gpu", "cuda", "mps")),
    "trainer.max_time": Words((), also=r"\d{1,6}:[0-5]\d:[0-5]\d", also_told="hours, minutes, seconds, as in 11:45:00"),
    "prompt.post": Words(("none", "lower", "squad", "vqa", "blip", "llava", "qwen")),
    "prompt.boxes": Words(("qwen2", "qwen2_5", "qwen3", "paligemma", "click", "json")),
    "data.rule": Words(("winoground",)),
    "data.profile": Words(("ours", "lmms", "vlmevalkit")),
    "data.sha256": Words((), also=r"[0-9a-f]{64}", also_told="64 hexadecimal digits"),
    "data.kind": Words(("text",)),
    "data.exif": Words(("shown", "stored")),
    "data.empty": Words(("reviewed", "unlabelled")),
    "data.loss_on": Words(("every", "last")),
    "data.order": Words(("random", "by_image")),
    "trainer.layout": Words(("rows", "trees", "auto")),
    "data.answer_format": Words(("text", "letter", "index0", "index1")),
    "evaluation.ask": Words(("score", "generate")),
    "evaluation.splits": Words(("train", "minival", "dev")),
    "evaluation.controls": Words(("blank", "shuffled", "text_only")),
}
"""Of every text that is one of a few words, or a list of them. Enumerations are OmegaConf's affair."""


def allow(key: str, word: str) -> None:
    """Make a word legal that came from outside."""
    WORDS[key] = dataclasses.replace(WORDS[key], legal=(*WORDS[key].legal, word))


def check(x: Any, section: str = "", numbers: Mapping[str, Bounds] | None = None, words: Mapping[str, Words] | None = None) -> None:
    """Check every number and every word of a config, or of one section. Raises `ConfigError` with key, value and what is legal.

    numbers, words: of another schema than `Experiment`.
    """
    for key, bounds in (BOUNDS if numbers is None else numbers).items():
        if key.startswith(section):
            check_number(key, value_of(x, key), bounds, type(x))
    for key, legal in (WORDS if words is None else words).items():
        if key.startswith(section):
            check_word(key, value_of(x, key), legal, type(x))


def check_given(values: dict[str, Any], schema: type = Experiment, numbers: Mapping[str, Bounds] | None = None) -> None:
    """Check the numbers of a config that is not typed yet: one that no float holds must not get as far as a conversion."""
    for key, bounds in (BOUNDS if numbers is None else numbers).items():
        value: Any = values
        for name in key.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if all(map(is_number, value)) if isinstance(value, list) else is_number(value):
            check_number(key, value, bounds, schema)


def is_number(value: Any) -> bool:
    """Whether a plain value is a number, for which Python takes booleans too."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def value_of(x: Any, key: str) -> Any:
    """The value of a dotted key."""
    for name in key.split("."):
        x = getattr(x, name)
    return x


def check_number(key: str, value: Any, bounds: Bounds, schema: type = Experiment) -> None:
    """Check one number, or a list of them; None is legal where its type allows it."""
    if isinstance(value, list) and len(value) != (bounds.length or max(1, len(value))):
        wanted = f"{bounds.length} numbers are needed, as in {default_of(key, schema)}"
        wanted = wanted if bounds.length else "it must hold at least one number, or be null"
        raise ConfigError(f"{key}={told(value)}: {wanted}.")
    given = value if isinstance(value, list) else [value]
    wrong = [one for one in given if one is not None and not bounds.hold(one)]
    if wrong:
        each = f" {short(wrong[0])} is out of bounds:" if isinstance(value, list) else ""
        raise ConfigError(f"{key}={told(value)}:{each} {bounds.told}{', or null' if nullable(key, schema) else ''}.")


def check_word(key: str, value: Any, words: Words, schema: type = Experiment) -> None:
    """Check one word, or a list of them; None is legal where its type allows it."""
    given = value if isinstance(value, list) else [value]
    wrong = [one for one in given if one is not None and not words.hold(one)]
    if wrong:
        legal = ", ".join([*words.legal, *filter(None, [words.also_told]), *(["null"] if nullable(key, schema) else [])])
        what = f" {short(repr(wrong[0]))} is none of them." if isinstance(value, list) else ""
        why = f" {wrong[0]}: {words.refused[wrong[0]]}." if wrong[0] in words.refused else did_you_mean(wrong[0], words.legal)
        raise ConfigError(f"{key}={told(value)}: legal values are {legal}.{what}{why}")


def default_of(key: str, schema: type = Experiment) -> Any:
    """The value of a key that nobody set."""
    return value_of(schema(), key)


@functools.cache
def nullable(key: str, schema: type = Experiment) -> bool:
    """Whether the schema lets a key be null."""
    *sections, name = key.split(".")
    owner: Any = schema
    for section in sections:
        owner = typing.get_type_hints(owner)[section]
    return type(None) in typing.get_args(typing.get_type_hints(owner)[name])


def told(value: Any) -> str:
    """A given value for a message."""
    return f"[{', '.join(map(short, value))}]" if isinstance(value, list) else short(value)


def short(value: Any) -> str:
    """A number or a word in at most some 60 characters."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return f"{'-' if value < 0 else ''}(a number of about {round(math.log10(abs(value)))} digits)"
    text = f"{value}"
    return text if len(text) <= 60 else f"{text[:57]}..."
