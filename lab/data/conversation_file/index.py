"""The index of a manifest: where each good record stands, and what is wrong with each bad one. Made in one pass, then mapped from disk.

    <cache_dir>/conversations/<key>/<column>.npy      offset int64, length and line int32, digest, name and media uint64, ...: `COLUMNS`
                                    faults.jsonl      of each bad record place and reason
                                    lost.jsonl        of each record whose media could not be read when it was looked at, its row

`key` hashes the manifest's content, the folder its paths begin in, and the rules it is read by: a changed manifest has another index.
No record is kept as an object: a million cost what their columns take on disk.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import stat
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xxhash

from lab.data.conversation_file.media import Fault, Medium
from lab.data.conversation_file.reading import File, Found, Stretch, TableFile, open_file
from lab.data.conversation_file.record import Conversation, Form
from lab.data.faults import BadRecord
from lab.data.manifest import Root
from lab.data.splits import PARTS
from lab.errors import DataError
from lab.host.files import file_hash, values_hash, write_atomically
from lab.host.forks import FORK
from lab.host.progress import Report, silent

RULES = 2
"""Raise it whenever the same manifest would be indexed otherwise."""
MOST_PARENTS = 10_000
"""Folders whose names are kept at once."""
COLUMNS = {"offset": "q", "length": "i", "line": "i", "digest": "Q", "name": "Q", "part": "b", "answers": "i", "media_end": "q",
           "media": "Q"}  # fmt: skip
"""Of a row: place, 64 bits of its content and of its id (0: none), place in `PARTS` (-1: none), number of answers, end of its media; and these,
by 64 bits of what they are."""


class Folder:
    """Where paths of a manifest begin. given: `data.root`, which no path may leave; None: beside the manifest, and absolute ones are legal."""

    def __init__(self, given: str | None, path: str) -> None:
        self.root = Root(Path(given) if given else Path(path).parent)
        self.absolute = given is None

        self.parents: dict[str, str] = {}

    def there(self, name: str) -> tuple[str, bool]:
        """The path of a file, and whether it is there; names of one folder are looked at once. Raises `BadRecord`."""
        head, _, tail = name.rpartition("/")
        parent = self.parents.get(head)
        if parent is None:
            if len(self.parents) >= MOST_PARENTS:
                self.parents.clear()
            parent = self.parents[head] = os.path.dirname(self.file(name, ""))
        path = f"{parent}/{tail}"
        try:
            if "\\" not in name and stat.S_ISREG(os.lstat(path).st_mode):
                return path, True
        except (OSError, ValueError):
            pass
        path = self.file(name, "")  # a link, which must not lead out, or nothing
        return path, os.path.isfile(path)

    def file(self, name: str, source: str) -> str:
        """The path of a file. Raises `BadRecord`."""
        if self.absolute and name.startswith("/") and "\0" not in name:
            return os.path.normpath(name)
        return str(self.root.file(name, source))


@dataclass(frozen=True)
class Index:
    """One manifest, opened. lost: rows whose media could not be read. faults: bad records, which have no row."""

    file: File
    form: Form
    folder: Folder
    place: Path
    columns: Mapping[str, np.ndarray]
    faults: list[BadRecord]
    lost: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.columns["offset"])

    def source(self, row: int) -> str:
        """What an error calls a row."""
        return self.file.place(int(self.columns["line"][row]))

    def conversation(self, row: int) -> Conversation:
        """A row, read anew. Raises `DataError` where the manifest has changed meanwhile."""
        try:
            value, held = self.file.record(int(self.columns["offset"][row]), int(self.columns["length"][row]))
            return self.form.parse(value, held)
        except (ValueError, Fault) as error:
            raise DataError(f"{self.source(row)}: the manifest has changed since it was indexed ({error}). Begin the command again.") from None

    def remember_lost(self, rows: Iterable[int]) -> None:
        """Write down rows whose media cannot be read, for whoever opens the index next."""
        write_atomically(self.place / "lost.jsonl", "".join(f"{row}\n" for row in sorted(set(rows))))


def open_index(path: str, root: str | None, columns: Mapping[str, str], cache_dir: Path, report: Report = silent) -> Index:
    """The index of a manifest, made first if it is not there. columns: `data.columns`. Raises `ConfigError` or `DataError`."""
    form = Form(columns)
    file = open_file(path, form.names, cache_dir)
    folder = Folder(root, path)
    about = os.stat(path)
    content = content_hash(path, about.st_size, about.st_mtime_ns)
    key = values_hash([RULES, content, str(folder.root.folder), folder.absolute, form.names, form.split], 32)
    place = cache_dir / "conversations" / key
    if not place.is_dir():
        build(file, form, folder, place, report)
    try:
        found = {name: np.load(place / f"{name}.npy", mmap_mode="r") for name in COLUMNS}
        told = (place / "faults.jsonl").read_text(encoding="utf-8").splitlines()
        faults = [BadRecord(file.place(line), reason) for line, reason in map(json.loads, told)]
        lost = [int(line) for line in (place / "lost.jsonl").read_text().split()]
    except (OSError, ValueError) as error:
        shutil.rmtree(place)
        raise DataError(f"{place}: the index is damaged ({error}) and was deleted. Begin the command again: it is made anew.") from None
    return Index(file, form, folder, place, found, faults, lost)


@functools.cache
def content_hash(path: str, size: int, mtime_ns: int) -> str:
    """The SHA-256 of a file that has this size and mtime."""
    return file_hash(path)


class Part(NamedTuple):
    """What a stretch of a manifest comes to. faults: line and reason; lines: how many it has, counted from 1."""

    columns: dict[str, array]
    lost: list[int]
    faults: list[tuple[int, str]]
    lines: int


@contextlib.contextmanager
def processes(number: int) -> Iterator[Callable[..., Iterable[Part]]]:
    """A `map` over so many stretches that works in as many processes as there are cores."""
    cores = len(os.sched_getaffinity(0))
    if min(number, cores) < 2:
        yield map
        return
    with ProcessPoolExecutor(min(number, cores), mp_context=FORK) as pool:
        yield pool.map


def indexed(file: File, form: Form, folder: Folder, stretch: Stretch) -> Part:
    """The rows of a stretch, and its bad records."""
    rows = Rows(file, form, folder)
    faults = [(found.line, reason) for found in file.found(stretch) if (reason := rows.add(found)) is not None]
    return Part(rows.columns, rows.lost, faults, file.counted)


def build(file: File, form: Form, folder: Folder, place: Path, report: Report) -> None:
    """Make an index aside, then move it into place in one step."""
    place.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
    stage, stretches = f"indexing {Path(file.path).name} (%)", file.stretches()
    rows, lines = Rows(file, form, folder), 0
    try:
        with (work / "faults.jsonl").open("w", encoding="utf-8") as faults, processes(len(stretches)) as each:
            for stretch, part in zip(stretches, each(functools.partial(indexed, file, form, folder), stretches), strict=True):
                faults.writelines(json.dumps([lines + line, reason]) + "\n" for line, reason in part.faults)
                rows.extend(part, lines)
                lines += part.lines
                report(stage, round(100 * stretch.end / max(1, stretches[-1].end)), 100, f"{len(rows.columns['line']):,} good records")
        rows.write(work)
        work.chmod(0o755)  # mkdtemp makes folders for its owner only
        try:
            os.replace(work, place)
        except OSError:
            if not place.is_dir():
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


class Rows:
    """The columns of an index while it is made. lost: as of `Index`."""

    def __init__(self, file: File, form: Form, folder: Folder) -> None:
        self.file, self.form, self.folder = file, form, folder
        self.columns = {name: array(code) for name, code in COLUMNS.items()}
        self.lost: list[int] = []
        self.append = tuple(self.columns[name].append for name in COLUMNS if name != "media")
        self.media = self.columns["media"]

    def add(self, found: Found) -> str | None:
        """Take a record in, or say what is wrong with it."""
        if isinstance(found.value, BadRecord):
            return found.value.reason
        before = len(self.media)
        try:
            plain = None if found.held else self.form.plain(found.value)
            if plain is None:
                conversation = self.form.parse(found.value, found.held)
                name, part, files = conversation.name, conversation.part, [name for one in conversation.media for name in one.files]
                answers = sum(role == "assistant" for role, _ in conversation.turns)
                self.media.extend(number_of(self.inside(found.offset, one)) for one in conversation.media if one.place is not None)
            else:
                (name, files, answers), part = plain, None
            whole = True
            for file in files:
                path, there = self.folder.there(file)
                self.media.append(number_of(path.encode(errors="surrogateescape")))
                whole = whole and there
        except (Fault, BadRecord) as fault:
            del self.media[before:]
            reason = fault.reason if isinstance(fault, BadRecord) else f"key {fault.key!r}: {fault.reason}"
            return described(self.form, found.value, reason)
        if not whole:
            self.lost.append(len(self.columns["line"]))
        known = 0 if name is None else number_of(name.encode())
        place = -1 if part is None else PARTS.index(part)
        row = found.offset, found.length, found.line, number_of(found.data), known, place, answers, len(self.media)
        for append, value in zip(self.append, row, strict=True):
            append(value)
        return None

    def inside(self, row: int, medium: Medium) -> bytes:
        """The bytes of a picture in a table."""
        assert isinstance(self.file, TableFile) and medium.place is not None
        return self.file.encoded(row, medium.file, medium.place)

    def extend(self, part: Part, lines: int) -> None:
        """Take in the rows of a stretch that stands behind so many lines."""
        self.lost += [len(self.columns["line"]) + row for row in part.lost]
        shifts = {"line": lines, "media_end": len(self.media)}
        for name, values in part.columns.items():
            own = np.array(values, values.typecode) + np.dtype(values.typecode).type(shifts.get(name, 0))
            self.columns[name].frombytes(own.tobytes())

    def write(self, place: Path) -> None:
        """Write the columns down."""
        for name, values in self.columns.items():
            np.save(place / f"{name}.npy", np.array(values, values.typecode))
        (place / "lost.jsonl").write_text("".join(f"{row}\n" for row in self.lost))


def described(form: Form, record: Mapping[str, Any], reason: str) -> str:
    """A reason, behind the id of its record where it has one."""
    name = record.get(form.names["id"])
    return f"record {str(name)[:80]!r}: {reason}" if isinstance(name, str | int) else reason


def number_of(data: bytes) -> int:
    """64 bits by which some bytes are known (XXH3)."""
    return xxhash.xxh3_64_intdigest(data)


def media_sources(
    file: File, folder: Folder, place: str, offset: int, media: Sequence[Medium]
) -> Iterator[tuple[Medium, str, tuple[str, ...]]]:
    """Each medium of a record with its source, and the sources of its frames. place: of the record. Raises `BadRecord`."""
    for one in media:
        if one.place is not None:
            assert isinstance(file, TableFile)
            yield one, file.source(offset, one.file, one.place), ()
        else:
            frames = tuple(folder.file(name, place) for name in one.frames)
            yield one, frames[0] if frames else folder.file(one.file, place), frames
