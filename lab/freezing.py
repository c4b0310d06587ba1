"""From a composed config to an `Experiment`: unknown keys, missing values and illegal combinations are told here.

Types are checked by OmegaConf while composing (`lab.config` is the schema); what types cannot say is checked by `check`. Light.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
import shlex
import typing
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from lab import bounds, paths, plugins, services
from lab.config import ENDPOINT, Experiment, IfFinished, IfUnfinished, LoraDial, Optim, Schedule, TrainerSection, adds_modules, trains
from lab.errors import ConfigError, did_you_mean
from lab.host.files import annotations_hash, file_hash, text_hash
from lab.placing import placed

S = TypeVar("S")


def freeze(composed: DictConfig) -> Experiment:
    """Turn a composed config into an `Experiment`, or say which key is wrong.

    Unknown keys (`+foo=1`), missing values and values that are illegal alone or beside another are a
    `ConfigError`; `OmegaConf.to_object` alone would drop the first in silence.
    """
    experiment = checked(composed, Experiment, bounds.BOUNDS)
    for key, when in paths.PATHS.items():
        section, name = key.split(".")
        spelled = getattr(getattr(experiment, section), name)
        if spelled is not None:
            path = paths.expanded(spelled, key)
            setattr(getattr(experiment, section), name, path if when is paths.When.frozen else spelled)
    section = experiment.evaluation
    section.also = placed(section.also, section.also_root, section.max_samples)
    experiment.data.sources = sources_of(experiment.data.sources)
    if experiment.model.family == paths.AUTO:
        experiment.model.family = paths.family_of_tower(experiment.model.vision_from)
    check(experiment)
    if experiment.data.sources and experiment.data.sha256 is None:
        experiment.data.sha256 = sources_hash(experiment.data.sources)
    experiment.data.parts = [with_hash(part) for part in experiment.data.parts]
    file = experiment.data.path
    if file is not None and experiment.data.sha256 is None:
        try:
            experiment.data.sha256 = annotations_hash(file)
        except OSError as error:
            raise ConfigError(f"data.path={file}: the file cannot be read ({error.strerror}).") from None
    return experiment


def sources_of(given: Sequence[Any]) -> list[dict[str, Any]]:
    """`data.sources` with each entry as `path` and what is given beside it; a lone path is one too. Raises `ConfigError`."""
    found: list[dict[str, Any]] = []
    for each in given:
        source: Mapping[str, Any] = {"path": each} if isinstance(each, str) else each if isinstance(each, Mapping) else {}
        told = f"data.sources: {bounds.short(repr(each))}"
        legal = "a path, or {path: FILE} with weight, cap or epochs"
        if not isinstance(source.get("path"), str):
            raise ConfigError(f"{told}: {legal} is legal, as in data.sources=[{{path:a.json,weight:2}},b.jsonl].")
        for key, value in source.items():
            if key not in ("path", *bounds.SOURCE):
                raise ConfigError(f"{told}: {key} is no key of a source.{did_you_mean(key, tuple(bounds.SOURCE))} Legal: {legal}.")
            of = bounds.SOURCE.get(key)
            if of is not None and value is not None and not (bounds.is_number(value) and of.hold(value) and (key != "cap" or value == int(value))):
                raise ConfigError(f"{told}: {key} is {bounds.short(value)}; {of.told}, or left out.")
        kept = {key: value for key, value in source.items() if value is not None}
        found.append({**kept, "path": paths.expanded(source["path"], "data.sources")})
    weighed = [source for source in found if "weight" in source]
    if weighed and len(weighed) < len(found):
        lacking = next(source["path"] for source in found if "weight" not in source)
        raise ConfigError(f"data.sources: {lacking} has no weight, and others have: weights are shares of what is seen. Give one for each, or none.")
    if twice := [path for path, number in Counter(source["path"] for source in found).items() if number > 1]:
        raise ConfigError(f"data.sources: {twice[0]} stands twice. Give it once, with epochs=2 to see it twice.")
    return found


def sources_hash(sources: Sequence[Mapping[str, Any]]) -> str:
    """One SHA-256 over those of the files of `data.sources`. Raises `ConfigError` for one that cannot be read."""
    try:
        return text_hash(*(file_hash(source["path"]) for source in sources))
    except OSError as error:
        raise ConfigError(f"data.sources: {error.filename} cannot be read ({error.strerror}).") from None


def with_hash(part: str) -> str:
    """A part of a mixture with the SHA-256 of its file behind it, so that a changed file is another run. Raises `ConfigError`."""
    try:
        given = dict(word.split("=", 1) for word in shlex.split(part) if "=" in word)
    except ValueError as error:
        raise ConfigError(f"data.parts=[{part}]: it cannot be read ({error}).") from None
    if "path" not in given or "sha256" in given:
        return part
    file = paths.expanded(given["path"], "data.parts: path")
    try:
        digest = annotations_hash(file)
    except OSError as error:
        raise ConfigError(f"data.parts=[{part}]: the file {file} cannot be read ({error.strerror}).") from None
    return part if digest is None else f"{part} sha256={digest}"


def checked(composed: DictConfig, schema: type[S], numbers: Mapping[str, bounds.Bounds]) -> S:
    """The config as a schema's own classes, but for what words and values mean. Raises `ConfigError`: unknown, missing, out of bounds."""
    given: Any = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    reject_unknown(given, schema)
    bounds.check_given(given, schema, numbers)
    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise ConfigError(f"{missing[0]}: no value is given, and it has no default. Give it as {missing[0]}=VALUE.")
    return typed(composed, schema)


def typed(composed: DictConfig, schema: type[S]) -> S:
    """The config as the schema's own classes. Raises `ConfigError` for a value of another type."""
    try:
        known = OmegaConf.get_type(composed) is schema  # composed over the schema, which has checked every value
        config = OmegaConf.to_object(composed if known else OmegaConf.merge(structured(schema), composed))
    except OmegaConfBaseException as error:
        raise ConfigError(wrong_type(error, composed)) from None
    assert isinstance(config, schema)
    return config


@functools.cache
def structured(schema: type) -> DictConfig:
    """The schema for OmegaConf, which copies it."""
    return OmegaConf.structured(schema)


def wrong_type(error: OmegaConfBaseException, composed: DictConfig) -> str:
    """What OmegaConf says of a value of another type, headed by its key and the value."""
    key = error.full_key or ""
    return f"{key}={bounds.told(OmegaConf.select(composed, key))}: {(error.msg or str(error)).strip()}."


def from_dict(values: dict[str, Any], source: str = "") -> Experiment:
    """The experiment of a run's stored config (`as_dict`), checked as any config is; source: the file, for the message."""
    try:
        return freeze(OmegaConf.create({key: literal(value) for key, value in values.items()}))
    except (ConfigError, OmegaConfBaseException) as error:
        if not source:
            raise
        if lacking := plugins.missing(values):
            raise ConfigError(f"{source}: {error} It was made with plugins={lacking}, which this command was not given.") from None
        raise ConfigError(
            f"{source}: its config is none of this version of the laboratory: {error} The version that wrote it reads it (runs with "
            "evaluation.generate: commit 662f32b)."
        ) from None


def literal(value: Any) -> Any:
    """A stored value with its texts escaped, so that OmegaConf reads `${` in them as these two characters, not as a reference."""
    if isinstance(value, str):
        return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value)
    if isinstance(value, dict):
        return {key: literal(one) for key, one in value.items()}
    return [literal(one) for one in value] if isinstance(value, list) else value


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
    bounds.check(x)
    check_trainer(x.trainer)
    check_lora(x.lora)
    check_optim(x.optim)
    check_device_map(x)
    check_race(x)
    services.check("evaluation.judge", x.evaluation.judge)
    services.check("endpoint", x.endpoint)
    if x.endpoint.base_url is not None and x.model.family != ENDPOINT:
        raise ConfigError(f"endpoint.base_url: model={x.model.name} is no model behind a server. Choose model=endpoint, or leave it out.")
    if x.seed + x.sweep.replicates - 1 > bounds.SEED:
        raise ConfigError(
            f"sweep.replicates={x.sweep.replicates}: the last would have seed {x.seed + x.sweep.replicates - 1}, and {bounds.SEED} is "
            "the largest. Lower seed."
        )
    for key, first in (("ask", "score"), ("splits", "dev")):
        values = getattr(x.evaluation, key)
        if first not in values or (key == "ask" and values[0] != first):
            raise ConfigError(f"evaluation.{key}={bounds.told(values)}: {first} is always asked; add it{' first' if key == 'ask' else ''}.")
    if x.evaluation.shared_prefix and x.conditioning.name != "prefix":
        raise ConfigError(
            f"evaluation.shared_prefix=true: with conditioning={x.conditioning.name} a question's words meet the images in every "
            "block, so their reading cannot be shared. Leave it out, or choose conditioning=prefix."
        )
    check_owners(x)
    if trains(x) and x.lora.r == 0 and not x.lora.full and not adds_modules(x):
        raise ConfigError(
            "lora=none leaves nothing to train, but trainer asks for steps. Add trainer.max_steps=0 for the zero-shot "
            "baseline, or choose a LoRA with lora.r=16, lora.full=[head], vision_tokens=resampler or conditioning=cross_attention."
        )
    words = x.prompt.words
    if len(set(words.values())) < len(words):
        raise ConfigError(f"{' and '.join(words)} are both {next(iter(words.values()))!r}: they must differ.")


def check_lora(dial: LoraDial) -> None:
    """Check what the keys of `lora` mean to each other."""
    if dial.trainable_parameters is not None and dial.r == 0:
        raise ConfigError(
            f"lora.trainable_parameters={dial.trainable_parameters}: lora.r=0 (lora=none) attaches no adapter whose size could "
            "be chosen. Set one of them otherwise."
        )


def check_optim(section: Optim) -> None:
    """Raise a `ConfigError` for a key of `schedule=steps` beside another, which does not read it, or for two lengths of the warm-up."""
    if section.warmup_steps is not None and section.warmup_fraction != Optim().warmup_fraction:
        raise ConfigError(
            f"optim.warmup_steps={section.warmup_steps}, optim.warmup_fraction={section.warmup_fraction:g}: both say how long the warm-up is. "
            f"Give optim.warmup_steps=null, or leave optim.warmup_fraction at {Optim().warmup_fraction:g}, where it is not read."
        )
    for key in ("milestones", "gamma"):
        value = getattr(section, key)
        if section.schedule is not Schedule.steps and value != getattr(Optim(), key):
            schedule = section.schedule.value
            raise ConfigError(f"optim.{key}={bounds.told(value)}: optim.schedule={schedule} does not read it. Choose optim.schedule=steps.")


def check_device_map(x: Experiment) -> None:
    """Check what `model.device_map` asks of the trainer."""
    against = {"trainer.devices": x.trainer.devices > 1, "trainer.accelerator": x.trainer.accelerator == "cpu"}
    for key, refused in against.items():
        if x.model.device_map is not None and refused:
            raise ConfigError(
                f"model.device_map={x.model.device_map}, {key}={bounds.value_of(x, key)}: it shares one model out among the GPUs of this "
                f"machine, layer by layer, for one process. Give {key}={bounds.default_of(key)}, or model.device_map=null."
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
    if section.batch_size % section.devices:
        raise ConfigError(
            f"trainer.devices={section.devices}: they share trainer.batch_size={section.batch_size} samples evenly, so it must "
            "divide that number."
        )


def check_race(x: Experiment) -> None:
    """Check what a race asks of its rule, and refuse what would let minival change weights or make arms' rungs differ."""
    if x.sweep.race is None:
        return
    rungs, pace = x.race.rungs, x.race.pace
    if any(first >= second for first, second in itertools.pairwise(rungs)) or len(pace) != len(rungs):
        raise ConfigError(
            f"race.rungs={bounds.told(rungs)}, race.pace={bounds.told(pace)}: rungs rise, and every rung has its pace, as in "
            "race.rungs=[0.25,0.5] race.pace=[0.6,0.2]."
        )
    refused = {
        "trainer.patience": (x.trainer.patience is not None, "it fits the end of training on minival, which then proves nothing", "null"),
        "trainer.restore_best": (x.trainer.restore_best, "it fits the weights on minival, which then proves nothing", "false"),
        "trainer.max_steps": (x.trainer.max_steps is None, "rungs are shares of it. Give it in place of trainer.max_epochs", None),
        "trainer.devices": (x.trainer.devices > 1, "the processes of an arm do not pause together", "1"),
        "trainer.if_unfinished": (x.trainer.if_unfinished is IfUnfinished.restart, "an arm that pauses must go on", "resume"),
        "trainer.if_finished": (x.trainer.if_finished is IfFinished.again, "what a race has decided stands", "reuse"),
        "sweep.replicates": (x.sweep.replicates > 1, "replicates are equal by construction, and the noise floor needs all of them", "1"),
    }
    for key, (given, why, remedy) in refused.items():
        if given:
            set_to = "." if remedy is None else f". Set {key}={remedy}, or sweep.race=null."
            value = bounds.value_of(x, key)
            spelled = bounds.told(value.value if isinstance(value, Enum) else value)
            raise ConfigError(f"{key}={spelled} beside sweep.race={x.sweep.race.value}: {why}{set_to}")


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
