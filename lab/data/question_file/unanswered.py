"""Questions without answers about one's own pictures: what `lab.predict` asks of a finished run.

Either one question about pictures and folders of them, or a file as `data=questions` reads it (`lab.data.sets.questions`), of which
the columns image or images, question, id and choices are read. What is bad is a fault that leaves the others alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lab.config import DataDial
from lab.data import images, records_file
from lab.data.faults import BadRecord, shown
from lab.data.manifest import Row
from lab.data.question_file.rows import Record, records_of
from lab.data.sets.questions import COLUMNS, check_columns
from lab.data.splits import Records, sized
from lab.data.tables import Tables
from lab.errors import ConfigError, DataError
from lab.records import Answer, AnswerSpace, Choice, Picture, Regions, Sample, Skipped, Splits, Text

FILES = (*records_file.DELIMITERS, *records_file.JSON, ".parquet")
"""Endings of a file of questions."""
PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".mpo")
"""Endings of the files that are taken from a folder; one that is named itself may have any."""
READ = ("image", "images", "question", "id", "choices")


@dataclass(frozen=True)
class Unanswered:
    """Questions as they were found, not yet looked at. notes: what of it is not read, in sentences."""

    records: list[Record]
    faults: list[BadRecord]
    notes: list[str]
    tables: Tables | None = None


def of_pictures(paths: Sequence[Path], question: str, numbers: Collection[int]) -> Unanswered:
    """One question about every picture; or, where a question is about several, about these files together.

    numbers: of pictures that a question may have. Raises `ConfigError` where they are other, `DataError` for a path of nothing.
    """
    folders = [path for path in paths if path.is_dir()]
    if 1 not in numbers:
        if folders or len(paths) not in numbers:
            wanted = " or ".join(map(str, sorted(numbers)))
            raise ConfigError(
                f"{paths[0]}: this run answers questions about {wanted} pictures at once. Give that many files, in their order, or a file of "
                "questions with a column images, such as a.png|b.png."
            )
        return Unanswered([record_of(paths, question)], [], [])
    found, others = [], Counter()
    for path in paths:
        inside = sorted(each for each in path.rglob("*") if each.is_file()) if path in folders else [path]
        found += [each for each in inside if path not in folders or each.suffix.lower() in PICTURES]
        others.update(each.suffix or each.name for each in inside if path in folders and each.suffix.lower() not in PICTURES)
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: there is no picture in it. Legal endings are {', '.join(PICTURES)}.")
    endings = ", ".join(f"{number} {ending}" for ending, number in others.most_common(5))
    notes = [f"files of other endings, which are not read: {others.total()} ({endings})."] if others else []
    return Unanswered([record_of([path], question) for path in dict.fromkeys(found)], [], notes)


def record_of(paths: Sequence[Path], question: str) -> Record:
    """A question about some files together."""
    name = "|".join(map(str, paths))
    return Record(name, name, question, tuple(Picture(str(path)) for path in paths), (), (), None, None, None)


def of_file(dial: DataDial, question: str | None, cache_dir: Path) -> Unanswered:
    """The questions of a file, or one question about the pictures of each of its rows. Raises `ConfigError` or `DataError`."""
    assert dial.path is not None
    names = {column: dial.columns.get(column, column) for column in COLUMNS}
    file = records_file.read(dial.path, (names["image"], names["images"]), cache_dir)
    if question is not None:
        if names["question"] in file.columns:
            raise ConfigError(f"--question: {dial.path} has questions of its own in column {names['question']!r}. Leave one of the two out.")
        rows = [Row(row.source, {**row.fields, names["question"]: question}) for row in file.rows]
        file = replace(file, rows=rows, columns=(*file.columns, names["question"]))
    check_columns(file, names, dial, (("image", "images"), ("question",)))
    records, faults = records_of(file, names, dial, answered=False)
    ignored = [column for column in file.columns if column not in [names[each] for each in READ]]
    notes = [f"columns that are not read: {', '.join(ignored)}."] if ignored else []
    return Unanswered(records, [*file.faults, *faults], notes, file.tables)


def splits_of(found: Unanswered, answers: AnswerSpace, numbers: Collection[int], cache_dir: Path) -> Splits:
    """The questions as the dev split of a run with such answers, every picture looked at.

    The answer of each stands in for one that nobody knows. Raises `DataError` if no question is good.
    """
    outcomes = images.outcomes([picture for record in found.records for picture in record.pictures], cache_dir, tables=found.tables)
    sizes = {each.size: each.size for each in outcomes.values() if not isinstance(each, str)}
    samples: list[Sample] = []
    faults = list(found.faults)
    for record in found.records:
        bad = next((picture.source for picture in record.pictures if isinstance(outcomes[picture.source], str)), None)
        reason = f"{'' if bad == record.source else f'{bad}: '}{outcomes[bad]}" if bad else unaskable(record, answers.options, numbers)
        if reason:
            faults.append(BadRecord(record.source, reason))
            continue
        shared = "|".join(picture.source for picture in record.pictures)
        (size, *_) = [outcome.size for picture in record.pictures if not isinstance(outcome := outcomes[picture.source], str)]
        answer = unknown(answers, record.choices, size)
        samples.append(sized(Sample(record.name, record.question, record.pictures, answer, shared, record.name), outcomes, sizes))
    if not samples:
        raise DataError(f"no question is left to ask; bad ones: {len(faults)}, the first: {faults[0]}")
    skipped = tuple(Skipped(fault.source, fault.reason) for fault in faults)
    return Splits(Records(()), Records(()), Records(samples, tables=found.tables), skipped, tuple(found.notes), answers=answers)


def unaskable(record: Record, options: tuple[str, ...], numbers: Collection[int]) -> str:
    """Why a run of these options and numbers of pictures has no answer to a question; empty where it has one."""
    if len(record.pictures) not in numbers:
        return f"it has {len(record.pictures)} pictures, and the run answers questions about {' or '.join(map(str, sorted(numbers)))}"
    odd = [choice for choice in record.choices if choice not in options] if options else []
    return f"the choice {shown(odd[0])} is none of the run's options: {', '.join(options)}" if odd else ""


def unknown(answers: AnswerSpace, choices: tuple[str, ...], size: tuple[int, int]) -> Answer:
    """An answer that says nothing: the first of the options, no words, or no boxes. choices: the question's own; size: of its picture."""
    if answers.kind == Regions.kind:
        return Regions((), size)
    return Choice(0, choices or answers.options) if answers.options else Text(("",))
