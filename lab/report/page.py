"""What the page says, from the question to the definitions; what only one kind of answer has is in `lab.report.kinds`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lab.report import confidence_figures, diagnostics, figures, overlap, searching, speed, stages, tables, transfer
from lab.report.benchmarks import benchmark_blocks
from lab.report.checks import account, fact
from lab.report.definitions import definitions
from lab.report.document import Block, Bullets, Code, Figure, Heading, Lead, Mono, Paragraph, Strong, Warn
from lab.report.drawing import Drawing, Picture
from lab.report.findings import Findings
from lab.report.formatting import arms, capital, percent, unseen
from lab.report.gallery import gallery_blocks
from lab.report.headline import headline
from lab.report.kinds import page_of
from lab.report.matching import ledger_table, matched
from lab.report.measure import Measured
from lab.report.protocol import protocol_blocks
from lab.report.published import checkpoint_blocks
from lab.report.race import race_blocks
from lab.report.sources import source_blocks
from lab.statistics.metrics import KINDS, Kind


def names_of(kind: Kind) -> tuple[str, str]:
    """File names of the figures of metrics with intervals, and of the headline against cost."""
    return "_and_".join(kind.with_interval), f"{kind.headline}_against_cost"


def drawing_names() -> list[str]:
    """The names of all figures, which are also their file names."""
    own = [name for kind in KINDS.values() for name in (*names_of(kind), *page_of(kind.name).figure_names)]
    return [*dict.fromkeys(own), *confidence_figures.NAMES, "training_curves"]


def pictures_of(findings: Findings) -> dict[str, Picture]:
    """What can be drawn of these arms, by name."""
    measured, kind = findings.measured, findings.kind
    if not measured:
        return {}
    page, title = page_of(kind.name), capital(kind.main.header)
    trained, most = [m for m in measured if not m.arm.zero_shot], figures.MOST_LINES
    intervals = " and ".join([title, *(kind.metrics[name].header for name in kind.with_interval if name != kind.headline)])
    with_intervals, against_cost = names_of(kind)
    shown, cut = tables.best(measured, figures.MOST_BARS), tables.shown_of(len(measured), figures.MOST_BARS)
    return {
        with_intervals: Picture(
            lambda width: figures.with_intervals(shown, page.baseline_name, width),
            f"{intervals} of each arm with 95 % intervals",
            f"{intervals} on dev with 95 % intervals. Hollow: zero-shot. Dashed: always the {page.baseline_name}. {cut}",
        ),
        against_cost: Picture(
            lambda width: figures.against_cost(shown, width),
            f"{title} of each arm against its latency and its visual tokens",
            f"{title} on dev (95 % interval) against what an answer costs. Dashed: the Pareto front, arms that no other beats in both, by "
            f"their values alone. {figures.front_in_words(shown)} {cut}",
        ),
        **confidence_figures.pictures([(m, sure) for m in measured if (sure := page.confidence(m)) is not None], page.compared),
        **page.figures(measured),
        "training_curves": Picture(
            lambda width: figures.training_curves(measured if len(measured) <= most else tables.best(trained, most), width),
            f"Training loss and minival {kind.main.header} of each arm over optimizer steps",
            f"Training loss and {kind.main.header} on minival as recorded. {restarted(measured)}"
            f"{tables.shown_of(len(trained), most) if len(measured) > most else ''}",
        ),
    }


def restarted(measured: Sequence[Measured]) -> str:
    """How restarts are marked, where there are some."""
    return "Dotted: training went on there after it was cut off. " if any(figures.restarts(m.arm) for m in measured) else ""


def blocks(findings: Findings, drawn: Mapping[str, Drawing], folder: Path, num_cases: int) -> list[Block]:
    """The whole page that lies in `folder`; `drawn` lie in its figures/, `num_cases` are most in the gallery."""

    def figure(name: str) -> list[Block]:
        return figure_block(drawn[name], folder / "figures" / f"{name}.png") if name in drawn else []

    measured, kind = findings.measured, findings.kind
    own, (with_intervals, against_cost) = page_of(kind.name), names_of(kind)
    page = opening(findings)
    page += [Heading(2, "Results"), *usual(findings), tables.main_table(findings.results, kind), *protocol_blocks(measured)]
    page += [*possible(findings), *figure(with_intervals), *figure(against_cost), *claims(findings)]
    if measured:
        seeds, subsets = tables.seeds_table(findings.compared.groups, kind), own.subsets(measured)
        page += [Heading(2, "Over seeds"), Paragraph("Mean ± standard deviation."), seeds] if seeds else []
        page += own.calibration(findings, figure)
        page += [Heading(2, capital(kind.main.title_with("by subset"))), subsets] if subsets else []
        page += source_blocks(findings) + transfer.blocks(findings.transfer) + overlap.blocks(findings) + other_data(findings)
        page += checkpoint_blocks(findings)
        page += diagnostics.controls_blocks(findings) + own.diagnostics(findings) + benchmark_blocks(findings) + diagnostics.gate_blocks(measured)
        page += gallery_blocks(findings, num_cases)
        page += [Heading(2, "Cost"), tables.best_table(tables.COST, measured)]
        page += speed.latency_blocks(measured) + ledger(findings)
        page += [Heading(2, "Training"), *figure("training_curves")] if "training_curves" in drawn else []
    page += race_blocks(findings.selection) + provenance(findings, folder)
    return [*page, Heading(2, "Definitions"), Bullets(definitions(own, bool(findings.others)))]


def figure_block(drawn: Drawing, path: Path) -> list[Block]:
    """A figure whose file lies at `path`, or why there is none."""
    return [Warn(f"No figure: {drawn.caption}") if drawn.png is None else Figure(path, drawn.alt, drawn.caption, drawn.svgs)]


def ledger(findings: Findings) -> list[Block]:
    """What the arms have in common: in what they are matched, then arm by arm."""
    said = matched([account(m) for m in findings.measured])
    shown = tables.best(findings.measured)
    table = ledger_table([account(m) for m in shown], tables.shown_of(len(findings.measured)))
    table = replace(table, runs=tuple((m.arm.run.identity,) for m in shown))
    return [Heading(3, "Matched arms"), *([Paragraph(said)] if said else []), table]


def opening(findings: Findings) -> list[Block]:
    """The question, how the arms ended, and what a reader must know first."""
    selection = findings.selection
    sweep = selection.sweep
    page: list[Block] = [Heading(1, selection.title), Lead(headline(findings))]
    question = sweep.question if sweep else None
    page.append(Paragraph((Strong("Question."), " ", question or "None was written down for these runs.")))
    states = Counter(tables.state_of(r) for r in findings.unmeasured)
    ended = [f"{len(findings.measured)} finished", *(f"{number} {state.lower()}" for state, number in sorted(states.items()))]
    page.append(Paragraph((Strong(f"{arms(len(findings.results))}:"), " ", ", ".join(ended) + ".", *data_of(findings))))
    page += searching.blocks(selection) + stages.blocks(findings) + transfer.opening(findings.transfer)
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
    said = [told for m in shown if (told := unseen(m.arm.label, m.intervals[m.kind.headline]))]
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
            name += f", minival and dev those of {parts[0]}" if (parts := fact(result.arm, "data", "parts")) else ""
            sizes = ", ".join(f"{split} {size:,}" for split, size in counts.items())
            skipped = fact(result.arm, "data", "skipped") or 0
            found.setdefault(f" Data {name}: {sizes} examples; {skipped:,} records skipped.")
    return list(found)


def other_data(findings: Findings) -> list[Block]:
    """Each other data set that arms were asked: what was asked, a row an arm, and what may be claimed there."""
    page: list[Block] = []
    for name, other in findings.others.items():
        asked = dict.fromkeys((fact(m.arm, "also", name, "option"), fact(m.arm, "also", name, "samples")) for m in other.measured)
        parts = {part for m in other.measured for part in fact(m.arm, "data", "parts") or ()}
        page.append(Heading(2, f"{'Part of the mixture' if name in parts else 'Also asked'}: {name}"))
        page += [
            Paragraph(("Asked as ", Mono(str(option or name)), "; the SHA-256 of its samples begins with ", Mono(str(samples or "?")[:16]), "."))
            for option, samples in asked
        ]
        page += [Warn(remark) for remark in other.remarks]
        page += [Warn(f"{result.arm.label}: {result.reason}") for result in other.unmeasured]
        if other.measured:
            page += [tables.other_table(other.measured, other.kind, name), *protocol_blocks(other.measured, name), *possible(other)]
            page += claims(other, 3)
    return page


def claims(findings: Findings, level: int = 2) -> list[Block]:
    """One sentence a pair, and what stands behind it."""
    compared = findings.compared
    page: list[Block] = [Heading(level, "What may be claimed")]
    if compared.pairs:
        pairs = f"{len(compared.pairs)} comparison{'s' if len(compared.pairs) > 1 else ''}"
        page.append(Bullets(tuple(pair.claim.sentence for pair in compared.pairs)))
        page.append(
            Paragraph(
                f"{capital(findings.kind.main.header)} on dev; Holm's correction is over {pairs}. "
                f"{finest_of(findings)} {floor_of(findings)}"
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
            f"{findings.kind.main.header}, which bounds nothing."
        )
    alone = floor.freedom == 1
    return (
        f"Noise floor between single runs that differ only in their seed: {percent(floor.bound(1))} points (standard deviation "
        f"{percent(floor.sd, 2)} points, {floor.freedom} degree{'' if alone else 's'} of freedom)."
        f"{' It rests on one pair of runs and is wide for that: three seeds narrow it to a third.' if alone else ''}"
    )


def provenance(findings: Findings, folder: Path) -> list[Block]:
    """Where each number comes from, seen from the page's folder."""
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
    return [*page, tables.provenance_table(selection, folder)]
