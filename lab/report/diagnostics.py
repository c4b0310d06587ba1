"""Standard rows beside accuracy: is the model looking, does it survive a swap of the images, is it the model it is said to be?"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from lab.answers import predictions
from lab.errors import LabError
from lab.evaluation import swap
from lab.report.document import Mono, Table, Text
from lab.report.formatting import NONE, count, percent, percent_within
from lab.report.measure import Measured
from lab.report.tables import best, shown_of
from lab.statistics import winoground
from lab.statistics.comparing import Interval, interval
from lab.store.runs import folder

log = logging.getLogger(__name__)

Made = TypeVar("Made")
CONTROLS = {"dev_blank": "grey images", "dev_shuffled": "another set's images", "dev_text_only": "no images"}
SWAPS = {
    "neutral": "no side named",
    "renamed": "sides named and swapped in the text",
    "contradicted": "sides named, text kept",
}
COLUMNS = ("sample_id", "image_set", "question_group", "right", "log_p", "prediction")


def path_of(m: Measured, runs_dir: Path, name: str) -> Path:
    """A predictions file of an arm."""
    return folder(runs_dir, m.arm.run.identity) / "predictions" / f"{name}.parquet"


def written(found: Interval | None) -> str:
    """`71.2 [69.9, 72.4]`, or a dash."""
    return NONE if found is None else percent_within(found.estimate, found)


def controls_table(measured: Sequence[Measured], runs_dir: Path) -> Table | None:
    """Accuracy with the images taken away; None if no arm was asked so."""
    shown = [m for m in best(measured) if any(path_of(m, runs_dir, name).exists() for name in CONTROLS)]
    if not shown:
        return None
    rows: list[tuple[Text, ...]] = []
    for m in shown:
        cells = [accuracy(path_of(m, runs_dir, name)) for name in CONTROLS]
        rows.append(((Mono(m.arm.label),), percent_within(m.metrics["accuracy"], m.intervals.get("accuracy")), *map(written, cells)))
    columns = ("arm", "accuracy, % [95 %]", *CONTROLS.values())
    return Table(columns, tuple(rows), frozenset(range(1, len(columns))), caption=shown_of(len(measured)))


def accuracy(path: Path) -> Interval | None:
    """Accuracy of a predictions file with its interval; None if there is no such file."""
    if not path.exists():
        return None
    return or_dash(lambda: interval(predictions.read(path, COLUMNS), "accuracy"))


def or_dash(make: Callable[[], Made]) -> Made | None:
    """A value, or None, with a line that says why, where a file beside the run's own answers cannot be read."""
    try:
        return make()
    except LabError as error:
        log.warning("%s The report shows a dash instead.", error)
        return None


def swap_table(measured: Sequence[Measured], runs_dir: Path) -> Table | None:
    """Share of answers that survive showing the images in the other order; None if no arm was asked so."""
    shown = [m for m in best(measured) if any(path_of(m, runs_dir, f"dev_swap_{group}").exists() for group in SWAPS)]
    if not shown:
        return None
    rows: list[tuple[Text, ...]] = []
    sizes: dict[str, int] = {}
    for m in shown:
        found = {group: agreement(m, runs_dir, group) for group in SWAPS}
        sizes |= {group: one.num_examples for group, one in found.items() if one is not None}
        rows.append(((Mono(m.arm.label),), *(written(one) for one in found.values())))
    columns = ("arm", *(f"{said} (n = {count(sizes.get(group, 0))}), % [95 %]" for group, said in SWAPS.items()))
    return Table(columns, tuple(rows), frozenset(range(1, len(columns))), caption=shown_of(len(measured)))


def agreement(m: Measured, runs_dir: Path, group: str) -> Interval | None:
    """Share of a group whose swapped answer equals the original one; None if it was not asked or is one cluster."""
    path = path_of(m, runs_dir, f"dev_swap_{group}")
    if not path.exists():
        return None
    original = path_of(m, runs_dir, "dev")
    return or_dash(lambda: swap.agreement(predictions.read(original, COLUMNS), predictions.read(path, COLUMNS)))


def winoground_table(measured: Sequence[Measured], runs_dir: Path) -> Table | None:
    """Text, image and group scores of arms that were asked Winoground, in their run or by `lab.evaluate`; None if none was."""
    rows: list[tuple[Text, ...]] = []
    for m in best(measured):
        for path, broken in winoground_files(m, runs_dir):
            found = or_dash(partial(winoground_intervals, path))
            if found is None:
                continue
            name = "" if path.stem == "dev" else f" evaluation {path.stem}"
            mark = " (contract broken)" if broken else ""
            size = count(next(iter(found.values())).num_clusters)
            rows.append(((Mono(m.arm.label), name, mark), size, *map(written, found.values())))
    if not rows:
        return None
    chance = [percent(share) for share in winoground.CHANCE.values()]
    names = (f"{name}, % [95 %]" for name in winoground.CHANCE)
    return Table(
        ("arm", "examples", *names), (*rows, ("chance", NONE, *chance)), frozenset(range(1, 5)), caption=shown_of(len(measured))
    )


def winoground_intervals(path: Path) -> dict[str, Interval]:
    """The scores of a predictions file. Raises `LabError` if it cannot be read."""
    return winoground.intervals(predictions.read(path, COLUMNS))


def winoground_files(m: Measured, runs_dir: Path) -> list[tuple[Path, bool]]:
    """Predictions of an arm on Winoground, and whether they broke its contract."""
    found = []
    if m.arm.run.config.get("data", {}).get("name") == "winoground":
        found.append((path_of(m, runs_dir, "dev"), False))
    for path in sorted((folder(runs_dir, m.arm.run.identity) / "evaluations").glob("*.json")):
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
            name, broken = facts["data"]["name"], bool(facts["contract_broken"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("%s: this is no evaluation of this laboratory (%s); it is left out.", path, error)
            continue
        if name == "winoground":
            found.append((path.with_suffix(".parquet"), broken))
    return found


def gate_table(measured: Sequence[Measured]) -> Table | None:
    """The equivalence gate's verdict of each arm; None if it was switched off everywhere."""
    shown = [m for m in best(measured) if m.arm.run.facts.get("verify")]
    if not shown:
        return None
    names = list(dict.fromkeys(check["name"] for m in shown for check in m.arm.run.facts["verify"]))
    rows = []
    for m in shown:
        checks = {check["name"]: check for check in m.arm.run.facts["verify"]}
        rows.append(((Mono(m.arm.label),), *(verdict(checks.get(name)) for name in names)))
    columns = ("arm", *names)
    return Table(columns, tuple(rows), frozenset(), caption=shown_of(len(measured)))


def verdict(check: dict | None) -> str:
    """`pass, 2.4e-06, 0 of 8 flip`."""
    if check is None:
        return NONE
    if check["passed"] is None:
        return "not applicable"
    gap = "" if check["max_gap"] is None else f", gap {check['max_gap']:.2g}"
    flips = "" if check["flips"] is None else f", {check['flips']} of {check['num_examples']} flip"
    return ("pass" if check["passed"] else "FAIL") + gap + flips
