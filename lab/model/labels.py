"""The labels that a checkpoint chooses among in place of writing, as a vocabulary in which every answer is one word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lab.errors import ConfigError
from lab.records import Answer, Text
from lab.statistics.text_scores import vqa_accuracy

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from lab.model.family import Family

IGNORED = -100
"""The label that takes no loss, as in torch.nn.functional.cross_entropy."""


def check(labels: Sequence[str], family: Family) -> None:
    """Raise a `ModelError` for labels of a family that has none, a `ConfigError` for fewer than two or one given twice."""
    family.require("labels")
    if len(labels) < 2 or len({label.lower() for label in labels}) < len(labels):
        raise ConfigError(f"model.labels={list(labels)}: give at least two, each once whatever its case.")


def relabelled(config: PretrainedConfig, labels: Sequence[str] | None) -> PretrainedConfig:
    """A checkpoint's config with these labels in place of its own; as it is without."""
    if labels is not None:
        config.id2label, config.label2id = dict(enumerate(labels)), {label: i for i, label in enumerate(labels)}
    return config


def emptied(model: Any, family: Family, info: Mapping[str, Any]) -> dict[str, Any]:
    """Make the layer of labels zero, so that it says nothing of new ones and is the same wherever it is loaded.

    info: Transformers' of loading the model, returned without what it says of that layer.
    """
    import torch

    layer = model.get_submodule(family.last)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
    own = {f"{family.last}.{name}" for name, _ in layer.named_parameters()}
    return {**info, "mismatched_keys": [found for found in info["mismatched_keys"] if found[0] not in own]}


class Labels:
    """`config.id2label`. An answer is a label that it equals, or equals in lower case."""

    def __init__(self, config: PretrainedConfig) -> None:
        names: dict[Any, str] = {**(config.id2label or {})}
        self.names = [names[i] for i in range(len(names))]

    @cached_property
    def places(self) -> dict[str, int]:
        """The first label of each spelling, an exact one before one in lower case."""
        backwards = list(enumerate(self.names))[::-1]
        return {name.lower(): i for i, name in backwards} | {name: i for i, name in backwards}

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """The label that a text is, as a tokenizer would give it; none of no label."""
        stripped = text.strip()
        found = next((self.places[each] for each in (stripped, stripped.lower()) if each in self.places), None)
        return [] if found is None else [found]

    def taught(self, answer: str) -> list[int]:
        """What is learned of an answer: its label, or that there is none."""
        return self.encode(answer) or [IGNORED]

    def shares(self, answer: Answer) -> tuple[tuple[int, float], ...]:
        """Labels among the references with the VQA accuracy that annotators' votes give each, above 0; spellings of one label are one."""
        if not isinstance(answer, Text) or not answer.votes:
            return ()
        places = [next(iter(self.encode(each)), IGNORED) for each in answer.references]
        names = list(map(str, places))
        found = {place: vqa_accuracy(str(place), names, answer.votes) for place in places if place != IGNORED}
        return tuple((place, share) for place, share in found.items() if share > 0)

    def decode(self, row: Sequence[int]) -> str:
        """The label in a row of one; empty where there is none."""
        return "".join(self.names[place] for place in map(int, row) if place != IGNORED)
