"""Asking a model the questions of a split, in a way that their kind of answer allows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lab.config import EvaluationSection
from lab.errors import ConfigError
from lab.evaluation import generation, locating, scoring, writing
from lab.evaluation.parts import Part
from lab.host.progress import Report, silent
from lab.model import Vlm
from lab.model.answers import AnyReadout
from lab.model.family import Family
from lab.records import Choice, Regions, Text
from lab.training.examples import Examples

WAYS: dict[str, dict[str, Callable[..., list[Any]]]] = {
    Choice.kind: {"score": scoring.score, "generate": generation.generate},
    Text.kind: {"write": writing.answer},
    Regions.kind: {"locate": locating.answer},
}
"""By kind of answer. The first way gives the `Prediction`s that a table holds, any other what it is compared with."""


WRITTEN_IN = {Text.kind: "words", Regions.kind: "boxes"}


def check(kind: str, data: str, family: Family, section: EvaluationSection) -> None:
    """Say what cannot be asked of a family, or of answers of a kind. data: the name of the data set.

    Raises `ModelError` where the family cannot give such answers, `ConfigError` for a key that such answers do not have.
    """
    family.require(f"answers={kind}", f"data={data}")
    if section.repair and kind != Regions.kind:
        raise ConfigError(f"evaluation.repair=true: data={data} is not answered in boxes, and nothing else is mended. Leave it out.")
    if kind == Choice.kind:
        return
    refused = {
        "evaluation.ask=[score,generate]": ("generate" in section.ask, "such answers are generated already"),
        "evaluation.swap=true": (section.swap, "only answers to choose from are compared after the images are swapped"),
    }
    for key, (given, why) in refused.items():
        if given:
            raise ConfigError(f"{key}: data={data} is answered in {WRITTEN_IN[kind]}, and {why}. Leave it out.")


def ask(
    vlm: Vlm, examples: Examples, readout: AnyReadout, section: EvaluationSection, split: str, report: Report = silent,
    way: str | None = None, part: Part = None,
) -> list[Any]:
    """What the model answers to every example of a split, in file order; way: None for the kind's first.

    part: where the kind's first way keeps answers until there are all (`lab.evaluation.parts`).
    """
    ways = WAYS[readout.kind]
    if way is not None and way not in ways:
        raise ConfigError(f"evaluation.ask=[{way}]: a {readout.kind} can be asked by {', '.join(ways)}.")
    more = {"part": part} if way is None else {}
    return ways[way or next(iter(ways))](vlm, examples, readout, section, split, report, **more)
