"""`data=questions data.path=FILE`: questions of one's own about one's own pictures; FILE is what `lab.data.records_file` reads.

Columns (yours have other names: `data.columns.question=Frage`); others are told and not read:

    image       path of the picture, beside the file or below `data.root`; `images`: several, as a list or as `a.png|b.png`
    question    what is asked
    answer      the right answer; `answers`: several references, any of which counts; if a row names one twice, all are votes
    id          unique; without it the row's place in the file
    group       what intervals resample and a drawn split keeps together; without it the questions that share a picture
    subset      a part worth a row of its own
    split       train, minival (validation) or dev (test)
    choices     the options to choose from, as a list or as `a|b|c`; `data.answer_format`: how the answer names its own

The questions of a file with `choices`, or with only two distinct answers, are a `Choice`; else, or with `data.kind=text`, a `Text`.
Without `split` a tenth of the pictures, told apart by their pixels, is drawn for dev and one for minival. Pictures that a given
split has in several parts are refused unless `data.allow_shared_images=true`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import paths
from lab.config import DataDial
from lab.data import images, manifest, records_file
from lab.data.faults import BadRecord, shown
from lab.data.manifest import Row
from lab.data.records_file import RecordsFile
from lab.data.splits import PARTS, choose_parts, finish, reject_unused_fields
from lab.data.tables import Tables
from lab.errors import ConfigError, DataError, did_you_mean
from lab.host.files import file_hash
from lab.records import Answer, Choice, Picture, Sample, Splits, Text

COLUMNS = ("image", "images", "question", "answer", "answers", "id", "group", "subset", "split", "choices")
PART_OF = {
    "train": "train", "training": "train", "minival": "minival", "val": "minival", "valid": "minival", "validation": "minival",
    "dev": "dev", "test": "dev", "testing": "dev",
}  # fmt: skip
SHARES = {"dev": 0.1, "minival": 0.1, "train": 0.8}
FORMATS = ("text", "letter", "index0", "index1")
"""How an answer names one of its choices: in full, by A, B, ..., or by its number from 0 or from 1."""


@dataclass(frozen=True)
class Record:
    """One row. part: of a given split, or None. choices: () where there are none."""

    source: str
    name: str
    question: str
    pictures: tuple[Picture, ...]
    answers: tuple[str, ...]
    choices: tuple[str, ...]
    group: str | None
    subset: str | None
    part: str | None


@dataclass(frozen=True)
class Questions:
    """A whole file. leak: a sentence about pictures that a given split has in several parts; empty where there is none."""

    parts: dict[str, list[Sample]]
    faults: list[BadRecord]
    notes: list[str]
    leak: str
    tables: Tables | None


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Read the file that `data.path` names. Raises `ConfigError`, or `DataError` by `data.on_bad`."""
    questions = read(dial, cache_dir)
    if questions.leak and not dial.allow_shared_images:
        raise DataError(questions.leak)
    absent = f"{dial.path} has no question for it."
    return finish(choose_parts(questions.parts, dial), questions.faults, dial, cache_dir, questions.notes, absent, questions.tables)


def read(dial: DataDial, cache_dir: Path) -> Questions:
    """Every question of the file with its picture, answer and part. Raises `ConfigError`, or `DataError` for the file as a whole."""
    reject_unused_fields(dial, "root", "path", "sha256", "columns", "kind", "answer_format", "allow_shared_images")
    assert dial.path is not None  # conf/data/questions.yaml wants one
    if dial.sha256 is not None and Path(dial.path).is_file() and (now := file_hash(dial.path)) != dial.sha256:
        raise DataError(
            f"data.path={dial.path}: the file has changed: its SHA-256 is {now[:12]}..., data.sha256 {dial.sha256[:12]}.... Put the file back, "
            "or give data.sha256=null to read it as it is."
        )
    names = {column: dial.columns.get(column, column) for column in COLUMNS}
    file = records_file.read(dial.path, (names["image"], names["images"]), cache_dir)
    check_columns(file, names, dial)
    records, faults = records_of(file, names, dial)
    records, bad, pixels = with_whole_pictures(records, names, cache_dir, file.tables)
    answers, wrong, notes = answers_of(records, names, dial)
    records = [record for record in records if record.name in answers]
    parts, more, leak = parts_of(records, [[pixels[picture.source] for picture in record.pictures] for record in records], dial)
    samples: dict[str, list[Sample]] = {part: [] for part in PARTS}
    for record, (part, cluster) in zip(records, parts, strict=True):
        samples[part].append(
            Sample(record.name, record.question, record.pictures, answers[record.name], cluster, record.name, record.subset)
        )
    ignored = [column for column in file.columns if column not in names.values()]
    notes += [f"questions: columns that are not read: {', '.join(ignored)}."] if ignored else []
    return Questions(samples, [*file.faults, *faults, *bad, *wrong], [*notes, *more], leak, file.tables)


def check_columns(file: RecordsFile, names: Mapping[str, str], dial: DataDial) -> None:
    """Raise a `ConfigError` for a name of no column, or where image, question or answer is missing."""
    unknown = sorted(set(dial.columns) - set(COLUMNS))
    if unknown:
        raise ConfigError(f"data.columns.{unknown[0]}: legal are {', '.join(COLUMNS)}.{did_you_mean(unknown[0], COLUMNS)}")
    if not file.columns:
        return
    there = ", ".join(file.columns)
    for column, name in names.items():
        if name != column and name not in file.columns:
            raise ConfigError(f"data.columns.{column}={name}: {dial.path} has no such column; it has {there}.")
    for alternatives in (("image", "images"), ("question",), ("answer", "answers")):
        if not any(names[column] in file.columns for column in alternatives):
            wanted = " or ".join(repr(names[column]) for column in alternatives)
            raise ConfigError(
                f"data.path={dial.path}: it has no column {wanted}; its columns are {there}. Name yours: data.columns.{alternatives[0]}=NAME."
            )


def records_of(file: RecordsFile, names: Mapping[str, str], dial: DataDial) -> tuple[list[Record], list[BadRecord]]:
    """The records of the good rows, and what is wrong with the others."""
    if dial.root and file.tables:
        raise ConfigError(f"data.root={dial.root}: {dial.path} holds its pictures itself; leave it out.")
    path = Path(str(dial.path))
    folder = paths.path(dial.root, "data.root") if dial.root else path if path.is_dir() else path.parent
    root = manifest.Root(folder)
    records: list[Record] = []
    faults: list[BadRecord] = []
    seen: dict[str, str] = {}
    for row in file.rows:
        try:
            record = record_of(row, names, root, file.splits.get(row.source))
            if record.name in seen:
                row.fail(names["id"], f"{shown(record.name)} is given a second time; first in {seen[record.name]}")
            seen[record.name] = row.source
            records.append(record)
        except BadRecord as fault:
            faults.append(fault)
    return records, faults


def record_of(row: Row, names: Mapping[str, str], root: manifest.Root, split: str | None) -> Record:
    """One record. split: of the file's own. Raises `BadRecord` naming place and column."""
    pictures = one_or_several(row, names["image"], names["images"])
    given = text_or_none(row, names["split"]) or split
    if given and given.lower() not in PART_OF:
        row.fail(names["split"], f"{shown(given)} is given; legal: {', '.join(PART_OF)}")
    choices = texts(row, names["choices"])
    if len(set(choices)) < len(choices) or len(choices) == 1:
        row.fail(names["choices"], f"{shown(list(choices))} is given; two or more that differ are legal")
    return Record(
        source=row.source,
        name=text_or_none(row, names["id"]) or Path(row.source).name,
        question=text_or_none(row, names["question"]) or row.fail(names["question"], "it is empty"),
        pictures=tuple(each if isinstance(each, Picture) else Picture(str(root.file(each, row.source))) for each in pictures),
        answers=one_or_several(row, names["answer"], names["answers"]),
        choices=choices,
        group=text_or_none(row, names["group"]),
        subset=text_or_none(row, names["subset"]),
        part=PART_OF[given.lower()] if given else None,
    )


def text_or_none(row: Row, key: str) -> str | None:
    """A single text."""
    return row.text(key) if row.has(key) else None


def one_or_several(row: Row, one: str, several: str) -> tuple:
    """What either column of a pair holds: pictures, or texts of at least one. A list may stand in both; `one` is never taken apart."""
    given = [key for key in (one, several) if row.has(key)]
    if len(given) != 1:
        row.fail(one, f"{several!r} is given too; one of them is legal" if given else "it is empty")
    value = row.fields[given[0]]
    return (value,) if given == [one] and isinstance(value, str) else texts(row, given[0])


def texts(row: Row, key: str) -> tuple:
    """A list, or a text whose parts a bar divides, or a JSON list in a text; () where the cell is empty."""
    value = row.fields.get(key)
    if isinstance(value, str) and value.startswith("["):
        try:
            value = records_file.cell(row.source, key, json.loads(value))
        except ValueError as error:
            row.fail(key, f"{shown(value)} is given and is no JSON list ({error})")
    parts = [part.strip() for part in value.split("|")] if isinstance(value, str) else value or []
    if not all(parts):
        row.fail(key, f"{shown(value)} is given; texts that are not blank are legal, as a|b|c or as a list")
    return tuple(parts)


def with_whole_pictures(
    records: Sequence[Record], names: Mapping[str, str], cache_dir: Path, tables: Tables | None
) -> tuple[list[Record], list[BadRecord], dict[str, str]]:
    """The records whose pictures all decode, a fault for each of the others, and the pixels of every picture by its source."""
    outcomes = images.outcomes([picture for record in records for picture in record.pictures], cache_dir, tables=tables)
    bad = {source: outcome for source, outcome in outcomes.items() if isinstance(outcome, str)}
    whole: list[Record] = []
    faults: list[BadRecord] = []
    for record in records:
        source = next((picture.source for picture in record.pictures if picture.source in bad), None)
        key = names["image" if len(record.pictures) == 1 else "images"]
        if source is None:
            whole.append(record)
        else:
            faults.append(BadRecord(record.source, f"key {key!r}: {source}: {bad[source]}"))
    return whole, faults, {source: each.pixels for source, each in outcomes.items() if not isinstance(each, str)}


def answers_of(records: Sequence[Record], names: Mapping[str, str], dial: DataDial) -> tuple[dict[str, Answer], list[BadRecord], list[str]]:
    """The answers by the records' names, faults, and a note that says of what kind they are: one for the whole file."""
    distinct = {answer for record in records for answer in record.answers}
    if dial.kind is None and any(record.choices for record in records):
        return chosen(records, names, dial)
    if dial.answer_format is not None:
        raise ConfigError(f"data.answer_format={dial.answer_format}: it says how an answer names one of its choices, and none are read.")
    if dial.kind is None and len(distinct) == 2 and all(len(record.answers) == 1 for record in records):
        options = tuple(sorted(distinct, key=lambda word: (word.lower() not in ("yes", "true"), word)))
        note = f"questions: every answer is {options[0]!r} or {options[1]!r}: a choice between the two. data.kind=text: written freely."
        return {record.name: Choice(options.index(record.answers[0]), options) for record in records}, [], [note]
    counted = any(len(set(record.answers)) < len(record.answers) for record in records)
    note = f"questions: answers are written freely (text); {len(distinct)} are distinct."
    note += " An answer given several times in a row counts as so many votes." if counted else ""
    if any(record.choices for record in records):
        note += f" Column {names['choices']!r} is not read (data.kind=text)."
    return {record.name: text_of(record.answers, counted) for record in records}, [], [note]


def text_of(answers: Sequence[str], counted: bool) -> Text:
    """Free text with its references; counted: with how often each is given."""
    votes = Counter(answers)
    return Text(tuple(votes), tuple(votes.values()) if counted else ())


def chosen(records: Sequence[Record], names: Mapping[str, str], dial: DataDial) -> tuple[dict[str, Answer], list[BadRecord], list[str]]:
    """The answers of a file with choices."""
    faults = [BadRecord(one.source, f"key {names['choices']!r}: it is empty, and given in other rows") for one in records if not one.choices]
    faults += [BadRecord(one.source, f"key {names['answers']!r}: with choices one answer is legal") for one in records if len(one.answers) > 1]
    records = [record for record in records if record.choices and len(record.answers) == 1]
    how = answer_format(records, dial)
    found: dict[str, Answer] = {}
    for record in records:
        place = place_of(record, how)
        if place is None:
            told = f"{shown(record.answers[0])} names none of the choices {shown(list(record.choices))} (data.answer_format={how})"
            faults.append(BadRecord(record.source, f"key {names['answer']!r}: {told}"))
        else:
            found[record.name] = Choice(place, record.choices)
    return found, faults, [f"questions: each has choices, and the answer names one by data.answer_format={how}."]


def place_of(record: Record, how: str) -> int | None:
    """Which choice the answer names, or None."""
    (answer,), choices = record.answers, record.choices
    if how == "text":
        return choices.index(answer) if answer in choices else None
    if how == "letter":
        place = ord(answer) - ord("A") if len(answer) == 1 else -1
    else:
        place = int(answer) - int(how[-1]) if answer.isascii() and answer.isdigit() and len(answer) < 4 else -1
    return place if 0 <= place < len(choices) else None


def answer_format(records: Sequence[Record], dial: DataDial) -> str:
    """How the file's answers name their choices: as most of them do. Raises `ConfigError` where ways that differ fit as many."""
    if dial.answer_format is not None:
        return dial.answer_format
    places = {how: [place_of(record, how) for record in records] for how in FORMATS}
    most = max(sum(place is not None for place in found) for found in places.values())
    fitting = [how for how in FORMATS if sum(place is not None for place in places[how]) == most]
    unsure = [at for at in range(len(records)) if len({places[how][at] for how in fitting}) > 1]
    if most and unsure:
        record = records[unsure[0]]
        readings = ", ".join(f"{how} {shown(record.choices[place])}" for how in fitting if (place := places[how][unsure[0]]) is not None)
        raise ConfigError(
            f"data.answer_format=null: {record.source}: answer {shown(record.answers[0])} to choose from {shown(list(record.choices))} may mean "
            f"{readings}, and the file fits each as well. Give data.answer_format={' or '.join(fitting)}."
        )
    return fitting[0]


def parts_of(
    records: Sequence[Record], pixels: Sequence[Sequence[str]], dial: DataDial
) -> tuple[list[tuple[str, str]], list[str], str]:
    """Part and cluster of each record, notes, and a sentence about pictures in several given parts. pixels: of each record's pictures."""
    pictures = joined(pixels)
    groups = joined([[own, f"group {record.group or own}"] for record, own in zip(records, pictures, strict=True)])
    clusters = [record.group or own for record, own in zip(records, pictures, strict=True)]
    given = [record.part for record in records]
    if not any(given):
        drawn = draw(groups, dial.seed, SHARES)
        parts, leak = [drawn[group] for group in groups], ""
        note = [f"questions: no split is given; pictures, told apart by their pixels, are drawn from data.seed={dial.seed}: {counts(parts)}."]
    else:
        if None in given:
            record = records[given.index(None)]
            raise DataError(f"{record.source}: its split is empty, and given in other rows. Give it in every row or in none.")
        parts, note = [str(part) for part in given], []
        if "minival" not in parts:
            drawn = draw([group for group, part in zip(groups, parts, strict=True) if part == "train"], dial.seed, {"minival": 0.1, "train": 0.9})
            parts = [drawn[group] if part == "train" else part for group, part in zip(groups, parts, strict=True)]
            note = [f"questions: no minival is given; a tenth of train's pictures is drawn from data.seed={dial.seed}: {counts(parts)}."]
        leak = leaking(records, pictures, parts)
        note += [f"questions: {leak} Allowed by data.allow_shared_images."] if leak and dial.allow_shared_images else []
    return list(zip(parts, clusters, strict=True)), note, leak


def counts(parts: Sequence[str]) -> str:
    """How many questions each part has."""
    return ", ".join(f"{part} {parts.count(part)}" for part in PARTS)


def leaking(records: Sequence[Record], pictures: Sequence[str], parts: Sequence[str]) -> str:
    """A sentence about pictures that stand in several parts, or an empty text."""
    places: dict[str, dict[str, Record]] = {}
    for record, picture, part in zip(records, pictures, parts, strict=True):
        places.setdefault(picture, {}).setdefault(part, record)
    shared = [found for found in places.values() if len(found) > 1]
    if not shared:
        return ""
    first = " and ".join(f"{record.source} ({part})" for part, record in shared[0].items())
    return (
        f"pictures that the split has in several parts, by their pixels: {len(shared)}, the first in {first}. What is learned would be "
        "asked: mend the split, or give data.allow_shared_images=true."
    )


def joined(members: Sequence[Sequence[str]]) -> list[str]:
    """The cluster of each list of names, where lists that share a name are in one: the least name of the cluster."""
    root: dict[str, str] = {}

    def find(name: str) -> str:
        root.setdefault(name, name)
        while root[name] != name:
            root[name] = name = root[root[name]]
        return name

    for names in members:
        first, *others = sorted({find(name) for name in names})
        root.update(dict.fromkeys(others, first))
    return [find(names[0]) for names in members]


def draw(clusters: Sequence[str], seed: int, shares: Mapping[str, float]) -> dict[str, str]:
    """The part of each cluster: in the order of SHA-256(seed/cluster) they fill the parts in turn, each to its share of the records.

    Every part gets a cluster while there are as many; minival does without first.
    """
    sizes = Counter(clusters)
    order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    parts = [part for part in shares if part != "minival" or len(order) >= len(shares)]
    part_of: dict[str, str] = {}
    filled: Counter[str] = Counter()
    for at, name in enumerate(order):
        empty = [part for part in parts if not filled[part]]
        open_parts = empty if len(empty) >= len(order) - at else [part for part in parts[:-1] if filled[part] < shares[part] * len(clusters)]
        part_of[name] = (open_parts or parts[-1:])[0]
        filled[part_of[name]] += sizes[name]
    return part_of
