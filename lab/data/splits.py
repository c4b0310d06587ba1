"""From checked records to `Splits`: a stable choice of how many, every image verified, bad ones settled together."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lab.config import DataDial, OnBad
from lab.data import images
from lab.data.faults import BadRecord, raise_or_skip
from lab.data.question_only import NAME, question_only
from lab.errors import ConfigError, DataError, did_you_mean
from lab.records import AnswerSpace, Clip, Footage, Medium, Regions, Sample, Splits

log = logging.getLogger(__name__)

T = TypeVar("T")

PARTS = ("train", "minival", "dev")
ALL_READ = (
    "name", "seed", "num_train", "num_minival", "num_dev", "on_bad", "rule", "max_length", "order", "questions_per_image", "augment", "video",
)  # fmt: skip
"""Keys of the dial that every data set reads."""


class Records:
    """A `Split` of samples in memory; images are read when they are decoded, or fetched from `tables` by row.

    absent: why there is nothing here (an empty train split is legal: it is asked for only by training).
    """

    def __init__(self, samples: Sequence[Sample], absent: str = "", tables: images.Tables | None = None) -> None:
        self._samples = tuple(samples)
        self._tables = tables
        self.absent = absent
        self.sample_ids = tuple(sample.sample_id for sample in self._samples)

    def __len__(self) -> int:
        return len(self._samples)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def index(self, index: int) -> Sample:
        if not self._samples and self.absent:
            raise DataError(self.absent)
        return self._samples[index]

    def __getitem__(self, index: int) -> Sample:
        sample = self.index(index)
        if self._tables is None:
            return sample
        return dataclasses.replace(sample, images=tuple(map(self._tables.fetch, sample.images)))


def reject_unused_fields(dial: DataDial, *fields: str) -> None:
    """Refuse every optional field of the dial that the data set does not read: it would be ignored in silence."""
    unset = DataDial()
    for key, value in vars(dial).items():
        if key not in (*ALL_READ, *fields) and value and value != getattr(unset, key):
            others = f"`lab train --help data.{key}` names the options that do"
            raise ConfigError(f"data.{key}={value}: data={dial.name} does not read it. Leave it out; {others}.")


def one_of(key: str, given: str, legal: Sequence[str]) -> str:
    """Return a value of the dial that must be one of a few words."""
    if given not in legal:
        hint = did_you_mean(given, legal)
        raise ConfigError(f"data.{key}={given}: legal values are {', '.join(legal)}.{hint}")
    return given


def choose(records: Sequence[T], number: int | None, key: str, seed: int, cluster: Callable[[T], str]) -> list[T]:
    """Take `number` records in whole clusters (the last may be cut), in their own order; None takes all.

    Clusters come in the order of SHA-256(seed/cluster): a smaller choice is part of a larger one, and a record that is
    left out elsewhere moves no other.
    """
    if number is None:
        return list(records)
    if not 0 <= number <= len(records):
        most = len(records)
        raise ConfigError(f"data.{key}={number}: there are {most} questions; legal: 0 to {most}, or null.")
    draws = {name: hashlib.sha256(f"{seed}/{name}".encode()).digest() for name in dict.fromkeys(map(cluster, records))}
    order = sorted(range(len(records)), key=lambda at: (draws[cluster(records[at])], at))
    return [records[at] for at in sorted(order[:number])]


def choose_parts(parts: Mapping[str, Sequence[Sample]], dial: DataDial) -> dict[str, list[Sample]]:
    """`choose` of every part as many as the dial wants, in whole image sets."""
    return {
        part: choose(parts[part], getattr(dial, f"num_{part}"), f"num_{part}", dial.seed, lambda sample: sample.image_set) for part in PARTS
    }


def finish(
    parts: Mapping[str, Sequence[Sample]],
    faults: Sequence[BadRecord],
    dial: DataDial,
    cache_dir: Path,
    notes: Sequence[str],
    absent: str = "",
    tables: images.Tables | None = None,
    together: bool = False,
) -> Splits:
    """Verify every image of the chosen samples, settle all faults by `data.on_bad`, and make the splits.

    absent: the sentence for whoever asks for a split that is empty. together: an image set is left out as a whole.
    """
    pictures = [picture for part in PARTS for sample in parts[part] for picture in sample.images]
    outcomes = images.outcomes(pictures, cache_dir, tables=tables)
    bad = {picture: reason for picture in pictures if (reason := images.why_bad(picture, outcomes[picture.source]))}
    sizes = {each.size: each.size for each in outcomes.values() if not isinstance(each, str)}  # one object a size, however many images
    clips = any(isinstance(each, Clip) for each in pictures)
    if dial.on_bad is OnBad.fail:
        raise_or_skip([*faults, *(BadRecord(picture.source, reason) for picture, reason in bad.items())], dial.on_bad)
    kept: dict[str, list[Sample]] = {part: [] for part in PARTS}
    lost = list(faults)
    for part in PARTS:
        culprits: dict[str, Medium] = {}
        for sample in parts[part]:
            for picture in sample.images:
                if picture in bad:
                    culprits.setdefault(sample.image_set if together else sample.sample_id, picture)
        for sample in parts[part]:
            culprit = culprits.get(sample.image_set if together else sample.sample_id)
            if culprit is None:
                kept[part].append(sized(sample, outcomes, sizes))
            else:
                lost.append(BadRecord(culprit.source, f"{bad[culprit]}; {part} sample {sample.sample_id} is left out"))
    if not kept["dev"]:
        counts = f"bad records: {len(lost)}, the first: {lost[0]}" if lost else "data.num_dev is 0"
        raise DataError(f"data={dial.name}: nothing is left to report on in the dev split; {counts}.")
    skipped = raise_or_skip(lost, OnBad.skip)
    if skipped:
        log.warning("data=%s: left out under data.on_bad=skip: %d", dial.name, len(skipped))
    reasons = {part: why_empty(part, parts, kept, faults, lost) or absent for part in PARTS}
    splits = {part: Records(kept[part], reasons[part], tables) for part in PARTS}
    answers = AnswerSpace.of((sample.answer for part in PARTS for sample in kept[part]), dial.aliases)
    share = None if answers.kind == Regions.kind else question_only(splits["train"], splits["dev"])
    baselines = {} if share is None else {NAME: share}
    named = (splits["train"], splits["minival"], splits["dev"])
    return Splits(*named, skipped, tuple(notes), together, answers, baselines, clips)


def sized(sample: Sample, outcomes: Mapping[str, Any], sizes: Mapping[tuple[int, int], tuple[int, int]]) -> Sample:
    """The sample with the sizes of its images, as they were found, and what its clips hold."""
    return dataclasses.replace(sample, images=tuple(measured(each, outcomes[each.source], sizes) for each in sample.images))


def measured(medium: Medium, outcome: images.Decoded, sizes: Mapping[tuple[int, int], tuple[int, int]]) -> Medium:
    """A picture with its size, or a clip with what it holds."""
    size = sizes[outcome.size]
    if isinstance(medium, Clip):
        return dataclasses.replace(medium, footage=Footage(outcome.frames, outcome.fps, size))
    return dataclasses.replace(medium, size=size)


def why_empty(
    part: str,
    parts: Mapping[str, Sequence[Sample]],
    kept: Mapping[str, Sequence[Sample]],
    faults: Sequence[BadRecord],
    lost: Sequence[BadRecord],
) -> str:
    """Why a part has no samples, where bad records or images are the reason; else an empty string."""
    if kept[part] or not lost:
        return ""
    if parts[part]:
        first = next(fault for fault in lost if f"{part} sample " in fault.reason)
        return f"all {len(parts[part])} samples of {part} were skipped (data.on_bad=skip), for an image of each; the first: {first}."
    file = "train" if part == "minival" else part  # minival is taken out of train where a data set has none
    read = [fault for fault in faults if file in Path(fault.source.partition(":")[0]).name]
    if read:
        return f"all {len(read)} records of {part} were skipped (data.on_bad=skip); the first: {read[0]}."
    return ""


def recurring(parts: Mapping[str, Sequence[T]], of: Callable[[T], Sequence[str]]) -> int:
    """Count the strings (sentences, addresses) that stand in more than one part."""
    seen = [{text for record in records for text in of(record)} for records in parts.values()]
    return len({text for at, here in enumerate(seen) for there in seen[at + 1 :] for text in here & there})
