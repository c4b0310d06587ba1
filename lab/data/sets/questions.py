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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab.config import DataDial
from lab.data import DataSet, images, records_file
from lab.data.faults import BadRecord
from lab.data.question_file.answers import answers_of
from lab.data.question_file.parts import parts_of
from lab.data.question_file.rows import Record, records_of
from lab.data.records_file import RecordsFile
from lab.data.splits import PARTS, choose_parts, finish, reject_unused_fields
from lab.data.tables import Tables
from lab.errors import ConfigError, DataError, did_you_mean
from lab.host.files import annotations_hash
from lab.records import Sample, Splits

NEEDED = (("image", "images"), ("question",), ("answer", "answers"))
"""Columns that a file must have, each as its alternatives."""
COLUMNS = ("image", "images", "question", "answer", "answers", "id", "group", "subset", "split", "choices")


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
    return splits_of(read(dial, cache_dir), dial, cache_dir)


def splits_of(questions: Questions, dial: DataDial, cache_dir: Path) -> Splits:
    """What was read as splits. Raises `DataError` for pictures in several parts, or by `data.on_bad`."""
    if questions.leak and not dial.allow_shared_images:
        raise DataError(questions.leak)
    absent = f"{dial.path} has no question for it."
    return finish(choose_parts(questions.parts, dial), questions.faults, dial, cache_dir, questions.notes, absent, questions.tables)


def read(dial: DataDial, cache_dir: Path) -> Questions:
    """Every question of the file with its picture, answer and part. Raises `ConfigError`, or `DataError` for the file as a whole."""
    reject_unused_fields(dial, "root", "path", "sha256", "columns", "kind", "answer_format", "allow_shared_images")
    assert dial.path is not None  # conf/data/questions.yaml wants one
    check_unchanged(dial)
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


def check_unchanged(dial: DataDial) -> None:
    """Raise a `DataError` if the file has another content than `data.sha256`."""
    if dial.sha256 is not None and (now := annotations_hash(str(dial.path))) not in (None, dial.sha256):
        raise DataError(
            f"data.path={dial.path}: the file has changed: its SHA-256 is {now[:12]}..., data.sha256 {dial.sha256[:12]}.... Put the file back, "
            "or give data.sha256=null to read it as it is."
        )


def check_columns(file: RecordsFile, names: Mapping[str, str], dial: DataDial, needed: Sequence[tuple[str, ...]] = NEEDED) -> None:
    """Raise a `ConfigError` for a name of no column, or where all alternatives for a needed one are missing."""
    unknown = sorted(set(dial.columns) - set(names))
    if unknown:
        raise ConfigError(f"data.columns.{unknown[0]}: legal are {', '.join(names)}.{did_you_mean(unknown[0], names)}")
    if not file.columns:
        return
    there = ", ".join(file.columns)
    for column, name in names.items():
        if name != column and name not in file.columns:
            raise ConfigError(f"data.columns.{column}={name}: {dial.path} has no such column; it has {there}.")
    for alternatives in needed:
        if not any(names[column] in file.columns for column in alternatives):
            wanted = " or ".join(repr(names[column]) for column in alternatives)
            turns = next((column for column in ("conversations", "messages") if column in file.columns), None)
            told = f"Name yours: data.columns.{alternatives[0]}=NAME."
            if turns is not None:
                told = f"With {turns} it is a manifest of conversations: data=conversations data.sources=[{dial.path}]."
            raise ConfigError(f"data.path={dial.path}: it has no column {wanted}; its columns are {there}. {told}")


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


DATA_SET = DataSet(load, asks="question")
