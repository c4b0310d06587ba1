"""Questions without answers about one's own pictures: what `lab.predict` asks of a finished run.

Either one question about pictures, clips and folders of them, or a file as `data=questions` reads it (`lab.data.sets.questions`), of which
the columns image or images, video or videos, question, id and choices are read. What is bad is a fault that leaves the others alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lab.config import DataDial
from lab.data import images, records_file
from lab.data.faults import BadRecord, shown
from lab.data.manifest import Row
from lab.data.question_file.rows import Record, records_of
from lab.data.sets.questions import COLUMNS, check_columns
from lab.data.splits import Records, sized
from lab.errors import ConfigError, DataError, LabError
from lab.records import Answer, AnswerSpace, Choice, Clip, Medium, Picture, Regions, Sample, Sampling, Skipped, Splits, Text, Turn

FILES = (*records_file.DELIMITERS, *records_file.JSON, ".parquet")
"""Endings of a file of questions."""
PICTURES = (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".mpo")
"""Endings of the files that are taken from a folder; one that is named itself may have any."""
CLIPS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv", ".3gp", ".wmv")
"""Endings of the files that are clips."""
READ = ("image", "images", "video", "videos", "question", "id", "choices")
Rule = Sampling | LabError
"""How a run samples clips, or why it takes none."""


Turns = Callable[[str, Sequence[Medium]], tuple[Turn, ...]]


def alone(question: str, media: Sequence[Medium]) -> tuple[Turn, ...]:
    """The turns of a question that is no conversation: none."""
    return ()


@dataclass(frozen=True)
class Unanswered:
    """Questions as they were found, not yet looked at. notes: what of it is not read, in sentences."""

    records: list[Record]
    faults: list[BadRecord]
    notes: list[str]
    tables: images.Tables | None = None


def clip_of(source: str, rule: Rule) -> Clip:
    """A clip. Raises the reason where the run takes none."""
    if isinstance(rule, LabError):
        raise rule
    return Clip(source, sampling=rule)


def medium_of(path: Path, rule: Rule) -> Medium:
    """A file by its ending: a clip, or else a picture. Raises as `clip_of`."""
    return clip_of(str(path), rule) if path.suffix.lower() in CLIPS else Picture(str(path))


def of_pictures(paths: Sequence[Path], question: str, numbers: Collection[int], rule: Rule, turns: Turns = alone) -> Unanswered:
    """One question about every picture and clip; or, where a question is about several, about these files together.

    numbers: of pictures and clips that a question may have. turns: what a question and its media are in a conversation.
    Raises `ConfigError` where they are other, `DataError` for a path of nothing, and as `clip_of`.
    """
    endings = PICTURES if isinstance(rule, LabError) else (*PICTURES, *CLIPS)

    def record_of(*paths: Path) -> Record:
        name, media = "|".join(map(str, paths)), tuple(medium_of(path, rule) for path in paths)
        return Record(name, name, question, media, (), (), None, None, None, turns(question, media))

    folders = [path for path in paths if path.is_dir()]
    if 1 not in numbers:
        if folders or len(paths) not in numbers:
            wanted = " or ".join(map(str, sorted(numbers)))
            raise ConfigError(
                f"{paths[0]}: this run answers questions about {wanted} pictures at once. Give that many files, in their order, or a file of "
                "questions with a column images, such as a.png|b.png."
            )
        return Unanswered([record_of(*paths)], [], [])
    found, others = [], Counter()
    for path in paths:
        inside = sorted(each for each in path.rglob("*") if each.is_file()) if path in folders else [path]
        found += [each for each in inside if path not in folders or each.suffix.lower() in endings]
        others.update(each.suffix or each.name for each in inside if path in folders and each.suffix.lower() not in endings)
    if not found:
        raise DataError(f"{', '.join(map(str, paths))}: there is no picture in it. Legal endings are {', '.join(endings)}.")
    told = ", ".join(f"{number} {ending}" for ending, number in others.most_common(5))
    notes = [f"files of other endings, which are not read: {others.total()} ({told})."] if others else []
    return Unanswered([record_of(path) for path in dict.fromkeys(found)], [], notes)


def of_file(dial: DataDial, question: str | None, cache_dir: Path, rule: Rule, turns: Turns = alone) -> Unanswered:
    """The questions of a file, or one question about the pictures of each of its rows. turns: as of `of_pictures`.

    Raises `ConfigError` or `DataError`, and as `clip_of`.
    """
    assert dial.path is not None
    names = {column: dial.columns.get(column, column) for column in (*COLUMNS, "video", "videos")}
    file = records_file.read(dial.path, (names["image"], names["images"]), cache_dir)
    if question is not None:
        if names["question"] in file.columns:
            raise ConfigError(f"--question: {dial.path} has questions of its own in column {names['question']!r}. Leave one of the two out.")
        rows = [Row(row.source, {**row.fields, names["question"]: question}) for row in file.rows]
        file = replace(file, rows=rows, columns=(*file.columns, names["question"]))
    check_columns(file, names, dial, (("image", "images", "video", "videos"), ("question",)))
    records, faults = records_of(file, names, dial, lambda source: clip_of(source, rule))
    records = [replace(record, turns=turns(record.question, record.pictures)) for record in records]
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
        size = next((outcome.size for picture in record.pictures if not isinstance(outcome := outcomes[picture.source], str)), (0, 0))
        answer = unknown(answers, record.choices, size)
        sample = Sample(record.name, record.question, record.pictures, answer, shared or record.name, record.name, turns=record.turns)
        samples.append(sized(sample, outcomes, sizes))
    if not samples:
        raise DataError(f"no question is left to ask; bad ones: {len(faults)}, the first: {faults[0]}")
    skipped = tuple(Skipped(fault.source, fault.reason) for fault in faults)
    clips = any(isinstance(each, Clip) for sample in samples for each in sample.images)
    asked = Records(samples, tables=found.tables)
    return Splits(Records(()), Records(()), asked, skipped, tuple(found.notes), answers=answers, clips=clips)


def unaskable(record: Record, options: tuple[str, ...], numbers: Collection[int]) -> str:
    """Why a run of these options and numbers of pictures has no answer to a question; empty where it has one."""
    shows = {part for turn in record.turns for part in turn.parts if isinstance(part, int)}
    if record.turns and shows != {*range(len(record.pictures))}:
        return f"{len(record.pictures)} files are given, and <image> and <video> in its question name others: each stands for one, of its kind"
    if len(record.pictures) not in numbers:
        return f"it has {len(record.pictures)} pictures, and the run answers questions about {' or '.join(map(str, sorted(numbers)))}"
    odd = [choice for choice in record.choices if choice not in options] if options else []
    return f"the choice {shown(odd[0])} is none of the run's options: {', '.join(options)}" if odd else ""


def unknown(answers: AnswerSpace, choices: tuple[str, ...], size: tuple[int, int]) -> Answer:
    """An answer that says nothing: the first of the options, no words, or no boxes. choices: the question's own; size: of its picture."""
    if answers.kind == Regions.kind:
        return Regions((), size)
    return Choice(0, choices or answers.options) if answers.options else Text(("",))
