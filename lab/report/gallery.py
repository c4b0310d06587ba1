"""Single answers beside their pictures: where arms differ most, then what all of them miss.

Predictions hold no pictures: they are read anew from the data set, as the run's own config names it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lab import data
from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.data import video
from lab.data.images import decode
from lab.data.splits import Records
from lab.errors import DataError, LabError
from lab.host.files import text_hash
from lab.records import Clip, Medium, Sample, Split
from lab.report.document import Answer, Block, Case, Gallery, Heading, Mono, Paragraph, Warn
from lab.report.findings import Findings
from lab.report.formatting import count, shorten
from lab.report.kinds import page_of
from lab.report.measure import Measured
from lab.report.tables import best, shown_of
from lab.statistics.metrics import Metric
from lab.store import clip_files

MOST_ARMS = 6
MOST_PICTURES = 4
"""Of one case; more are counted."""
MOST_FRAMES = 6
"""Of one clip."""
FRAME_GAP = 2
"""Pixels between two frames of a strip."""
MOST_BYTES = 1_500_000
"""Of all pictures together, as a page holds them (base64)."""
SIDES = (320, 256, 192, 128, 96, 64)
"""Longest sides of a picture in pixels, of which the first is taken whose pictures fit into `MOST_BYTES`."""
LOSSLESS_UP_TO = 96
"""Longest side of a picture that is kept to the bit: its few pixels are all there is to see."""
LONGEST = 400
"""Characters of a question or an answer that are shown."""


def gallery_blocks(findings: Findings, number: int) -> list[Block]:
    """At most `number` cases of dev, or the sentence that says why there are none; nothing if no arm was measured or number is 0."""
    if not findings.measured or not number:
        return []
    items = findings.measured[0].items
    asked_the_same = [m for m in findings.measured if m.items == items]
    arms = best(asked_the_same, MOST_ARMS)
    page: list[Block] = [Heading(2, "Gallery")]
    try:
        tables = aligned([predictions.read(m.path) for m in arms])
        own = page_of(findings.kind.name).gallery
        if own is not None:
            rows = worst(tables, findings.kind.main, number)
            return [*page, *own([(m.arm.label, m.arm.run.identity) for m in arms], tables, read(arms[0], tables[0], rows), True)]
        differing, missed = choose_cases(tables, findings.kind.main, number)
        samples = read(arms[0], tables[0], [*differing, *missed])
        small = pictures(list(samples.values()), shown=clip_files.shown(arms[0].arm.folder))
    except LabError as error:
        return [*page, Warn(f"No gallery: {error}")]
    told = [page_of(findings.kind.name).in_words(table) for table in tables]
    right = rights(tables, findings.kind.main)

    def case(row: int) -> Case:
        sample, names, runs = samples[row], [m.arm.label for m in arms], [m.arm.run.identity for m in arms]
        said = [shorten(each[row][1], LONGEST) for each in told]
        answers = tuple(map(Answer, names, said, right[:, row].tolist(), runs))
        return Case(small[sample.sample_id], question_of(sample), shorten(told[0][row][0], LONGEST), answers, turns_of(sample))

    size = sum(len(picture) for images in small.values() for picture in images)
    page.append(Paragraph(
        f"{len(samples)} of {count(len(tables[0]))} dev examples; among equals the order is drawn by the hash of their ids. "
        f"✓ right, ✗ wrong, ◐ in part. The pictures take {size / 1000:,.0f} kB. {shown_of(len(asked_the_same), MOST_ARMS)}".strip()
    ))  # fmt: skip
    if len(arms) > 1 and not differing:
        page.append(Paragraph("No example tells these arms apart: they are right on the same ones."))
    for title, rows in (("Arms differ", differing), ("All arms miss", missed)):
        if rows:
            page += [Heading(3, title), Gallery(tuple(map(case, rows)))]
    return page


def answers_gallery(table: PredictionTable, split: Split, number: int) -> list[Block]:
    """At most `number` answers to questions whose right answers nobody knows, the least sure first. table: of the whole split."""
    rows, own = np.argsort(table.confidence, kind="stable")[:number].tolist(), page_of(table.kind).gallery
    shown = "All" if len(rows) == len(table) else f"The {count(len(rows))} least sure"
    opening = Paragraph(f"{shown} of {count(len(table))} answers with their probability, the least sure first.")
    if own is not None:
        return [opening, *own([("", "")], [table], {row: split[row] for row in rows}, False)]
    samples, told = [split[row] for row in rows], page_of(table.kind).in_words(table)
    small = pictures(samples)
    cases = [
        Case(
            small[sample.sample_id], (Mono(sample.sample_id), " ", question_of(sample)), "",
            (Answer("", shorten(told[row][1], LONGEST), None),), turns_of(sample),
        )
        for row, sample in zip(rows, samples, strict=True)
    ]
    return [opening, Gallery(tuple(cases))]


def question_of(sample: Sample) -> str:
    """What is asked, and of how many pictures beyond those that are shown."""
    more = len(sample.images) - MOST_PICTURES
    return shorten(sample.text, LONGEST) + (f" (and {more} more images)" if more > 0 else "")


def turns_of(sample: Sample) -> tuple[tuple[str, str], ...]:
    """The messages of a conversation before the answer, each picture and clip named where it stands."""
    names = [f"[{'clip' if isinstance(each, Clip) else 'image'} {place}]" for place, each in enumerate(sample.images, 1)]
    said = ("".join(part if isinstance(part, str) else names[part] for part in turn.parts) for turn in sample.turns)
    return tuple((turn.role, shorten(text, LONGEST)) for turn, text in zip(sample.turns, said, strict=True))


def aligned(tables: Sequence[PredictionTable]) -> list[PredictionTable]:
    """Every table in the order of the first; they hold the same samples."""
    order = np.argsort(np.argsort(tables[0].sample_id, kind="stable"), kind="stable")
    return [table.take(np.argsort(table.sample_id, kind="stable")[order]) for table in tables]


def rights(tables: Sequence[PredictionTable], main: Metric) -> np.ndarray:
    """How right each arm is on each example, in [0, 1], [arms, n]."""
    assert main.each is not None
    return np.stack([np.asarray(main.each(table), dtype=np.float64) for table in tables])


def choose_cases(tables: Sequence[PredictionTable], main: Metric, number: int) -> tuple[list[int], list[int]]:
    """Rows on which arms differ, those that split them most evenly first, and rows that all miss: two thirds and one, or what there is."""
    right = rights(tables, main)
    spread, drawn = right.var(axis=0), [text_hash(name) for name in tables[0].sample_id.tolist()]
    order = sorted(range(len(drawn)), key=lambda row: (-spread[row], drawn[row]))
    differing = one_a_set([row for row in order if spread[row] > 0], tables[0])
    missed = one_a_set([row for row in order if not right[:, row].any()], tables[0])
    first = max(min(len(differing), number - number // 3), number - len(missed))
    return differing[:first], missed[: number - min(first, len(differing))]


def worst(tables: Sequence[PredictionTable], main: Metric, number: int) -> list[int]:
    """Rows that all arms together have least right, first; of equal ones in the order of their ids' hashes."""
    right, drawn = rights(tables, main).mean(axis=0), [text_hash(name) for name in tables[0].sample_id.tolist()]
    return one_a_set(sorted(range(len(drawn)), key=lambda row: (right[row], drawn[row])), tables[0])[:number]


def one_a_set(rows: Sequence[int], table: PredictionTable) -> list[int]:
    """The rows with the first of each image set before the others."""
    seen: set[str] = set()
    first = [row for row in rows if not (table.image_set[row] in seen or seen.add(table.image_set[row]))]
    return first + [row for row in rows if row not in set(first)]


def read(m: Measured, table: PredictionTable, rows: Sequence[int]) -> dict[int, Sample]:
    """The samples of some rows with their pictures. Raises `LabError` where the data are gone, or are no longer those of the run."""
    config = m.arm.run.config
    cache = Path(config["tracking"]["cache_dir"])
    if not cache.is_dir():
        raise DataError(f"the pictures are not here: tracking.cache_dir={cache} of run {m.arm.run.identity} is no folder seen from here.")
    split = data.load(data.stored(config["data"]), cache).dev
    places = {name: place for place, name in enumerate(split.sample_ids)}
    if missing := sum(name not in places for name in table.sample_id.tolist()):
        raise DataError(f"{missing} of {len(table)} samples of run {m.arm.run.identity} are no longer in data={config['data']['name']}.")
    answered = Records([split.index(place) for place in sorted(places[name] for name in table.sample_id.tolist())])
    if data.fingerprint(answered) != known_fingerprint(m):
        raise DataError(f"the dev samples of data={config['data']['name']} are no longer those that run {m.arm.run.identity} was asked.")
    return {row: split[places[str(table.sample_id[row])]] for row in rows}


def known_fingerprint(m: Measured) -> Any:
    """The hash of the dev samples that a run recorded."""
    return m.arm.run.facts.get("data", {}).get("samples", {}).get("dev")


def pictures(
    samples: Sequence[Sample], sides: Sequence[int] = SIDES, shown: Mapping[str, Sequence[int]] | None = None
) -> dict[str, tuple[bytes, ...]]:
    """WebP thumbnails of each sample's first images by its id, as large as `MOST_BYTES` allow; of a clip a filmstrip.

    shown: places of the frames of clips that the model was shown, by their sources.
    """

    def frames(medium: Medium) -> list[Image.Image]:
        if isinstance(medium, Clip):
            return video.filmstrip(medium, MOST_FRAMES, (shown or {}).get(medium.source, ()))
        return [decode(medium)]

    whole = {
        sample.sample_id: [[reduced(frame, sides[0]) for frame in frames(medium)] for medium in sample.images[:MOST_PICTURES]] for sample in samples
    }
    small: dict[str, tuple[bytes, ...]] = {}
    for side in sides:
        small = {name: tuple(thumbnail(image, side) for image in images) for name, images in whole.items()}
        if 4 / 3 * sum(len(one) for images in small.values() for one in images) <= MOST_BYTES:
            break
    return small


def reduced(image: Image.Image, side: int) -> Image.Image:
    """An image at most `side` pixels high and wide; what is smaller is not enlarged."""
    copy = image.copy()
    copy.thumbnail((side, side))
    return copy


def thumbnail(images: Sequence[Image.Image], side: int) -> bytes:
    """The same as WebP; of several frames of one size a strip."""
    frames, out = [reduced(image, side) for image in images], io.BytesIO()
    width, height = frames[0].size
    strip = Image.new("RGB", (len(frames) * (width + FRAME_GAP) - FRAME_GAP, height), "white")
    for place, frame in enumerate(frames):
        strip.paste(frame, (place * (width + FRAME_GAP), 0))
    strip.save(out, "WEBP", quality=75, method=4, lossless=max(width, height) <= LOSSLESS_UP_TO)
    return out.getvalue()
