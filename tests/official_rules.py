"""The official scoring rules of NLVR and NLVR2, applied to answers or to our prediction tables.

    NLVR2   accuracy over examples; a consistency group is the identifier with its pair field blanked,
            `split-set--sentence` (lil-lab/nlvr, nlvr2/eval/metrics.py)
    NLVR    accuracy over images, six permutations of the boxes an example; a consistency group is the
            number before "-" of the identifier (lil-lab/nlvr, nlvr/metrics_images.py)

A group counts only if all of it is right. Labels are compared without case, and an answer that is neither
true nor false is wrong, never left out. Where the scripts would go on or abort with a list (predictions
that are missing, or that nobody asked for), these functions refuse. Both rules keep the split in a group's
name, so that pooled splits do not share groups.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.answers.predictions import PredictionTable
from lab.data.files import read_text
from lab.errors import DataError, LabError, did_you_mean

PERMUTATIONS = 6
_NLVR2 = re.compile(r"(?P<split>[^-]+)-(?P<set>\d+)-(?P<pair>\d+)-(?P<sentence>\d+)")
_NLVR = re.compile(r"(?P<example>(?P<group>[^-]+-\d+)-\d+)-(?P<k>[0-5])")


@dataclass(frozen=True)
class OfficialScore:
    """accuracy: the official "precision"; num_scored: examples (NLVR2) or images (NLVR)."""

    accuracy: float
    consistency: float
    num_scored: int
    num_groups: int


def nlvr2(labels: Mapping[str, str], answers: Mapping[str, str]) -> OfficialScore:
    """Score answers by identifier, `dev-850-0-0`, against labels by identifier."""
    group = {name: _nlvr2_group(name) for name in labels}
    return _score(labels, answers, group, "NLVR2")


def nlvr(labels: Mapping[str, str], answers: Mapping[str, str]) -> OfficialScore:
    """Score answers by image, `dev-1373-0-5` (`.png` allowed), against labels by example, `dev-1373-0`."""
    wanted, group = {}, {}
    for example, label in labels.items():
        for k in range(PERMUTATIONS):
            name = f"{example}-{k}"
            wanted[name] = label
            group[name] = _nlvr_match(name)["group"]
    given = {name.removesuffix(".png"): answer for name, answer in answers.items()}
    if len(given) != len(answers):
        raise DataError(f"NLVR: {len(answers) - len(given)} images are answered twice, with and without .png.")
    return _score(wanted, given, group, "NLVR")


def score(dataset: str, table: PredictionTable, labels: Mapping[str, str] | None = None) -> OfficialScore:
    """Score a predictions table by the rule of `dataset` (nlvr or nlvr2).

    labels: the official annotations (`nlvr_labels`, `nlvr2_labels`), against which missing and extra
    predictions are refused. None: the table's own labels; for NLVR every example needs its six images.
    """
    if dataset not in RULES:
        legal = ", ".join(RULES)
        raise LabError(f"dataset={dataset!r}: official rules are here for {legal}.{did_you_mean(dataset, RULES)}")
    return RULES[dataset](_own_labels(dataset, table) if labels is None else labels, answers_of(table))


def answers_of(table: PredictionTable) -> dict[str, str]:
    """The recorded predictions as the official files have them, by sample id."""
    return dict(zip(table.sample_id.tolist(), (str(value == 0) for value in table.prediction), strict=True))


def nlvr2_labels(path: str | os.PathLike) -> dict[str, str]:
    """Read the labels of an NLVR2 annotation file (JSON-lines)."""
    return _labels(path, "")


def nlvr_labels(path: str | os.PathLike, split: str) -> dict[str, str]:
    """Read the labels of an NLVR annotation file (JSON-lines); `split` is the first word of its image names."""
    return _labels(path, f"{split}-")


def _labels(path: str | os.PathLike, prefix: str) -> dict[str, str]:
    labels: dict[str, str] = {}
    try:
        lines = read_text(Path(path)).split("\n")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: it cannot be read as UTF-8 text ({error}).") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            name, label = prefix + row["identifier"], row["label"]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataError(f"{path}:{number}: not an annotated example with identifier and label ({error!r}).") from error
        if name in labels:
            raise DataError(f"{path}:{number}: {name!r} occurs a second time.")
        labels[name] = label
    return labels


def _own_labels(dataset: str, table: PredictionTable) -> dict[str, str]:
    by_sample = dict(zip(table.sample_id.tolist(), (str(bool(value)) for value in table.label), strict=True))
    if dataset == "nlvr2":
        return by_sample
    labels: dict[str, str] = {}
    for name, label in by_sample.items():
        example = _nlvr_match(name)["example"]
        if labels.setdefault(example, label) != label:
            raise DataError(f"NLVR: the images of {example!r} carry different labels; they show one example.")
    return labels


def _nlvr2_group(name: str) -> str:
    match = _NLVR2.fullmatch(name)
    if match is None:
        raise DataError(f"NLVR2: identifier {name!r} is not of the form split-set-pair-sentence, such as dev-850-0-0.")
    return f"{match['split']}-{match['set']}--{match['sentence']}"


def _nlvr_match(name: str) -> re.Match[str]:
    match = _NLVR.fullmatch(name)
    if match is None:
        raise DataError(f"NLVR: image {name!r} is not of the form split-n-m-k with k from 0 to 5, such as dev-1373-0-5.")
    return match


def _score(
    labels: Mapping[str, str], answers: Mapping[str, str], group: Mapping[str, str], dataset: str
) -> OfficialScore:
    _same_items(labels, answers, dataset)
    if not labels:
        raise DataError(f"{dataset}: no labelled examples; there is nothing to score.")
    all_right: dict[str, bool] = {}
    num_right = 0
    for name, label in labels.items():
        truth = str(label).strip().lower()
        if truth not in ("true", "false"):
            raise DataError(f"{dataset}: label {label!r} of {name!r}; legal are true and false, in any case.")
        right = str(answers[name]).strip().lower() == truth
        num_right += right
        all_right[group[name]] = all_right.get(group[name], True) and right
    num_groups = len(all_right)
    return OfficialScore(num_right / len(labels), sum(all_right.values()) / num_groups, len(labels), num_groups)


def _same_items(labels: Iterable[str], answers: Iterable[str], dataset: str) -> None:
    wanted, given = set(labels), set(answers)
    missing, extra = sorted(wanted - given), sorted(given - wanted)
    if missing or extra:
        named = ", ".join(f"{what} {names[0]!r}" for what, names in (("missing", missing), ("extra", extra)) if names)
        raise DataError(
            f"{dataset}: {len(missing)} predictions are missing and {len(extra)} belong to no labelled example "
            f"(first: {named}); the official rule scores {len(wanted)} items, each exactly once."
        )


RULES = {"nlvr2": nlvr2, "nlvr": nlvr}
