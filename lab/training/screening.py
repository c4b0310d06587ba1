"""Records that a checkpoint cannot take: met before anything trains, all of them together, and settled by `data.on_bad`.

Reading a data set finds what is wrong whatever the model; here it is what one encoding cannot take: an image too long and thin
for its processor or its token budget, a text with the tokenizer's special tokens in it or without end, a sample of train that is longer than
`data.max_length`. Whether a record is bad
depends on the experiment's own checkpoint, prompt and dials alone, never on the arms beside it, so that an arm is the same alone.
"""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from lab.config import DataDial, OnBad
from lab.data.faults import BadRecord, raise_or_skip
from lab.errors import DataError
from lab.model import clips
from lab.model.encoding import Encoder
from lab.records import Sample, Source, Split, Splits
from lab.training.examples import Examples
from lab.training.mixed import joined
from lab.training.ordering import realised

log = logging.getLogger(__name__)

PURPOSES = {"train": "to learn from", "dev": "to report on"}
"""Splits that must not become empty."""


class Kept:
    """Some rows of a split, in their order."""

    def __init__(self, split: Split, rows: Sequence[int]) -> None:
        self.split, self.rows = split, tuple(rows)
        self.sample_ids = tuple(split.sample_ids[row] for row in self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        return self.split[self.rows[index]]

    def index(self, index: int) -> Sample:
        return self.split.index(self.rows[index])


def screen(splits: Splits, parts: Sequence[str], encoder: Encoder, dial: DataDial) -> tuple[Splits, dict[str, Examples]]:
    """Leave out what the encoder refuses of the named splits; return what is left, and the examples of these splits.

    Raises one `DataError` over all of them under `data.on_bad=fail`, or if nothing is left of train or dev.
    """
    if splits.parts:
        return screen_parts(splits, parts, encoder)
    limits = {"train": dial.max_length}
    made = examples_of(splits, parts, encoder, dial)
    refused = {part: faults for part, examples in made.items() if (faults := examples.unfit(part == "train", limits.get(part)))}
    if dial.on_bad is OnBad.skip:  # of a split too large to look at all of it, what was looked at says that it must be
        refused |= {part: made[part].unfit(part == "train", limits.get(part), every=True) for part in refused if made[part].many}
    if told := encoder.coverage([splits.dev.index(i) for i in range(len(splits.dev))]):
        log.info("data=%s: %s", dial.name, told)
        splits = replace(splits, notes=(*splits.notes, told))
    if cut := [lost for examples in made.values() for lost in examples.cut.values()]:
        told = f"data.max_length={dial.max_length}: {len(cut):,} conversations lose their last turns, {sum(cut):,} answers in all"
        log.warning("data=%s: %s", dial.name, told)
        splits = replace(splits, notes=(*splits.notes, told))
    if not refused:
        return mixed(told_of_clips(splits, parts, encoder, dial)), made
    if dial.on_bad is OnBad.fail:
        raise_or_skip([fault for faults in refused.values() for fault in faults.values()], dial.on_bad)
    lost: list[BadRecord] = []
    kept: dict[str, Any] = {}
    for part, faults in refused.items():
        split = getattr(splits, part)
        dropped = along(split, faults) if splits.together else faults
        names = split.sample_ids
        lost += [BadRecord(fault.source, f"{fault.reason}; {part} sample {names[i]} is left out") for i, fault in dropped.items()]
        rows = [i for i in range(len(split)) if i not in dropped]
        kept[part] = split.kept(rows) if made[part].many else Kept(split, rows)
        if part == "train":
            splits = replace(splits, sources=tuple(remaining(splits.sources, rows)))
        made[part] = Examples(kept[part], encoder, splits.sources if part == "train" else (), limits.get(part))
        if not kept[part] and part in PURPOSES:
            what = f"nothing is left {PURPOSES[part]} in the {part} split"
            raise DataError(f"data={dial.name}: {what}; bad records: {len(lost)}, the first: {lost[0]}.")
    log.warning("data=%s: %d records that this checkpoint cannot take are left out (data.on_bad=skip)", dial.name, len(lost))
    splits = replace(splits, **kept, skipped=(*splits.skipped, *raise_or_skip(lost, OnBad.skip)))
    return mixed(told_of_clips(splits, parts, encoder, dial)), made


def told_of_clips(splits: Splits, parts: Sequence[str], encoder: Encoder, dial: DataDial) -> Splits:
    """The splits with what is to be told of the clips in some of them."""
    if not splits.clips or encoder.clips is None:
        return splits
    told = clips.remarks(clips.clips_of(getattr(splits, part) for part in parts), encoder.clips, encoder.processor, encoder.config)
    for sentence in told:
        log.warning("data=%s: %s", dial.name, sentence)
    return replace(splits, notes=(*splits.notes, *told))


def mixed(splits: Splits) -> Splits:
    """The splits with what is seen of each of several sources among their notes."""
    if len(splits.sources) < 2 and not any(source.epochs for source in splits.sources):
        return splits
    found = [
        f"source {one.name}: {one.rows:,} samples are {one.share:.1%} of what is learned from, each seen {one.times:.2f} times an epoch"
        for one in realised(splits.sources)
    ]
    for note in found:
        log.info("data: %s", note)
    return replace(splits, notes=(*splits.notes, *found))


def examples_of(splits: Splits, parts: Sequence[str], encoder: Encoder, dial: DataDial) -> dict[str, Examples]:
    """The examples of some splits, nothing of them looked at; of a mixture as `joined` has them. encoder: of its first part."""
    if splits.parts:
        made = [examples_of(part.splits, parts, own, part.dial) for part, own in zip(splits.parts, encoders_of(splits, encoder), strict=True)]
        return joined(splits.parts, made)
    made = {part: Examples(getattr(splits, part), encoder) for part in parts if part != "train"}
    train = {"train": Examples(splits.train, encoder, splits.sources, dial.max_length)} if "train" in parts else {}
    return {part: (train | made)[part] for part in parts}


def encoders_of(splits: Splits, encoder: Encoder) -> list[Encoder]:
    """That of the first part of a mixture, and those of the others beside it."""
    return [encoder, *(encoder.of_data(part.dial, part.splits.answers, part.prompt) for part in splits.parts[1:])]


def screen_parts(splits: Splits, parts: Sequence[str], encoder: Encoder) -> tuple[Splits, dict[str, Examples]]:
    """`screen` of a mixture: each part by its own dial, encoded as its own questions are."""
    screened = [screen(part.splits, parts, own, part.dial) for part, own in zip(splits.parts, encoders_of(splits, encoder), strict=True)]
    kept = tuple(replace(part, splits=left) for part, (left, _) in zip(splits.parts, screened, strict=True))
    made, first = joined(kept, [examples for _, examples in screened]), kept[0].splits
    notes = [f"{new.name}: {note}" for old, new in zip(splits.parts, kept, strict=True) for note in new.splits.notes[len(old.splits.notes) :]]
    sources = made["train"].sources if "train" in made else ()
    train = made["train"].split if "train" in made else splits.train
    skipped = tuple(record for part in kept for record in part.splits.skipped)
    left = replace(splits, train=train, minival=first.minival, dev=first.dev, skipped=skipped, sources=sources, parts=kept)
    return mixed(replace(left, notes=(*splits.notes, *notes))), made


def remaining(sources: Sequence[Source], rows: Sequence[int]) -> Iterator[Source]:
    """The sources with as many rows as are left of each."""
    first = 0
    for source in sources:
        yield replace(source, size=bisect_left(rows, first + source.size) - bisect_left(rows, first))
        first += source.size


def along(split: Split, faults: dict[int, BadRecord]) -> dict[int, BadRecord]:
    """All samples of the image sets that have a bad one, with its fault."""
    sets = {split.index(i).image_set: fault for i, fault in reversed(faults.items())}
    return {i: sets[name] for i in range(len(split)) if (name := split.index(i).image_set) in sets}
