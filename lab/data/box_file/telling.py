"""What a file of boxes holds, in sentences: counts, classes, sizes, and what was read in a way of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from lab.answers import regions
from lab.data.box_file.records import Reading
from lab.records import Regions

SMALL, MEDIUM = 32, 96
"""COCO's sizes: a box below 32 x 32 pixels is small, one below 96 x 96 medium."""
MOST_CLASSES = 30
"""Classes that are listed before the rest is counted."""


def counts(answers: Sequence[Regions], unlabelled: int, head: str) -> str:
    """Pictures, boxes, empty pictures and those that nobody has labelled."""
    boxes, empty = sum(len(answer.regions) for answer in answers), sum(not answer.regions for answer in answers)
    return (
        f"{head}: {boxes} boxes in {len(answers) - empty} pictures; reviewed and empty: {empty} pictures; not labelled, and left out: "
        f"{unlabelled}."
    )


def empties(empty: int, unlabelled: int, reading: Reading, asked: str | None) -> list[str]:
    """A note where the format does not tell pictures that are empty from those that nobody has labelled."""
    if reading.says_reviewed or asked is not None or not empty + unlabelled:
        return []
    taken, other = ("empty", "unlabelled") if empty else ("not labelled", "reviewed")
    return [f"the format does not say whether pictures without boxes were looked at; they are taken as {taken} (data.empty={other}: the other)."]


def classes(answers: Sequence[Regions], reading: Reading, aliases: Mapping[str, str]) -> list[str]:
    """Boxes by class, classes without any, and names that may be one class."""
    found = Counter(region.label for answer in answers for region in answer.regions)
    shown = ", ".join(f"{label} {number}" for label, number in found.most_common(MOST_CLASSES))
    notes = [f"classes: {len(found)}: {shown}{', ...' if len(found) > MOST_CLASSES else ''}."]
    never = [name for name in dict.fromkeys(aliases.get(name, name) for name in reading.classes) if name not in found]
    notes += [f"classes that are declared and have no box: {', '.join(never)}."] if never else []
    alike: dict[str, list[str]] = {}
    for label in sorted(found):
        alike.setdefault(regions.plain(label), []).append(label)
    notes += [
        f"classes that may be one: {', '.join(names)}; data.aliases.{names[1]}={names[0]} makes them one."
        for names in alike.values() if len(names) > 1
    ]  # fmt: skip
    return notes


def sizes(answers: Sequence[Regions]) -> list[str]:
    """How large boxes are, how many a picture has, and those that are given twice."""
    boxes = [region for answer in answers for region in answer.regions]
    if not boxes:
        return []
    sides = np.array([(box.x1 - box.x0, box.y1 - box.y0) for box in boxes])
    areas = sides.prod(axis=1)
    small, large = int((areas < SMALL**2).sum()), int((areas >= MEDIUM**2).sum())
    width, height = np.median(sides, axis=0)
    share = np.median([area / (answer.size[0] * answer.size[1]) for answer in answers for area in areas_of(answer)])
    numbers = Counter(len(answer.regions) for answer in answers)
    told = ", ".join(f"{number}: {numbers[number]}" for number in sorted(numbers)[:6])
    notes = [
        f"areas: below {SMALL} x {SMALL} px {small}, below {MEDIUM} x {MEDIUM} px {len(boxes) - small - large}, larger {large}; "
        f"half are at least {width:.0f} px wide, half at least {height:.0f} px high; half take at least {share:.1%} of their picture.",
        f"pictures by number of boxes: {told}{', ...' if len(numbers) > 6 else ''}; most: {max(numbers)}.",
    ]
    twice = sum(len(answer.regions) - len(set(answer.regions)) for answer in answers)
    return [*notes, *([f"boxes that are given twice in a picture: {twice}."] if twice else [])]


def areas_of(answer: Regions) -> list[float]:
    """Area of each box, px²."""
    return [(box.x1 - box.x0) * (box.y1 - box.y0) for box in answer.regions]


def remarks(reading: Reading) -> list[str]:
    """What was read in a way of its own, or not read."""
    return [f"{what}: {number}." for what, number in reading.remarks.items()]
