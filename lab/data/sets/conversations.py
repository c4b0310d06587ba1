"""`data=conversations data.sources=[a.json,b.jsonl,c.parquet]`: manifests in LLaVA's form or in that of messages (`conversation_file.record`).

A record is one `Sample`: its last answer is what is asked, all turns before it stand in `turns`, and every answer is learned unless
`data.loss_on=last`; with `data.loss_on=each` every answer of train is a sample of its own, which ends with it. Pictures and clips lie below
`data.root`, or beside the manifest, or in a table; each is shown where its placeholder stands.

Up to `WHOLE` records everything is looked at before anything trains, as of other data. Of more, records are checked and media looked for
once, when the manifest is indexed; what decodes is known by `python -m lab.data.check`, or when it is trained on, and nothing is kept in memory.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lab.config import DataDial, OnBad
from lab.data import DataSet, images, video
from lab.data.conversation_file import parts as dividing
from lab.data.conversation_file.index import number_of, open_index
from lab.data.conversation_file.record import COLUMNS
from lab.data.conversation_file.rows import Asked, Manifests, ManyRows, why_bad
from lab.data.faults import BadRecord, raise_or_skip
from lab.data.splits import finish, reject_unused_fields
from lab.errors import ConfigError, DataError, did_you_mean
from lab.freezing.files import sources_hash, sources_of
from lab.host.memory import give_back
from lab.host.progress import Report, bars
from lab.records import Source, Splits, Text

WHOLE = 10_000
"""Records of a part, and of all manifests, that are held in memory and looked at before anything trains."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """All manifests. rows: the good ones, int64. faults: bad records, and those whose media cannot be read. sources: as in `data.sources`."""

    manifests: Manifests
    rows: np.ndarray
    faults: list[BadRecord]
    notes: list[str]
    sources: list[dict[str, Any]]


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Read the manifests that `data.sources` names. Raises `ConfigError`, or `DataError` by `data.on_bad`."""
    reading = with_media(read(dial, cache_dir, bars()), cache_dir)
    if dial.on_bad is OnBad.fail:
        raise_or_skip(reading.faults, dial.on_bad)
    return splits_of(reading, dial, cache_dir)


def read(dial: DataDial, cache_dir: Path, report: Report) -> Reading:
    """The manifests, indexed, and their bad records. Raises `ConfigError`, or `DataError` for a manifest as a whole."""
    reject_unused_fields(dial, "root", "sources", "sha256", "columns", "allow_shared_images", "loss_on")
    if unknown := sorted(set(dial.columns) - set(COLUMNS)):
        raise ConfigError(f"data.columns.{unknown[0]}: legal are {', '.join(COLUMNS)}.{did_you_mean(unknown[0], COLUMNS)}")
    sources = sources_of(dial.sources)
    if not sources:
        raise ConfigError("data.sources: no manifest is named. Type data.sources=[a.json,b.jsonl].")
    indices = [open_index(source["path"], dial.root, dial.columns, cache_dir, report) for source in sources]
    if dial.sha256 is not None and (now := sources_hash(sources)) != dial.sha256:
        raise DataError(
            f"data.sources: the manifests have changed: their SHA-256 is {now[:12]}..., data.sha256 {dial.sha256[:12]}.... Put them back, or "
            "give data.sha256=null to read them as they are."
        )
    names = [Path(source["path"]).name for source in sources]
    names = names if len(set(names)) == len(names) else [source["path"] for source in sources]
    starts = np.cumsum([0, *map(len, indices)])
    together = {name: np.concatenate([index.columns[name] for index in indices]) for name in ("media", "digest", "name")}
    ends = np.concatenate([index.columns["media_end"] + before for index, before in zip(indices, media_starts(indices), strict=True)])
    known, times = np.unique(together["name"][together["name"] > 0], return_counts=True)
    groups = dividing.groups_of(together["media"], ends, together["digest"])
    manifests = Manifests(indices, names, starts, groups, known[times > 1], video.sampling(dial.video), dial.loss_on == "every")
    notes = [f"conversations: ids that stand more than once: {(times > 1).sum()}; they are told apart by their place."] if (times > 1).any() else []
    return Reading(manifests, np.arange(len(manifests)), [fault for index in indices for fault in index.faults], notes, sources)


def media_starts(indices: Sequence[Any]) -> list[int]:
    """How many media the manifests before each have."""
    return [0, *np.cumsum([len(index.columns["media"]) for index in indices]).tolist()][:-1]


def with_media(reading: Reading, cache_dir: Path) -> Reading:
    """The reading without the rows whose media cannot be used, a fault for each.

    Of few rows all media are looked at, and rows that share pixels belong together; of many those that could not be read before.
    """
    manifests = reading.manifests
    if len(manifests) > WHOLE:
        lost = [int(start) + row for start, index in zip(manifests.starts, manifests.indices, strict=False) for row in index.lost]
        found = {row: reason for row in lost if (reason := why_bad(manifests.sample(row).images, manifests.media))}
        note = (
            f"conversations: {len(manifests):,} records are more than {WHOLE:,}: whether their media decode is known by lab data check, or when "
            "they are trained on."
        )
        return without(dataclasses.replace(reading, notes=[*reading.notes, note]), found)
    samples = [manifests.sample(row) for row in reading.rows.tolist()]
    outcomes = images.outcomes([one for sample in samples for one in sample.images], cache_dir, tables=manifests.media)
    bad = {source: outcome for source, outcome in outcomes.items() if isinstance(outcome, str)}
    found: dict[int, str] = {}
    media, ends = [], []
    for row, sample in enumerate(samples):
        first = next((one for one in sample.images if one.source in bad), None)
        if first is not None:
            found[row] = f"record {sample.sample_id!r}: {first.source}: {bad[first.source]}"
        media += [number_of(pixels_of(outcomes[one.source], one.source)) for one in sample.images]
        ends.append(len(media))
    own = np.concatenate([index.columns["digest"] for index in manifests.indices])
    groups = dividing.groups_of(np.array(media, np.uint64), np.array(ends, np.int64), own)
    return without(dataclasses.replace(reading, manifests=dataclasses.replace(manifests, groups=groups)), found)


def pixels_of(outcome: images.Decoded | str, source: str) -> bytes:
    """What a medium is known by: what it shows, or its place where that cannot be read."""
    return (source if isinstance(outcome, str) else outcome.pixels).encode()


def without(reading: Reading, found: dict[int, str]) -> Reading:
    """The reading without some rows, a fault for each."""
    faults = [BadRecord(reading.manifests.source(row), reason) for row, reason in found.items()]
    return dataclasses.replace(reading, rows=np.setdiff1d(reading.rows, list(found)), faults=[*reading.faults, *faults])


def splits_of(reading: Reading, dial: DataDial, cache_dir: Path) -> Splits:
    """What was read as splits. Raises `DataError` for media in several parts, or by `data.on_bad`."""
    manifests, rows = reading.manifests, reading.rows
    given = np.concatenate([index.columns["part"] for index in manifests.indices])[rows]
    parts, notes, leak = dividing.parts_of(rows, given, manifests.groups[rows], dial)
    if leak and not dial.allow_shared_images:
        raise DataError(leak)
    parts["train"] = dividing.capped(
        parts["train"], manifests.groups[parts["train"]], manifests.starts, [source.get("cap") for source in reading.sources], dial.seed
    )
    asked = {part: Asked.last(rows) for part, rows in parts.items()}
    if dial.loss_on == "each":
        asked["train"] = Asked.each(manifests, parts["train"])
    few = {part: list(map(manifests.sample, one.rows.tolist(), one.places.tolist())) if len(one) <= WHOLE else [] for part, one in asked.items()}
    absent = "data.sources has no conversation for it."
    splits = finish(few, reading.faults, dial, cache_dir, [*reading.notes, *notes], absent, manifests.media)
    many = {part: ManyRows(manifests, one) for part, one in asked.items() if len(one) > WHOLE}
    give_back()  # columns of all rows, before processes are forked that would share them
    sources = tuple(sources_in(reading, splits, asked["train"].rows if "train" in many else None))
    return dataclasses.replace(splits, **many, sources=sources)


def sources_in(reading: Reading, splits: Splits, rows: np.ndarray | None) -> list[Source]:
    """What train has of each manifest. rows: of train, where it is not in memory."""
    manifests = reading.manifests
    if rows is not None:
        sizes = np.diff(rows.searchsorted(manifests.starts)).tolist()
    else:
        of_train = Counter(splits.train.index(i).subset for i in range(len(splits.train)))
        sizes = [of_train[name] for name in manifests.names] if len(manifests.names) > 1 else [len(splits.train)]
    return [
        Source(name, size, source.get("weight"), source.get("epochs"))
        for name, size, source in zip(manifests.names, sizes, reading.sources, strict=True)
    ]


DATA_SET = DataSet(load, kind=Text.kind, asks="conversation", clips=True)
"""Conversations about pictures and clips, of any number (`lab.data.sets.conversations`)."""
