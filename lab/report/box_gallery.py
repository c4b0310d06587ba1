"""Pictures with reference and predicted boxes drawn, arms side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lab.answers.predictions import PredictionTable
from lab.data.images import decode
from lab.records import Region, Sample
from lab.report.document import Block, Box, BoxAnswer, BoxCase, BoxGallery, Mono, Paragraph
from lab.report.formatting import count, shorten
from lab.report.gallery import LONGEST, SIDES, pictures
from lab.statistics.box_pairs import box_pairs

LARGE_SIDES = (1280, 960, 720, 540, 400, *SIDES)
"""Longest sides of a picture that is shown large, of which the first is taken whose pictures fit."""
MOST_DRAWN = 100
"""Predicted boxes of one picture that are drawn; more are counted."""


def gallery(arms: Sequence[tuple[str, str]], tables: Sequence[PredictionTable], samples: Mapping[int, Sample], known: bool) -> list[Block]:
    """A card for each sample, in their order; arms: label and run; tables: aligned. known: references are."""
    small = pictures(list(samples.values()), LARGE_SIDES)
    cases = []
    for row, sample in samples.items():
        answers = tuple(answer(label, run, table, row, known) for (label, run), table in zip(arms, tables, strict=True))
        title = (Mono(sample.sample_id), " ", shorten(sample.text, LONGEST))
        cases.append(BoxCase(small[sample.sample_id][0], decode(sample.images[0]).size, title, answers))
    size = sum(len(case.picture) for case in cases)
    order, hits = ("those with the least F1 first; ", " True: a hit, from IoU .5 on with the label.") if known else ("", "")
    said = (
        f"{len(cases)} of {count(len(tables[0]))} pictures, {order}a click on one shows it large with its labels.{hits} The pictures take "
        f"{size / 1000:,.0f} kB."
    )
    return [Paragraph(said), BoxGallery(tuple(cases))] if cases else []


def answer(label: str, run: str, table: PredictionTable, row: int, known: bool = True) -> BoxAnswer:
    """An arm's boxes on one picture, references below predictions; without references it is not known which are true."""
    if not known:
        return predicted(label, run, table, row)
    right, said, pairs = table.references[row], table.regions[row], box_pairs(table).pictures[row]
    boxes = [box(region, "reference" if found else "missed", "reference") for region, found in zip(right, pairs.found, strict=True)]
    scores = table.scores[row] or [None] * len(said)
    for region, score, hit, valid in list(zip(said, scores, pairs.hit, pairs.valid, strict=True))[:MOST_DRAWN]:
        told = ("hit" if hit else "no hit") if valid else "invalid"
        boxes.append(box(region, "true" if hit else "false", told, score))
    return BoxAnswer(label, run, in_words(table, row), tuple(boxes))


def predicted(label: str, run: str, table: PredictionTable, row: int) -> BoxAnswer:
    """An arm's boxes on one picture of which nobody has said what is there."""
    said, size = table.regions[row], (int(table.width[row]), int(table.height[row]))
    pairs = list(zip(said, table.scores[row] or [None] * len(said), strict=True))[:MOST_DRAWN]
    boxes = tuple(box(region, "predicted", "predicted" if region.valid(size) else "invalid", score) for region, score in pairs)
    more = [f"{len(said) - MOST_DRAWN} not drawn"] if len(said) > MOST_DRAWN else []
    return BoxAnswer(label, run, "; ".join([listed(said), *more, *unclear(table, row)]), boxes)


def box(region: Region, outcome: str, told: str, score: float | None = None) -> Box:
    corners = ", ".join(f"{value:.0f}" for value in region[1:])
    label = region.label + ("" if score is None else f" {score:.2f}")
    return Box(*region[1:], outcome, label, f"{label}\n{told}\n{corners}")


def in_words(table: PredictionTable, row: int) -> str:
    """`2 true, 1 false, 1 missed`, and how the answer was read where that is not plain."""
    pairs = box_pairs(table).pictures[row]
    parts = [(int(pairs.hit.sum()), "true"), (int((~pairs.hit).sum()), "false"), (int((~pairs.found).sum()), "missed")]
    said = ", ".join(f"{number} {word}" for number, word in parts if number) or "none there, none predicted"
    repeated, undrawn = int(pairs.repeat.sum()), len(pairs.hit) - MOST_DRAWN
    more = [f"{repeated} repeated"] if repeated else []
    more += [f"{undrawn} not drawn"] if undrawn > 0 else []
    return "; ".join([said, *more, *unclear(table, row)])


def unclear(table: PredictionTable, row: int) -> list[str]:
    """How an answer was read that is not plain."""
    return [f"answer {table.status[row]}"] if table.status[row] in ("partial", "failed") else []


def listed(regions: Sequence[Region]) -> str:
    """`2 table, 1 barcode`, or `none`."""
    return ", ".join(f"{number} {label}" for label, number in Counter(region.label for region in regions).items()) or "none"
