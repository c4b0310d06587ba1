"""Boxes by class: average precision, what is invented, and what is taken for what."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.answers.regions import labels_of, plain
from lab.report.document import Block, Heading, Mono, Paragraph, Table, Text
from lab.report.formatting import NONE, count, percent
from lab.report.measure import Measured
from lab.report.tables import best, label_of, shown_of
from lab.statistics.box_pairs import box_pairs, confused, matches, sizes_of
from lab.statistics.metrics.regions import BOXES

MOST_ARMS, MOST_CLASSES, MOST_MATRICES = 4, 30, 2
ALONE = "–"


def read(m: Measured) -> PredictionTable:
    """The columns that say where boxes are and which."""
    return predictions.read(m.path, (*BOXES, "scores", "text"))


def class_blocks(measured: Sequence[Measured]) -> list[Block]:
    """A row for each class of each arm: boxes, hits, AP; classes that no reference has among them."""
    shown, rows, runs, cut = best(measured, MOST_ARMS), [], [], 0
    notes: list[Block] = []
    for m in shown:
        table = read(m)
        counted = class_counts(table)
        kept = sorted(counted, key=lambda name: (-counted[name]["references"], -counted[name]["predicted"], name))
        cut = max(cut, len(kept) - MOST_CLASSES)
        by_class = {} if box_pairs(table).clicks else matches(table).by_class()
        for name in kept[:MOST_CLASSES]:
            rows.append((label_of(m), (Mono(name),), *class_cells(counted[name], by_class.get(name))))
            runs.append((m.arm.run.identity,))
        aliases = m.arm.run.config["data"].get("aliases") or {}
        notes += [Paragraph((Mono(m.arm.label), f": {note}")) for note in name_notes(table, counted, aliases)]
    headers = ("arm", "class", "references", "predicted", "hits", "recall, %", "precision, %", "AP, %", "AP50, %", "AP75, %")
    said = "A class that no reference has is marked as invented: it is in no mean over classes, and its boxes are false positives."
    more = f" {cut} more classes are not shown." if cut > 0 else ""
    table = Table(headers, tuple(rows), frozenset(range(2, 10)), shown_of(len(measured), MOST_ARMS), tuple(runs))
    return [Heading(2, "By class"), Paragraph(said + more), table, *notes]


def name_notes(table: PredictionTable, counted: Mapping[str, Counter[str]], aliases: Mapping[str, str]) -> list[str]:
    """How many predicted labels `data.aliases` has read as another, and which invented ones may be another spelling of a class."""
    written = Counter[str]()
    for text, boxes in zip(table.text, table.boxes, strict=True) if aliases else ():
        written.update(labels_of(text, boxes))
    read = [(name, to) for name, to in sorted(aliases.items()) if written[name]]
    notes = [f"{count(written[name])} boxes that it calls {name} are read as {to} by data.aliases." for name, to in read]
    classes = {plain(name): name for name, found in counted.items() if found["references"]}
    for name, found in counted.items():
        if not found["references"] and (right := classes.get(plain(name))):
            key = f"data.aliases={{{name}: {right}}}"
            notes.append(f"{count(found['predicted'])} boxes of the invented class {name} may be {right}; {key} reads them so.")
    return notes


def class_counts(table: PredictionTable) -> dict[str, Counter[str]]:
    """References, predictions and hits of every class."""
    counted: dict[str, Counter[str]] = {}
    for right, said, pairs in zip(table.references, table.regions, box_pairs(table).pictures, strict=True):
        for region in right:
            counted.setdefault(region.label, Counter())["references"] += 1
        for region, hit in zip(said, pairs.hit.tolist(), strict=True):
            counted.setdefault(region.label, Counter()).update(predicted=1, hits=int(hit))
    return counted


def class_cells(counted: Counter[str], average: Sequence[float] | None) -> list[Text]:
    """Cells after the name."""
    asked, said, hits = (counted[name] for name in ("references", "predicted", "hits"))
    ratios = [percent(hits / of) if of else NONE for of in (asked, said)]
    return [count(asked) if asked else "0 (invented)", count(said), count(hits), *ratios, *map(percent, average or (None, None, None))]


def confusion_blocks(measured: Sequence[Measured]) -> list[Block]:
    """Of the best arms, how boxes that overlap are labelled, and how many are alone; nothing where there is only one label."""
    page: list[Block] = []
    for m in best(measured, MOST_MATRICES):
        table = read(m)
        rows = zip(table.regions, table.references, sizes_of(table), strict=True)
        pairs = Counter(pair for said, right, size in rows for pair in confused(said, right, size, box_pairs(table).clicks))
        right, said = Counter[str | None](), Counter[str | None]()
        for (reference, label), number in pairs.items():
            right[reference] += number
            said[label] += number
        names = [[name for name, _ in side.most_common() if name is not None][:MOST_CLASSES] for side in (right, said)]
        if len(set(names[0] + names[1])) < 2:
            continue
        cells: list[tuple[Text, ...]] = [((Mono(name),), *(count(pairs[name, label]) for label in (*names[1], None))) for name in names[0]]
        cells.append(("none there", *(count(pairs[None, label]) for label in names[1]), ALONE))
        headers = ("reference", *names[1], "missed")
        page += [Paragraph((Mono(m.arm.label), ": boxes that overlap from IoU .5 on, whatever their labels."))]
        page.append(Table(headers, tuple(cells), frozenset(range(1, len(headers))), runs=((m.arm.run.identity,),) * len(cells)))
    return [Heading(3, "What is taken for what"), *page] if page else []
