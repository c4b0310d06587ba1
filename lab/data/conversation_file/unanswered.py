"""What is asked of a run over conversations: questions as turns of a user, and manifests whose last answer is missing or not looked at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lab import paths
from lab.config import DataDial
from lab.data.conversation_file import reading
from lab.data.conversation_file.index import Folder, described, media_sources
from lab.data.conversation_file.media import Fault
from lab.data.conversation_file.reading import File, Found
from lab.data.conversation_file.record import PLACEHOLDER, Form
from lab.data.conversation_file.rows import Media, media_of
from lab.data.faults import BadRecord
from lab.data.question_file.rows import Record
from lab.data.question_file.unanswered import Rule, Unanswered
from lab.errors import LabError
from lab.records import Clip, Medium, Sampling, Turn


def turns_of(question: str, media: Sequence[Medium]) -> tuple[Turn, ...]:
    """A question as the one turn of a user. `<image>` and `<video>` in it stand for the files in order; without any they come first."""
    pieces = PLACEHOLDER.split(question)
    if len(pieces) == 1:
        return (Turn("user", (*range(len(media)), question)),)
    left = {kind: iter([place for place, one in enumerate(media) if isinstance(one, Clip) == (kind == "video")]) for kind in ("image", "video")}
    parts = [next(left[piece], len(media)) if at % 2 else piece for at, piece in enumerate(pieces) if piece]
    return (Turn("user", tuple(parts)),)


def is_manifest(path: Path, columns: Mapping[str, str], cache_dir: Path) -> bool:
    """Whether the first record of a file is a conversation."""
    if path.suffix.lower() not in reading.ENDINGS:
        return False
    form = Form(columns, answered=False)
    found = next(records_in(reading.open_file(str(path), form.names, cache_dir)), None)
    keys = () if found is None or isinstance(found[1].value, BadRecord) else found[1].value
    return form.names["conversations"] in keys or form.names["messages"] in keys


def records_in(file: File) -> Iterator[tuple[str, Found]]:
    """Every record, behind the name of its place."""
    lines = 0
    for stretch in file.stretches():
        for found in file.found(stretch):
            yield file.place(lines + found.line), found
        lines += file.counted


def of_manifest(path: Path, dial: DataDial, cache_dir: Path, rule: Rule) -> Unanswered:
    """The conversations of a manifest without their last answers. dial: of `data=conversations`. Raises as `clip_of` of questions."""
    form = Form(dial.columns, answered=False)
    file = reading.open_file(str(path), form.names, cache_dir)
    folder = Folder(None if dial.root is None else str(paths.path(dial.root, "data.root")), str(path))
    names: Counter[str] = Counter()
    records: list[Record] = []
    faults: list[BadRecord] = []
    answered = 0

    def sampling() -> Sampling:
        if isinstance(rule, LabError):
            raise rule
        return rule

    for place, found in records_in(file):
        try:
            if isinstance(found.value, BadRecord):
                raise BadRecord(place, found.value.reason)
            parsed = form.parse(found.value, found.held)
            media = tuple(media_of(media_sources(file, folder, place, found.offset, parsed.media), sampling))
        except Fault as fault:
            assert not isinstance(found.value, BadRecord)
            faults.append(BadRecord(place, described(form, found.value, f"key {fault.key!r}: {fault.reason}")))
            continue
        except BadRecord as fault:
            faults.append(fault)
            continue
        turns = tuple(Turn(role, parts) for role, parts in parsed.turns)
        answered += turns[-1].role == "assistant"
        turns = turns[:-1] if turns[-1].role == "assistant" else turns
        question = "".join(part for part in turns[-1].parts if isinstance(part, str)).strip()
        name = parsed.name or Path(place).name
        names[name] += 1
        name = name if names[name] == 1 else f"{name} ({Path(place).name})"
        records.append(Record(place, name, question, media, (), (), None, None, None, turns))
    notes = [f"conversations that end with an answer: {answered}; it is not read, and what precedes it is asked."] if answered else []
    table = file.tables()
    return Unanswered(records, faults, notes, Media([table]) if table is not None and table.images else None)
