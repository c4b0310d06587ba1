"""Arms that are one experiment under several names: other keys; the same base, inputs, adapters and steps (`lab.run.realised`).

A difference between them could only be the machine's, so they are told before they train and are not compared afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab import config
from lab.config import flat

UNSAID = ("tracking", "sweep")
"""Sections that never reach a model."""


@dataclass(frozen=True)
class Realised:
    """An arm's label, its config, nested, and what a run records under `realised`; None: not known."""

    label: str
    config: Mapping[str, Any]
    facts: Mapping[str, Any] | None

    @property
    def parts(self) -> tuple[tuple[str, str], ...] | None:
        """Its digests, which are equal for arms that are alike."""
        return None if self.facts is None else tuple(sorted(self.facts["parts"].items()))


def alike(arms: Sequence[Realised]) -> list[list[Realised]]:
    """Groups of two or more arms that are one experiment, in the order of the arms."""
    groups: dict[tuple[tuple[str, str], ...], list[Realised]] = {}
    for arm in arms:
        if arm.parts is not None:
            groups.setdefault(arm.parts, []).append(arm)
    return [members for members in groups.values() if len(members) > 1]


def describe(members: Sequence[Realised]) -> str:
    """One line: which arms, which keys differ, and why that makes no difference."""
    named = "; ".join(arm.label for arm in members)
    reasons: dict[str, list[str]] = {}
    for key in differing(members):
        reasons.setdefault(why(key.partition(".")[0], members[0]), []).append(key)
    said = "; ".join(f"{' and '.join(keys)}: {reason}" for reason, keys in reasons.items())
    return f"One experiment under {len(members)} names ({named}): the same reaches the model. {said}."


def differing(members: Sequence[Realised]) -> list[str]:
    """Keys that the arms give other values. Where they chose other options of a dial, the dial: its keys come with the option."""
    changed = [key for key in config.differing([flat(dict(arm.config)) for arm in members]) if key.partition(".")[0] not in UNSAID]
    dials = {key.removesuffix(".name") for key in changed if key.endswith(".name")}
    return list(dict.fromkeys(key.partition(".")[0] if key.partition(".")[0] in dials else key for key in changed))


def why(section: str, arm: Realised) -> str:
    """Why another value of a section's keys made no difference to these arms."""
    facts, trainer = arm.facts or {}, arm.config["trainer"]
    idle = not trainer.get("max_steps") and not trainer.get("max_epochs")
    match section:
        case "vision_tokens" if facts.get("untouched"):
            return f"every image of these data has at most {facts['image_tokens']} tokens, and no arm makes it fewer"
        case "vision_tokens":
            return "every image is made the same tokens"
        case "prompt":
            return "every prompt is the same, token for token"
        case "model":
            return "the weights are the same, byte for byte"
        case "data":
            return "the samples are the same"
        case "lora" | "optim" | "trainer" if idle:
            return "no step is taken, and a fresh adapter computes nothing"
        case "lora":
            return "the same layers get the same adapters"
        case "optim":
            return "every step has the same learning rates"
        case "trainer":
            return "the same steps are taken"
        case "seed":
            return "nothing is drawn from it"
        case _:
            return "they come to the same"
