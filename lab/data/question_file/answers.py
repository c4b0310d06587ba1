"""What the answers of a file of questions are, a `Choice` or a `Text`, and which choice an answer names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lab.bounds import WORDS
from lab.config import DataDial
from lab.data.faults import BadRecord, shown
from lab.data.question_file.rows import Record
from lab.errors import ConfigError
from lab.records import Answer, Choice, Text

FORMATS = WORDS["data.answer_format"].legal
"""How an answer names one of its choices: in full, by A, B, ..., or by its number from 0 or from 1."""


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
