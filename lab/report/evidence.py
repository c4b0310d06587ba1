"""Standard rows beside accuracy: is the model looking, does it survive a swap of the images, is it the model it is said to be?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from lab.evaluation import predictions, swap, winoground
from lab.evaluation.statistics import Interval, interval
from lab.report.document import Mono, Table, Text
from lab.report.measure import Measured
from lab.report.tables import best, shown_of
from lab.report.wording import NONE, count, percent, percent_within
from lab.runs import folder

CONTROLS = {"dev_blank": "grey images", "dev_shuffled": "another set's images", "dev_text_only": "no images"}
SWAPS = {
    "neutral": "no side named",
    "renamed": "sides named and swapped in the text",
    "contradicted": "sides named, text kept",
}
COLUMNS = ("sample_id", "image_set", "sentence_group", "label", "log_p_true", "log_p_false", "prediction")


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
    return interval(predictions.read(path, COLUMNS), "accuracy")


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
    return swap.agreement(predictions.read(path_of(m, runs_dir, "dev"), COLUMNS), predictions.read(path, COLUMNS))


def winoground_table(measured: Sequence[Measured], runs_dir: Path) -> Table | None:
    """Text, image and group scores of arms that were asked Winoground, in their run or by `lab.evaluate`; None if none was."""
    rows: list[tuple[Text, ...]] = []
    for m in best(measured):
        for path, broken in winoground_files(m, runs_dir):
            found = winoground.intervals(predictions.read(path, COLUMNS))
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


def winoground_files(m: Measured, runs_dir: Path) -> list[tuple[Path, bool]]:
    """Predictions of an arm on Winoground, and whether they broke its contract."""
    found = []
    if m.arm.run.config.get("data", {}).get("name") == "winoground":
        found.append((path_of(m, runs_dir, "dev"), False))
    for path in sorted((folder(runs_dir, m.arm.run.identity) / "evaluations").glob("*.json")):
        facts = json.loads(path.read_text(encoding="utf-8"))
        if facts["data"]["name"] == "winoground":
            found.append((path.with_suffix(".parquet"), facts["contract_broken"]))
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
