"""The schema of all experiments. Light: nothing here imports torch, transformers, lightning, peft or mlflow.

One dataclass per dial (`model data lora prompt vision_tokens conditioning`), then what is held still
(`optim trainer evaluation tracking`). YAML in `conf/` holds values for these fields and nothing else.
`freeze` turns a composed config into an `Experiment`; `identity` names it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import typing
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf

from lab.errors import ConfigError, did_you_mean

DIALS = ("model", "data", "lora", "prompt", "vision_tokens", "conditioning")
PARTS = ("vision", "projector", "llm")


class DType(Enum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class OnBad(Enum):
    fail = "fail"
    skip = "skip"


class ImageOrder(Enum):
    fixed = "fixed"
    swap = "swap"
    random = "random"


class Schedule(Enum):
    cosine = "cosine"
    linear = "linear"
    constant = "constant"


class IfFinished(Enum):
    reuse = "reuse"
    again = "again"


@dataclass
class ModelDial:
    """Which checkpoint: a folder shipped in `lab/model/`, a local folder, or a hub id."""

    name: str = MISSING
    family: str = MISSING
    path: str = MISSING
    revision: str | None = None
    dtype: DType = DType.float32
    attn_implementation: str = "sdpa"
    trust_remote_code: bool = False


@dataclass
class DataDial:
    """Which questions. Sizes are numbers of statements; None means all there are."""

    name: str = MISSING
    root: str | None = None
    source: str | None = None
    seed: int = 0
    num_train: int | None = None
    num_minival: int | None = None
    num_dev: int | None = None
    on_bad: OnBad = OnBad.fail
    difficulty: str | None = None
    image_layout: str | None = None
    permutations: int | None = None


@dataclass
class LoraDial:
    """What may change: LoRA (Hu et al. 2021, 2106.09685), in PEFT's names. `r=0` attaches nothing."""

    name: str = MISSING
    r: int = 16
    lora_alpha: int | None = None
    lora_dropout: float = 0.0
    where: list[str] = field(default_factory=lambda: ["llm"])
    target_modules: str = "all-linear"
    use_dora: bool = False
    use_rslora: bool = False
    init_lora_weights: str = "default"


@dataclass
class PromptDial:
    """How the question is put. `template` must hold `{statement}` once; `answers` are the two answer words."""

    name: str = MISSING
    version: int = 1
    system: str | None = None
    template: str = MISSING
    template_file: str | None = None
    separator: str = "\n"
    answer_true: str = "True"
    answer_false: str = "False"
    numbered: bool = False
    image_order: ImageOrder = ImageOrder.fixed


@dataclass
class VisionTokensDial:
    """How many tokens one image costs the language model."""

    name: str = MISSING
    budget: int | None = None


@dataclass
class ConditioningDial:
    """Where the image enters the language model."""

    name: str = MISSING


@dataclass
class Optim:
    """AdamW (Loshchilov and Hutter 2019, 1711.05101) on the trainable parameters."""

    lr: float = 2e-4
    weight_decay: float = 0.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    warmup_fraction: float = 0.05
    schedule: Schedule = Schedule.cosine


@dataclass
class TrainerSection:
    """The training loop. Exactly one of `max_steps` (optimizer steps) and `max_epochs` is given."""

    max_steps: int | None = None
    max_epochs: float | None = None
    batch_size: int = 16
    accumulate_grad_batches: int = 1
    gradient_clip_val: float = 1.0
    val_every: int | None = None
    patience: int | None = None
    gradient_checkpointing: bool = False
    feature_cache: bool = True
    num_workers: int = 0
    threads: int = 1
    accelerator: str = "auto"
    if_finished: IfFinished = IfFinished.reuse


@dataclass
class EvaluationSection:
    """What is measured after training. Batch size and repeats never change a score, only its cost."""

    batch_size: int = 64
    bootstrap: int = 2000
    latency_warmup: int = 5
    latency_examples: int = 50


@dataclass
class Tracking:
    """Where runs are kept, and the MLflow server they are shown in (None: MLFLOW_TRACKING_URI, else a local file)."""

    runs_dir: str = "runs"
    cache_dir: str = "cache"
    experiment: str = "lab"
    uri: str | None = None
    enabled: bool = True


@dataclass
class Experiment:
    model: ModelDial = field(default_factory=ModelDial)
    data: DataDial = field(default_factory=DataDial)
    lora: LoraDial = field(default_factory=LoraDial)
    prompt: PromptDial = field(default_factory=PromptDial)
    vision_tokens: VisionTokensDial = field(default_factory=VisionTokensDial)
    conditioning: ConditioningDial = field(default_factory=ConditioningDial)
    optim: Optim = field(default_factory=Optim)
    trainer: TrainerSection = field(default_factory=TrainerSection)
    evaluation: EvaluationSection = field(default_factory=EvaluationSection)
    tracking: Tracking = field(default_factory=Tracking)
    seed: int = 0


NOT_IDENTITY = {
    "tracking": None,
    "trainer": ("num_workers", "threads", "accelerator", "feature_cache", "if_finished"),
    "evaluation": ("batch_size", "latency_warmup", "latency_examples"),
}
"""What names where and how fast a run happens, not what it is: left out of `identity`."""


def freeze(composed: DictConfig) -> Experiment:
    """Turn a composed config into an `Experiment`, or say which key is wrong.

    Unknown keys (`+foo=1`), missing values and values that are illegal alone or beside another are a
    `ConfigError`; `OmegaConf.to_object` alone would drop the first in silence.
    """
    reject_unknown(OmegaConf.to_container(composed, resolve=True, enum_to_str=True), Experiment)
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError(f"{missing[0]}: no value is given, and it has no default. Give it as {missing[0]}=VALUE.")
    experiment = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Experiment), composed))
    assert isinstance(experiment, Experiment)
    check(experiment)
    return experiment


def reject_unknown(given: dict[str, Any], schema: type, prefix: str = "") -> None:
    """Raise a `ConfigError` for the first key of `given` that `schema` does not have."""
    hints = typing.get_type_hints(schema)
    for key, value in given.items():
        if key not in hints:
            legal = ", ".join(sorted(hints))
            raise ConfigError(f"{prefix}{key}: there is no such key.{did_you_mean(key, hints)} Legal here: {legal}.")
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, dict):
            reject_unknown(value, hints[key], f"{prefix}{key}.")


def legal_keys(schema: type, prefix: str = "") -> list[str]:
    """Every key of the schema, sections included: `lora`, `lora.r`, ..."""
    keys: list[str] = []
    for key, hint in typing.get_type_hints(schema).items():
        keys.append(prefix + key)
        if dataclasses.is_dataclass(hint):
            keys += legal_keys(typing.cast(type, hint), f"{prefix}{key}.")
    return keys


def check(x: Experiment) -> None:
    """Check what types cannot say. Raises `ConfigError` with the key, the value and what is legal."""
    at_least = {
        "lora.r": (x.lora.r, 0),
        "optim.lr": (x.optim.lr, 0.0),
        "trainer.batch_size": (x.trainer.batch_size, 1),
        "trainer.accumulate_grad_batches": (x.trainer.accumulate_grad_batches, 1),
        "trainer.threads": (x.trainer.threads, 1),
        "trainer.num_workers": (x.trainer.num_workers, 0),
        "evaluation.batch_size": (x.evaluation.batch_size, 1),
        "evaluation.bootstrap": (x.evaluation.bootstrap, 100),
        "evaluation.latency_examples": (x.evaluation.latency_examples, 0),
        "seed": (x.seed, 0),
    }
    for key, (value, least) in at_least.items():
        if value < least:
            raise ConfigError(f"{key}={value}: it must be at least {least}.")
    optional = {
        "trainer.max_steps": (x.trainer.max_steps, 0),
        "trainer.val_every": (x.trainer.val_every, 1),
        "trainer.patience": (x.trainer.patience, 1),
        "vision_tokens.budget": (x.vision_tokens.budget, 1),
        "data.num_train": (x.data.num_train, 1),
        "data.num_minival": (x.data.num_minival, 1),
        "data.num_dev": (x.data.num_dev, 1),
        "lora.lora_alpha": (x.lora.lora_alpha, 1),
    }
    for key, (value, least) in optional.items():
        if value is not None and value < least:
            raise ConfigError(f"{key}={value}: it must be at least {least}, or null.")
    for key, value in {"lora.lora_dropout": x.lora.lora_dropout, "optim.warmup_fraction": x.optim.warmup_fraction}.items():
        if not 0.0 <= value < 1.0:
            raise ConfigError(f"{key}={value}: it must lie in [0, 1).")
    if (x.trainer.max_steps is None) == (x.trainer.max_epochs is None):
        raise ConfigError(
            f"trainer.max_steps={x.trainer.max_steps}, trainer.max_epochs={x.trainer.max_epochs}: give exactly one of "
            "them and set the other to null."
        )
    if x.trainer.patience is not None and x.trainer.val_every is None:
        raise ConfigError(f"trainer.patience={x.trainer.patience}: it counts looks at minival; give trainer.val_every too.")
    if len(x.optim.betas) != 2:
        raise ConfigError(f"optim.betas={list(x.optim.betas)}: two numbers are needed, as in [0.9, 0.999].")
    for part in x.lora.where:
        if part not in PARTS:
            raise ConfigError(
                f"lora.where={list(x.lora.where)}: {part!r} is no part of a model.{did_you_mean(part, PARTS)} "
                f"Legal: {', '.join(PARTS)}, in any combination."
            )
    if trains(x) and x.lora.r == 0:
        raise ConfigError(
            "lora=none leaves nothing to train, but trainer asks for steps. Add trainer.max_steps=0 for the zero-shot "
            "baseline, or choose a LoRA with lora.r=16."
        )
    if x.prompt.answer_true == x.prompt.answer_false:
        raise ConfigError(f"prompt.answer_true and prompt.answer_false are both {x.prompt.answer_true!r}: they must differ.")


def trains(x: Experiment) -> bool:
    """Whether the experiment takes any optimizer step."""
    return bool(x.trainer.max_steps) or bool(x.trainer.max_epochs)


def as_dict(x: Experiment) -> dict[str, Any]:
    """The experiment as plain JSON values: dicts, lists, strings, numbers, None."""
    return json.loads(json.dumps(dataclasses.asdict(x), default=lambda value: value.value))


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"lora": {"r": 8}}` as `{"lora.r": 8}`."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        out.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return out


def identity(x: Experiment) -> str:
    """Ten hexadecimal digits that name the experiment: sha256 of its config without `NOT_IDENTITY`.

    Two spellings of one experiment (overrides in another order, a default written out) have one identity.
    """
    values = as_dict(x)
    for section, keys in NOT_IDENTITY.items():
        if keys is None:
            del values[section]
        else:
            for key in keys:
                del values[section][key]
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:10]
