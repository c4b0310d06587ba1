"""From a composed config to an `Experiment`: unknown keys, missing values and illegal combinations are told here.

Types are checked by OmegaConf while composing (`lab.config` is the schema); what types cannot say is checked by `check`. Light.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from enum import Enum
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lab.config import PARTS, Experiment, LoraDial, TrainerSection, adds_modules, trains
from lab.errors import ConfigError, did_you_mean


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


def from_dict(values: dict[str, Any]) -> Experiment:
    """The experiment of a run's stored config (`as_dict`), checked as any config is."""
    return freeze(OmegaConf.create(values))


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
    check_bounds(x)
    check_trainer(x.trainer)
    if len(x.optim.betas) != 2:
        raise ConfigError(f"optim.betas={list(x.optim.betas)}: two numbers are needed, as in [0.9, 0.999].")
    check_lora(x.lora)
    if x.evaluation.shared_prefix and x.conditioning.name != "prefix":
        raise ConfigError(
            f"evaluation.shared_prefix=true: with conditioning={x.conditioning.name} a question's words meet the images in every "
            "block, so their reading cannot be shared. Leave it out, or choose conditioning=prefix."
        )
    check_owners(x)
    if trains(x) and x.lora.r == 0 and not adds_modules(x):
        raise ConfigError(
            "lora=none leaves nothing to train, but trainer asks for steps. Add trainer.max_steps=0 for the zero-shot "
            "baseline, or choose a LoRA with lora.r=16, vision_tokens=resampler or conditioning=cross_attention."
        )
    if x.prompt.answer_true == x.prompt.answer_false:
        raise ConfigError(f"prompt.answer_true and prompt.answer_false are both {x.prompt.answer_true!r}: they must differ.")


def check_bounds(x: Experiment) -> None:
    """Check every number against the least that it may be."""
    at_least = {
        "lora.r": (x.lora.r, 0),
        "optim.lr": (x.optim.lr, 0.0),
        "optim.lr_b_ratio": (x.optim.lr_b_ratio, 0.0),
        "trainer.batch_size": (x.trainer.batch_size, 1),
        "trainer.accumulate_grad_batches": (x.trainer.accumulate_grad_batches, 1),
        "trainer.threads": (x.trainer.threads, 1),
        "trainer.devices": (x.trainer.devices, 1),
        "trainer.num_workers": (x.trainer.num_workers, 0),
        "trainer.keep_checkpoints": (x.trainer.keep_checkpoints, 1),
        "tracking.cache_gb": (x.tracking.cache_gb, 0.0),
        "evaluation.batch_size": (x.evaluation.batch_size, 1),
        "evaluation.bootstrap": (x.evaluation.bootstrap, 2000),
        "evaluation.latency_examples": (x.evaluation.latency_examples, 0),
        "evaluation.probe_examples": (x.evaluation.probe_examples, 1),
        "sweep.replicates": (x.sweep.replicates, 1),
        "seed": (x.seed, 0),
    }
    for key, (value, least) in at_least.items():
        if value < least:
            raise ConfigError(f"{key}={value}: it must be at least {least}.")
    optional = {
        "trainer.max_steps": (x.trainer.max_steps, 0),
        "trainer.val_every": (x.trainer.val_every, 1),
        "trainer.patience": (x.trainer.patience, 1),
        "trainer.save_every": (x.trainer.save_every, 1),
        "vision_tokens.budget": (x.vision_tokens.budget, 1),
        "vision_tokens.width": (x.vision_tokens.width, 1),
        "vision_tokens.heads": (x.vision_tokens.heads, 1),
        "conditioning.every": (x.conditioning.every, 1),
        "conditioning.width": (x.conditioning.width, 1),
        "conditioning.heads": (x.conditioning.heads, 1),
        "data.num_train": (x.data.num_train, 1),
        "data.num_minival": (x.data.num_minival, 1),
        "data.num_dev": (x.data.num_dev, 1),
        "lora.trainable_parameters": (x.lora.trainable_parameters, 1),
        "lora.lora_alpha": (x.lora.lora_alpha, 1),
        "lora.top_k_blocks": (x.lora.top_k_blocks, 1),
        "optim.lr_vision": (x.optim.lr_vision, 0.0),
        "optim.lr_projector": (x.optim.lr_projector, 0.0),
        "optim.lr_extras": (x.optim.lr_extras, 0.0),
    }
    for key, (value, least) in optional.items():
        if value is not None and value < least:
            raise ConfigError(f"{key}={value}: it must be at least {least}, or null.")
    for key, value in {"lora.lora_dropout": x.lora.lora_dropout, "optim.warmup_fraction": x.optim.warmup_fraction}.items():
        if not 0.0 <= value < 1.0:
            raise ConfigError(f"{key}={value}: it must lie in [0, 1).")


def check_lora(dial: LoraDial) -> None:
    """Check what the keys of `lora` mean to each other."""
    for part in dial.where:
        if part not in PARTS:
            raise ConfigError(
                f"lora.where={list(dial.where)}: {part!r} is no part of a model.{did_you_mean(part, PARTS)} "
                f"Legal: {', '.join(PARTS)}, in any combination."
            )
    if dial.trainable_parameters is not None and dial.r == 0:
        raise ConfigError(
            f"lora.trainable_parameters={dial.trainable_parameters}: lora.r=0 (lora=none) attaches no adapter whose size could "
            "be chosen. Set one of them otherwise."
        )


OWNERS = {
    "vision_tokens": {"rule": "prune", "width": "resampler", "heads": "resampler"},
    "conditioning": dict.fromkeys(("every", "layers", "parallel", "keep_prefix", "width", "heads"), "cross_attention"),
}
"""Keys of a dial that mean something for one of its options only."""


def check_trainer(section: TrainerSection) -> None:
    """Check what the keys of `trainer` mean to each other."""
    if (section.max_steps is None) == (section.max_epochs is None):
        raise ConfigError(
            f"trainer.max_steps={section.max_steps}, trainer.max_epochs={section.max_epochs}: give exactly one of "
            "them and set the other to null."
        )
    looks = {"trainer.patience": section.patience is not None, "trainer.restore_best": section.restore_best}
    for key, given in looks.items():
        if given and section.val_every is None:
            raise ConfigError(f"{key}: it looks at minival; give trainer.val_every too, the steps between two looks.")
    if section.max_time is not None and not re.fullmatch(r"\d+:[0-5]\d:[0-5]\d", section.max_time):
        raise ConfigError(f"trainer.max_time={section.max_time}: it must be hours, minutes, seconds, as in 11:45:00, or null.")
    if section.batch_size % section.devices:
        raise ConfigError(
            f"trainer.devices={section.devices}: they share trainer.batch_size={section.batch_size} samples evenly, so it must "
            "divide that number."
        )


def check_owners(x: Experiment) -> None:
    """Raise a `ConfigError` for a key whose option is not chosen: it would change the run's name and nothing else."""
    for dial, owners in OWNERS.items():
        section = getattr(x, dial)
        untouched = type(section)()
        for key, owner in owners.items():
            value = getattr(section, key)
            if section.name != owner and value != getattr(untouched, key):
                given = value.value if isinstance(value, Enum) else value
                raise ConfigError(
                    f"{dial}.{key}={given}: it belongs to {dial}={owner}, and {dial}={section.name} does not read it. "
                    f"Leave it out, or choose {dial}={owner}."
                )
