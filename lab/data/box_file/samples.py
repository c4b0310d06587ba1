"""From the pictures of a file of boxes to samples: looked at, in one frame, with their question, each in its part."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lab.config import DataDial, OnBad
from lab.data import images
from lab.data.box_file import telling
from lab.data.box_file.frames import frame_of, placed, resized
from lab.data.box_file.records import Boxed, Reading
from lab.data.faults import BadRecord, shown
from lab.data.question_file.parts import parts_of
from lab.data.sets.questions import Questions
from lab.data.splits import PARTS
from lab.data.tables import Tables
from lab.data.verified import Decoded
from lab.errors import ConfigError, DataError
from lab.records import Picture, Region, Regions, Sample

FIELDS = ("classes", "class")
"""What `data.question` may name: all classes in one question, or each in one of its own."""


def field_of(question: str) -> str | None:
    """What a question names, of `FIELDS`. Raises `ConfigError` for another field, or for several."""
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(question) if name is not None]
    except ValueError as error:
        raise ConfigError(f"data.question={question!r}: {error}. Write a literal brace as {{{{ or }}}}.") from None
    if len(fields) > 1 or not {*fields} <= {*FIELDS} or not question.strip():
        raise ConfigError(
            f"data.question={question!r}: its placeholders are {fields}; {{classes}} is legal, {{class}} for a question about each class, or none."
        )
    return fields[0] if fields else None


def samples_of(reading: Reading, dial: DataDial, cache_dir: Path, head: str, tables: Tables | None = None) -> Questions:
    """All of a file as samples. head: what it is, for the first note. Raises `ConfigError`, or `DataError` where no box is left."""
    field = field_of(str(dial.question))
    if dial.empty is not None and reading.says_reviewed:
        raise ConfigError(f"data.empty={dial.empty}: {head} says itself which pictures were looked at. Leave it out.")
    records, doubles = distinct(reading.records)
    outcomes = images.outcomes([record.picture for record in records], cache_dir, tables=tables)
    bad = [BadRecord(one.source, because(one, outcome)) for one in records if isinstance(outcome := outcomes[one.picture.source], str)]
    decoded = {source: outcome for source, outcome in outcomes.items() if not isinstance(outcome, str)}
    looked_at = [record for record in records if record.picture.source in decoded]
    labelled = [record for record in looked_at if record.boxes or (record.reviewed if dial.empty is None else dial.empty == "reviewed")]
    answers, wrong, notes = answers_of(labelled, decoded, dial, tables)
    divided = len({record.part for record in labelled}) > 1
    labelled = [record if divided else replace(record, part=None) for record in labelled if record.name in answers]
    if not any(answer.regions for answer in answers.values()):
        faults = [*reading.faults, *doubles, *bad, *wrong]
        why = f"bad records: {len(faults)}, the first: {faults[0]}" if faults else "none is in the file"
        raise DataError(f"data={dial.name}: no box is left; {why}.")
    parts, more, leak = parts_of(labelled, [[decoded[record.picture.source].pixels] for record in labelled], dial)
    labels = sorted({region.label for answer in answers.values() for region in answer.regions})
    made: dict[str, list[Sample]] = {part: [] for part in PARTS}
    for record, (part, cluster) in zip(labelled, parts, strict=True):
        made[part] += asked(record, answers[record.name], cluster, str(dial.question), labels if field == "class" else None, labels)
    found, unlabelled = list(answers.values()), len(looked_at) - len(labelled) - len(wrong)
    told = [
        telling.counts(found, unlabelled, head), *telling.empties(sum(not one.regions for one in found), unlabelled, reading, dial.empty),
        *telling.classes(found, reading, dial.aliases), *telling.sizes(found), *notes, *telling.remarks(reading),
    ]  # fmt: skip
    return Questions(made, [*reading.faults, *doubles, *bad, *wrong], [*(f"{dial.name}: {note}" for note in told), *more], leak, tables)


def distinct(records: Sequence[Boxed]) -> tuple[list[Boxed], list[BadRecord]]:
    """The records whose name no other has before them, and a fault for each of the others."""
    first: dict[str, Boxed] = {}
    faults = [
        BadRecord(one.source, f"{shown(one.name)} is given a second time; first in {first[one.name].source}")
        for one in records if first.setdefault(one.name, one) is not one
    ]  # fmt: skip
    return list(first.values()), faults


def because(record: Boxed, reason: str) -> str:
    """Why a record is bad whose picture is."""
    return reason if record.source == record.picture.source else f"{record.picture.source}: {reason}"


def answers_of(
    records: Sequence[Boxed], decoded: Mapping[str, Decoded], dial: DataDial, tables: Tables | None
) -> tuple[dict[str, Regions], list[BadRecord], list[str]]:
    """The boxes of each record by its name in pixels of the picture as it is shown, faults, and notes on frame and edges."""
    sizes = {record.picture.source: decoded[record.picture.source].size for record in records}
    read = (record.picture if tables is None else tables.fetch(record.picture) for record in records)
    orientations = {one.source: turn for one in read if isinstance(one, Picture) and (turn := images.orientation(one)) != 1}
    frame, notes = frame_of(records, sizes, orientations, dial.exif)
    notes += resized(records, sizes, orientations)
    answers: dict[str, Regions] = {}
    faults: list[BadRecord] = []
    cut = 0
    for record in records:
        size = sizes[record.picture.source]
        try:
            found = placed(record, size, orientations.get(record.picture.source, 1), frame, clamp=dial.on_bad is OnBad.skip)
        except BadRecord as fault:
            faults.append(fault)
            continue
        cut += found.cut
        labels = (dial.aliases.get(label, label) for label in record.labels)
        regions = (Region(label, *box) for label, box in zip(labels, found.boxes, strict=True))
        answers[record.name] = Regions(reading_order(regions), size)
    notes += [f"boxes that left their picture and are cut at its edge (data.on_bad=skip): {cut}."] if cut else []
    return answers, faults, notes


def reading_order(regions: Iterable[Region]) -> tuple[Region, ...]:
    """Boxes from the top, equally high ones from the left."""
    return tuple(sorted(regions, key=lambda region: (region.y0, region.x0)))


def asked(record: Boxed, answer: Regions, cluster: str, question: str, each: Sequence[str] | None, labels: Sequence[str]) -> list[Sample]:
    """The question about a picture; each: classes, of which every one is asked for by itself."""
    if each is None:
        return [Sample(record.name, question.format(classes=", ".join(labels)), (record.picture,), answer, cluster, record.name)]
    only = {label: tuple(region for region in answer.regions if region.label == label) for label in each}
    return [
        Sample(f"{record.name} {label}", question.format(**{"class": label}), (record.picture,), Regions(only[label], answer.size), cluster,
               f"{record.name} {label}", label)
        for label in each
    ]  # fmt: skip
