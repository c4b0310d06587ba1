"""What the page says, from the question to the definitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lab.errors import LabError
from lab.report import calibrated, diagnostics, figures, speed, tables
from lab.report.checks import account, fact
from lab.report.definitions import DEFINITIONS
from lab.report.document import Block, Bullets, Code, Figure, Heading, Mono, Paragraph, Strong, Warn
from lab.report.findings import Findings
from lab.report.formatting import arms, percent, unseen
from lab.report.matching import ledger_table, matched

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Drawn

MARK = "written by lab.report"
DRAWINGS = ("accuracy_and_ece", "accuracy_against_cost", "reliability", "training_curves")
"""Names of the figures, which are also their file names."""


@dataclass(frozen=True)
class Drawing:
    """A figure as a PNG file, what it shows in words, and its caption; without a file, the caption says why there is none."""

    png: bytes | None
    alt: str
    caption: str


def drawings(findings: Findings) -> dict[str, Drawing]:
    """The figures that these arms give, by name; one that has nothing to show is left out."""
    measured = findings.measured
    if not measured:
        return {}
    trained, most = [m for m in measured if not m.arm.zero_shot], figures.MOST_LINES
    asked: dict[str, tuple[Callable[[], Drawn | None], str, str]] = {
        "accuracy_and_ece": (
            lambda: figures.accuracy_and_ece(tables.best(measured, figures.MOST_BARS)),
            "Accuracy and ECE of each arm with 95 % intervals",
            "Accuracy and ECE on dev with 95 % intervals. Hollow: zero-shot. Dashed: always the commoner label. "
            f"{tables.shown_of(len(measured), figures.MOST_BARS)}",
        ),
        "accuracy_against_cost": (
            lambda: figures.accuracy_against_cost(measured),
            "Accuracy of each arm against its latency and its visual tokens",
            "Accuracy on dev (95 % interval) against what an answer costs; arms of equal cost are set side by side. Dashed: "
            "the arms that no other beats in both.",
        ),
        "reliability": (
            lambda: figures.reliability(tables.best(measured, figures.MOST_PANELS)),
            "Reliability diagrams of each arm with the number of examples in each bin",
            "Reliability on dev: right answers against confidence in 15 equal-width bins, and the number of examples in each "
            f"bin. Points below the dashed line are overconfident. {tables.shown_of(len(measured), figures.MOST_PANELS)}",
        ),
        "training_curves": (
            lambda: figures.training_curves(measured if len(measured) <= most else tables.best(trained, most)),
            "Training loss and minival accuracy of each arm over optimizer steps",
            "Training loss and accuracy on minival as recorded. "
            f"{tables.shown_of(len(trained), most) if len(measured) > most else ''}",
        ),
    }
    made = {}
    for name, (draw, alt, caption) in asked.items():
        try:
            data = figures.png(draw, MARK)
        except LabError as error:
            made[name] = Drawing(None, alt, str(error))
        else:
            if data is not None:
                made[name] = Drawing(data, alt, caption.strip())
    return made


def blocks(findings: Findings, drawn: Mapping[str, Drawing], folder: Path) -> list[Block]:
    """The whole page; `folder` holds the figures in `drawn`."""

    def figure(name: str) -> list[Block]:
        if name not in drawn:
            return []
        if drawn[name].png is None:
            return [Warn(f"No figure: {drawn[name].caption}")]
        return [Figure(folder / f"{name}.png", drawn[name].alt, drawn[name].caption)]

    page = opening(findings)
    page += [Heading(2, "Results"), *usual(findings), tables.main_table(findings.results)]
    page += possible(findings)
    page += figure("accuracy_and_ece")
    page += claims(findings)
    if findings.measured:
        seeds = tables.seeds_table(findings.compared.experiments)
        page += [Heading(2, "Over seeds"), Paragraph("Mean ± standard deviation."), seeds] if seeds else []
        page += [Heading(2, "Calibration"), *calibration(findings), *figure("reliability")]
        subsets = tables.subsets_table(findings.measured)
        page += [Heading(2, "Accuracy by subset, %"), subsets] if subsets else []
        page += looking(findings)
        shown = tables.best(findings.measured)
        page += [Heading(2, "Cost"), *figure("accuracy_against_cost")]
        page += [tables.table_of(tables.COST, shown, tables.shown_of(len(findings.measured)))]
        page += speed.latency_blocks(findings.measured)
        page += ledger(findings)
        page += [Heading(2, "Training"), *figure("training_curves")] if "training_curves" in drawn else []
    return page + provenance(findings) + [Heading(2, "Definitions"), Bullets(DEFINITIONS)]


def ledger(findings: Findings) -> list[Block]:
    """What the arms have in common: in what they are matched, then arm by arm."""
    said = matched([account(m) for m in findings.measured])
    table = ledger_table([account(m) for m in tables.best(findings.measured)], tables.shown_of(len(findings.measured)))
    return [Heading(3, "Matched arms"), *([Paragraph(said)] if said else []), table]


def looking(findings: Findings) -> list[Block]:
    """Controls, the swap test, Winoground and the equivalence gate, where arms were put to them."""
    measured, runs_dir = findings.measured, findings.selection.runs_dir
    page: list[Block] = []
    controls = diagnostics.controls_table(measured, runs_dir)
    if controls:
        said = "Accuracy on dev with the images taken away. What stays above one half was not seen but guessed."
        page += [Heading(2, "Is the model looking?"), Paragraph(said), controls]
    turned = diagnostics.swap_table(measured, runs_dir)
    if turned:
        said = (
            "Share of dev answers that stay the same when the two images change places. The label is preserved in the first two "
            "groups; in the third it may change, so agreement is no virtue there."
        )
        page += [Heading(2, "Left and right swapped"), Paragraph(said), turned]
    diagnosed = diagnostics.winoground_table(measured, runs_dir)
    if diagnosed:
        said = (
            "Share of examples right by strict inequalities of the log-odds of the two answers; a tie is wrong. Text: each "
            "image's right caption wins. Image: each caption's right image wins. Group: both. Not comparable with scores by P(Yes) alone."
        )
        page += [Heading(2, "Winoground (diagnostic)"), Paragraph(said), diagnosed]
    gate = diagnostics.gate_table(measured)
    if gate:
        said = "The trained model in memory against five other ways to compute it, on a few dev examples: largest logit gap, flipped answers."
        page += [Heading(2, "Equivalence gate"), Paragraph(said), gate]
    return page


def opening(findings: Findings) -> list[Block]:
    """The question, how the arms ended, and what a reader must know first."""
    selection = findings.selection
    sweep = selection.sweep
    page: list[Block] = [Heading(1, selection.title)]
    question = sweep.question if sweep else None
    page.append(Paragraph((Strong("Question."), " ", question or "None was written down for these runs.")))
    states = Counter(tables.state_of(r) for r in findings.unmeasured)
    ended = [f"{len(findings.measured)} finished", *(f"{number} {state.lower()}" for state, number in sorted(states.items()))]
    page.append(Paragraph((Strong(f"{arms(len(findings.results))}:"), " ", ", ".join(ended) + ".", *data_of(findings))))
    if findings.unmeasured:
        page.append(Heading(3, "Arms without numbers"))
        page.append(
            Bullets(tuple((Mono(r.arm.label), f" {tables.state_of(r)}: ", Mono(r.reason)) for r in findings.unmeasured))
        )
    return page + [Warn(remark) for remark in findings.remarks]


def usual(findings: Findings) -> list[Block]:
    """What the names of the arms leave unsaid."""
    said_once = findings.selection.usual
    return [Paragraph(("Unless its name says otherwise, an arm has ", Mono(said_once), "."))] if said_once else []


def possible(findings: Findings) -> list[Block]:
    """What the arms with all or no answers right leave possible, and which numbers have no interval."""
    shown = [m for m in tables.best(findings.measured) if m.intervals]
    said = [told for m in shown if (told := unseen(m.arm.label, m.intervals["accuracy"]))]
    reasons = {one.method for m in shown for one in m.intervals.values() if not one.has_ends}
    said += [f"No interval: {reason}, so resampling does not say how sure it is." for reason in sorted(reasons)]
    return [Bullets(tuple(said))] if said else []


def data_of(findings: Findings) -> list[str]:
    """One sentence on each data set: its splits, and the records left out."""
    found: dict[str, None] = {}
    for result in findings.results:
        counts = fact(result.arm, "data", "counts")
        if counts:
            name = result.arm.run.config.get("data", {}).get("name", "data")
            sizes = ", ".join(f"{split} {size:,}" for split, size in counts.items())
            skipped = fact(result.arm, "data", "skipped") or 0
            found.setdefault(f" Data {name}: {sizes} examples; {skipped:,} records skipped.")
    return list(found)


def claims(findings: Findings) -> list[Block]:
    """One sentence a pair, and what stands behind it."""
    compared = findings.compared
    page: list[Block] = [Heading(2, "What may be claimed")]
    if compared.pairs:
        page.append(Bullets(tuple(pair.claim.sentence for pair in compared.pairs)))
        page.append(
            Paragraph(
                f"Accuracy on dev; Holm's correction is over {len(compared.pairs)} comparisons. {finest_of(findings)} "
                f"{floor_of(findings)}"
            )
        )
    else:
        floor = f" {floor_of(findings)}" if compared.floor is not None else ""
        page.append(Paragraph(f"Nothing: there are no two arms to compare.{floor}"))
    page += [Paragraph(note) for note in compared.notes]
    return page + ([tables.pairs_table(compared)] if compared.pairs else [])


def finest_of(findings: Findings) -> str:
    """The smallest detectable differences in a sentence."""
    resolved = [pair.resolution for pair in findings.compared.pairs]
    finest = [percent(seen.smallest_detectable) for seen in resolved if seen.discordance > 0]
    alike = [pair.comparison for pair in findings.compared.pairs if pair.comparison.discordant == (0, 0)]
    if alike and len(alike) == len(resolved):
        most = percent(max(comparison.high for comparison in alike))
        return (
            f"The arms were right on the same examples throughout; that they differ on up to {most} % of all such examples is "
            "compatible with this (95 % upper bound)."
        )
    if not finest:
        return "No example tells the arms apart, so there is no difference to detect."
    low, high = min(finest, key=float), max(finest, key=float)
    span = low if low == high else f"{low} to {high}"
    return f"The smallest difference that these comparisons would have found with probability 0.8 is {span} points."


def floor_of(findings: Findings) -> str:
    """The noise floor in a sentence."""
    floor = findings.compared.floor
    if floor is None:
        return (
            "The noise floor between seeds was not measured: no arm was run with a second seed, so a difference may be one "
            "that another seed would not show."
        )
    if floor.sd == 0:
        return (
            "The noise floor between seeds could not be measured: runs that differ only in their seed came out exactly alike in "
            "accuracy, which bounds nothing."
        )
    alone = floor.freedom == 1
    return (
        f"Noise floor between single runs that differ only in their seed: {percent(floor.bound(1))} points (standard deviation "
        f"{percent(floor.sd, 2)} points, {floor.freedom} degree{'' if alone else 's'} of freedom)."
        f"{' It rests on one pair of runs and is wide for that: three seeds narrow it to a third.' if alone else ''}"
    )


def calibration(findings: Findings) -> list[Block]:
    """ECE before and after temperature scaling."""
    measured = findings.measured
    shown = tables.best(measured)
    fitted = sorted({m.scaled.num_examples for m in measured if m.scaled})
    page: list[Block] = []
    if fitted:
        sizes = " or ".join(f"{size:,}" for size in fitted)
        page.append(Paragraph(f"Temperatures are fitted on the {sizes} minival examples and applied to dev."))
    reasons = Counter(m.no_scaling for m in measured if m.no_scaling)
    page += [Paragraph(f"No temperature for {arms(number)}: {reason}") for reason, number in reasons.items()]
    page.append(tables.table_of(tables.CALIBRATION, shown, tables.shown_of(len(measured))))
    said = "Before → after scaling, where a temperature can change the number. Parts of Brier over 15 bins of P(True)."
    return [*page, Paragraph(said), calibrated.calibration_table(measured)]


def provenance(findings: Findings) -> list[Block]:
    """Where each number comes from."""
    selection = findings.selection
    page: list[Block] = [Heading(2, "Provenance")]
    if selection.sweep is not None:
        page += [Paragraph(("The sweep ", Mono(selection.sweep.identity), " was asked for by:")), Code(selection.sweep.command)]
    page.append(
        Paragraph(
            ("Runs lie in ", Mono(str(selection.runs_dir)), f". Resampled intervals: {findings.num_resamples:,} resamples, seed 0. ",
             "A row is made again by its command.")
        )  # fmt: skip
    )
    notes = list(dict.fromkeys(note for r in findings.results for note in fact(r.arm, "data", "notes") or ()))
    page += [Bullets(tuple(notes))] if notes else []
    versions = [fact(m.arm, "versions") for m in findings.measured if fact(m.arm, "versions")]
    if versions:
        listed = ", ".join(f"{name} {value}" for name, value in versions[0].items())
        page.append(Paragraph(f"Versions: {listed}."))
    return [*page, tables.provenance_table(selection)]
