"""The name of a run by what it trains (`identity`), and what is measured of it (`asked`)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from lab.config import evaluation
from lab.config.experiment import Experiment
from lab.config.roles import ONLY_WHEN_SET, TRAINED, role
from lab.config.values import as_dict, flat
from lab.host.files import values_hash


def identity_values(values: dict[str, Any]) -> dict[str, Any]:
    """What made a run's weights, of a config: flat keys; `lora.r` is None where it follows from `lora.trainable_parameters`."""
    unset = flat(as_dict(Experiment()))
    kept = {
        key: value for key, value in flat(values).items()
        if role(key) == TRAINED and (key not in ONLY_WHEN_SET or (value and value != unset[key]))
    }  # fmt: skip
    if "data.order" not in kept:
        kept.pop("data.questions_per_image", None)  # a random order has no blocks
    kept |= {"model.start": Path(kept["model.start"]).name} if "model.start" in kept else {}  # wherever its folder lies
    return kept | ({} if kept.get("lora.trainable_parameters") is None else {"lora.r": None})


def identity(x: Experiment) -> str:
    """Ten hexadecimal digits that name a run: the hash of its `identity_values`.

    Two spellings of one experiment (overrides in another order, a default written out) have one identity.
    """
    return values_hash(identity_values(as_dict(x)), 10)


def asked(x: Experiment) -> dict[str, str]:
    """What is measured of a run: each thing by name, with a digest of the other keys that its answers depend on.

    post: how written answers are read, which takes no model.
    """
    section = x.evaluation
    of_dev = ("dev", *(f"dev_{control}" for control in section.controls), *section.ask[1:], *(["swap"] if section.swap else []))
    explicit = ["explicit"] if section.max_new_tokens == evaluation.MOST_TOKENS["text"] else []  # which is the default of text, and of no other kind
    keys = [section.shared_prefix, section.most_tokens("text"), *explicit, *(["repair"] if section.repair else [])]
    things: dict[str, list[Any]] = dict.fromkeys(section.splits, keys)
    things |= dict.fromkeys((f"also {option}" for option in section.also), [*keys, *section.ask[1:]])
    things |= dict.fromkeys((f"part {option}" for option in x.data.parts[1:]), [*keys, section.splits])
    things |= dict.fromkeys(of_dev, [*keys, x.data.num_dev, x.data.rule]) | {"post": [x.prompt.post]}
    return {name: values_hash(keys, 10) for name, keys in things.items()}


def also_asked(x: Experiment, earlier: dict[str, Any]) -> Experiment:
    """The experiment with what was asked before of the same run (`as_dict` of it) asked too."""
    section, before = x.evaluation, earlier["evaluation"]
    lists = {key: list(dict.fromkeys([*before[key], *getattr(section, key)])) for key in ("ask", "splits", "controls")}
    now = {name_of_option(option) for option in section.also}
    lists["also"] = [*(option for option in before["also"] if name_of_option(option) not in now), *section.also]
    switches = {"swap": section.swap or before["swap"], "zero_shot": section.zero_shot or before.get("zero_shot")}
    return dataclasses.replace(x, evaluation=dataclasses.replace(section, **lists, **switches))


def name_of_option(spelled: str) -> str:
    """What the predictions of a data option are called: `as`, or its first word."""
    words = spelled.split()
    return next((word.removeprefix("as=") for word in words if word.startswith("as=")), words[0] if words else "")
