"""Two sweeps side by side, A and B: what they ask, in what they differ, and what may be claimed where both answered the same questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from lab.host.progress import Report, silent
from lab.report import figures
from lab.report.compare import MOST_RIVALS, Group, Pair, compare_pairs
from lab.report.document import Block, Bullets, Heading, Lead, Link, Mono, Paragraph, Strong, Table, Text
from lab.report.drawing import Drawing, Picture
from lab.report.findings import Findings
from lab.report.formatting import NONE, capital, number, number_within, p_value, points, quantity, shorten
from lab.report.headline import best_group, headline, score
from lab.report.kinds import page_of
from lab.report.measure import Measured
from lab.report.page import figure_block
from lab.report.protocol import protocol_blocks
from lab.report.select_runs import Selection, short_values
from lab.report.tables import provenance_table
from lab.statistics.verdict import verdicts

NAMES = ("both_with_intervals", "both_against_cost")
"""Of the figures."""
MOST_VALUES = 8
"""Of a key that a sweep varies, as many are written."""


@dataclass(frozen=True)
class Versus:
    """Two sweeps and what was compared between them; notes: what could not be, in sentences."""

    first: Findings
    second: Findings
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...]

    @property
    def sides(self) -> Mapping[str, Findings]:
        return {"A": self.first, "B": self.second}


def compare_sweeps(first: Findings, second: Findings, num_resamples: int, report: Report = silent) -> Versus:
    """Compare the best arm of each on minival, and arms of equal name, with Holm's correction over all of them."""
    notes: list[str] = []
    compared = compare_pairs(choose_pairs(first, second, notes), notes, num_resamples, report)
    claims = verdicts([(comparison, one, other) for one, other, comparison, _ in compared])
    return Versus(first, second, tuple(Pair(*one, claim) for one, claim in zip(compared, claims, strict=True)), tuple(notes))


def lettered(group: Group, letter: str) -> Group:
    return replace(group, label=f"{group.label} of {letter}")


def choose_pairs(first: Findings, second: Findings, notes: list[str]) -> list[tuple[Group, Group]]:
    """The best of both, then arms of equal name; a pair needs the same questions, and to be two experiments."""
    if not first.measured or not second.measured:
        return []
    there = {group.label: group for group in second.compared.groups}
    alike = [(group, there[group.label]) for group in first.compared.groups if group.label in there]
    if len(alike) > MOST_RIVALS:
        notes.append(f"Of {len(alike)} arms of equal name the first {MOST_RIVALS} are compared.")
    chosen: dict[tuple[str, str], tuple[Group, Group]] = {}
    for one, other in [(best_group(first), best_group(second)), *alike[:MOST_RIVALS]]:
        if one.runs == other.runs:
            notes.append(f"{one.label} is the same run in both.")
        elif {m.items for m in one.members} != {m.items for m in other.members} or first.kind is not second.kind:
            notes.append(f"{one.label} of A and {other.label} of B are not compared: they were not asked the same dev questions.")
        else:
            chosen[one.label, other.label] = lettered(one, "A"), lettered(other, "B")
    notes[:] = list(dict.fromkeys(notes))
    return list(chosen.values())


def answer(versus: Versus) -> str:
    """One sentence: both best arms, and what may be said of them."""
    if not versus.first.measured or not versus.second.measured:
        return " ".join(f"{letter}: {headline(findings)}" for letter, findings in versus.sides.items())
    one, other = best_group(versus.first), best_group(versus.second)
    said = f"The best of A, {one.label}, has {score(one)}; the best of B, {other.label}, has {score(other)}"
    names = (f"{one.label} of A", f"{other.label} of B")
    claim = next((pair.claim.sentence for pair in versus.pairs if (pair.first, pair.second) == names), None)
    return f"{said}: {claim}" if claim else f"{said}; the two are not compared."


def versus_pictures(versus: Versus) -> dict[str, Picture]:
    """Both sweeps' arms in one figure of intervals and one of costs; nothing where they cannot share an axis."""
    arms = [
        replace(m, arm=replace(m.arm, label=f"{letter}: {m.arm.label}")) for letter, findings in versus.sides.items() for m in findings.measured
    ][: figures.MOST_BARS]
    if not arms or versus.first.kind is not versus.second.kind:
        return {}
    baseline, title = page_of(arms[0].kind_name).baseline_name, capital(arms[0].kind.main.header)
    pictures = (
        Picture(
            lambda width: figures.with_intervals(arms, baseline, width), f"{title} of each arm of A and B", f"{title} on dev with 95 % intervals."
        ),
        Picture(
            lambda width: figures.against_cost(arms, width), f"{title} of each arm of A and B against its cost",
            f"{title} on dev against what an answer costs. {figures.front_in_words(arms)}",
        ),
    )  # fmt: skip
    return dict(zip(NAMES, pictures, strict=True))


def versus_blocks(versus: Versus, drawn: Mapping[str, Drawing], folder: Path) -> list[Block]:
    """The whole page that lies in `folder`."""
    page: list[Block] = [Heading(1, " against ".join(findings.selection.title for findings in versus.sides.values())), Lead(answer(versus))]
    for letter, findings in versus.sides.items():
        sweep = findings.selection.sweep
        question = (sweep.question if sweep else None) or "No question was written down."
        page.append(Paragraph((Strong(f"{letter}."), " ", Mono(findings.selection.name), f" {question} {headline(findings)}")))
    page += [Heading(2, "In what the sweeps differ"), *settings_blocks(versus)]
    page += [Heading(2, "Arm by arm"), *(protocols(versus)), arms_table(versus)]
    page += [block for name, one in drawn.items() for block in figure_block(one, folder / "figures" / f"{name}.png")]
    page += [Heading(2, "What may be claimed")]
    page += [Bullets(tuple(pair.claim.sentence for pair in versus.pairs))] if versus.pairs else [Paragraph("Nothing: no two arms can be compared.")]
    page += [Paragraph(f"Holm's correction is over {len(versus.pairs)} comparisons, on the same dev questions.")] if versus.pairs else []
    page += [Paragraph(note) for note in versus.notes] + [Heading(2, "Provenance")]
    known: set[str] = set()
    for letter, findings in versus.sides.items():
        arms = tuple(arm for arm in findings.selection.arms if arm.run.identity not in known)
        known |= {arm.run.identity for arm in arms}
        page += [Heading(3, f"Runs of {letter}"), provenance_table(replace(findings.selection, arms=arms), folder)]
    return page


def protocols(versus: Versus) -> list[Block]:
    """How each sweep's scores came about."""
    return [block for letter, findings in versus.sides.items() for block in (Heading(3, f"Scores of {letter}"), *protocol_blocks(findings.measured))]


def settings_blocks(versus: Versus) -> list[Block]:
    """Keys of which the sweeps have other values."""
    values = [settings(findings.selection) for findings in versus.sides.values()]
    keys = [key for key in dict.fromkeys(key for side in values for key in side) if values[0].get(key) != values[1].get(key)]
    rows: list[tuple[Text, ...]] = [((Mono(key),), *((Mono(side.get(key, NONE)),) for side in values)) for key in keys]
    return [Table(("key", "A", "B"), tuple(rows)) if rows else Paragraph("In nothing that makes an arm.")]


def settings(selection: Selection) -> dict[str, str]:
    """The values of each key over the arms of a sweep, in their order."""
    found: dict[str, dict[str, None]] = {}
    for arm in selection.arms:
        for key, value in short_values(arm.run.config).items():
            found.setdefault(key, {})[shorten(value, 60)] = None
    return {key: ", ".join([*values][:MOST_VALUES]) + (", ..." if len(values) > MOST_VALUES else "") for key, values in found.items()}


def arms_table(versus: Versus) -> Table:
    """A row for each name of an arm: its numbers in A, in B, and their paired difference."""
    sides = [{group.label: group for group in findings.compared.groups} for findings in versus.sides.values()]
    kinds, pairs = [findings.kind for findings in versus.sides.values()], {(pair.first, pair.second): pair for pair in versus.pairs}
    columns, rows, runs = arm_columns(versus), [], []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        members = [side[name].members[0] if name in side else None for side in sides]
        pair = pairs.get((f"{name} of A", f"{name} of B"))
        c = pair.comparison if pair else None
        cells: list[Text] = [(Link(name, f"#run-{next(m for m in members if m).arm.run.identity}"),)]
        cells += [within(m) for m in members]
        cells.append(points(c.difference, c.low, c.high) if c and c.metric.in_points else NONE)
        cells.append(p_value(pair.claim.holm_p) if pair and pair.comparison.has_interval else NONE)
        cells += [number(kind.metrics["ece"], m.metrics.get("ece")) if m else NONE for kind, m in zip(kinds, members, strict=True)]
        cells += [quantity(m.arm.run.metrics.get("latency/p50_ms")) if m else NONE for m in members]
        rows.append(tuple(cells))
        runs.append(tuple(dict.fromkeys(run for side in sides if name in side for run in side[name].runs)))
    return Table(columns, tuple(rows), frozenset(range(1, len(columns))), runs=tuple(runs))


def arm_columns(versus: Versus) -> tuple[str, ...]:
    one, other = (findings.kind.main for findings in versus.sides.values())
    return (
        "arm", f"A {one.title} [95 %]", f"B {other.title} [95 %]", f"{one.header}, A - B, points [95 %]", "p, Holm", "A ECE, %", "B ECE, %",
        "A latency p50, ms", "B latency p50, ms",
    )  # fmt: skip


def within(m: Measured | None) -> str:
    """The headline of the first seed with its interval."""
    return NONE if m is None else number_within(m.kind.main, m.headline, m.intervals.get(m.kind.headline))
