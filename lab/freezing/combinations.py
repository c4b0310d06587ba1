"""What values of an experiment mean to each other. Light."""

from __future__ import annotations

import itertools
from enum import Enum

from lab import bounds, services
from lab.config import ENDPOINT, Experiment, IfFinished, IfUnfinished, LoraDial, Optim, Schedule, TrainerSection, adds_modules, trains
from lab.errors import ConfigError

OWNERS = {
    "vision_tokens": {"rule": "prune", "width": "resampler", "heads": "resampler"},
    "conditioning": dict.fromkeys(("every", "layers", "parallel", "keep_prefix", "width", "heads"), "cross_attention"),
}
"""Keys of a dial that mean something for one of its options only."""


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
            raise ConfigError(f"evaluation.{key}={bounds.spelled(values)}: {first} is always asked; add it{' first' if key == 'ask' else ''}.")
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
            raise ConfigError(f"optim.{key}={bounds.spelled(value)}: optim.schedule={schedule} does not read it. Choose optim.schedule=steps.")


def check_device_map(x: Experiment) -> None:
    """Check what `model.device_map` asks of the trainer."""
    against = {"trainer.devices": x.trainer.devices > 1, "trainer.accelerator": x.trainer.accelerator == "cpu"}
    for key, refused in against.items():
        if x.model.device_map is not None and refused:
            raise ConfigError(
                f"model.device_map={x.model.device_map}, {key}={bounds.value_of(x, key)}: it shares one model out among the GPUs of this "
                f"machine, layer by layer, for one process. Give {key}={bounds.default_of(key)}, or model.device_map=null."
            )


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
            f"race.rungs={bounds.spelled(rungs)}, race.pace={bounds.spelled(pace)}: rungs rise, and every rung has its pace, as in "
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
            spelled = bounds.spelled(value.value if isinstance(value, Enum) else value)
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
