"""The tables of the page. A column is a header and what it takes from an arm, so that every table is read off one list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.report.compare import Compared, Experiment
from lab.report.document import Mono, Strong, Table, Text
from lab.report.formatting import NONE, count, decimal, p_value, percent, percent_within, points, quantity, tokens
from lab.report.measure import Measured, Result, Unmeasured
from lab.report.select_runs import Selection

MOST_ROWS = 40
"""Most arms in a table other than the first, which has them all."""


@dataclass(frozen=True)
class Column:
    """header: with its unit. cell: of a measured arm. majority: of the row that always gives the commoner label."""

    header: str
    cell: Callable[[Measured], Text]
    numeric: bool = True
    majority: Callable[[Measured], Text] = lambda m: NONE


def recorded(key: str, write: Callable[[float | None], str]) -> Callable[[Measured], Text]:
    """A cell taken from `run.metrics`."""
    return lambda m: write(m.arm.run.metrics.get(key))


def name_of(m: Measured) -> Text:
    return (Mono(m.arm.label), " zero-shot") if m.arm.zero_shot else (Mono(m.arm.label),)


def latency(m: Measured) -> str:
    """`p50 / p95`."""
    both = [m.arm.run.metrics.get(f"latency/{name}_ms") for name in ("p50", "p95")]
    return " / ".join(map(quantity, both)) if any(value is not None for value in both) else NONE


MAIN = (
    Column("arm", name_of, False, lambda m: f"always {m.majority[0]}"),
    Column("trainable parameters", recorded("parameters/trainable", count), majority=lambda m: "0"),
    Column("visual tokens per image", lambda m: tokens(m.tokens)),
    Column(
        "accuracy, % [95 %]",
        lambda m: percent_within(m.metrics["accuracy"], m.intervals.get("accuracy")),
        majority=lambda m: percent(m.majority[1]),
    ),
    Column(
        "consistency, % (chance)",
        lambda m: f"{percent(m.metrics['consistency'])} ({percent(m.consistency_by_chance)})",
        majority=lambda m: f"{percent(m.majority[2])} ({percent(m.consistency_by_chance)})",
    ),
    Column("ECE, % [95 %]", lambda m: percent_within(m.metrics["ece"], m.intervals.get("ece"))),
    Column("NLL, nats", lambda m: decimal(m.metrics["nll"])),
    Column("Brier", lambda m: decimal(m.metrics["brier"])),
    Column("latency p50 / p95, ms", latency),
    Column("examples/s", recorded("latency/examples_per_second", quantity)),
    Column(
        "examples / clusters",
        lambda m: f"{count(m.num_examples)} / {count(m.num_clusters)}",
        majority=lambda m: f"{count(m.num_examples)} / {count(m.num_clusters)}",
    ),
    Column("run", lambda m: (Mono(m.arm.run.identity),), False),
)

COST = (
    Column("arm", name_of, False),
    Column("optimizer steps", recorded("train/steps", count)),
    Column("training, s", recorded("train/seconds", quantity)),
    Column("training examples/s", recorded("train/examples_per_second", quantity)),
    Column("peak memory, MiB", recorded("memory/peak_mb", count)),
    Column("first metric after, s", recorded("time/first_metric_s", quantity)),
)

CALIBRATION = (
    Column("arm", name_of, False),
    Column("temperature", lambda m: temperature(m)),
    Column("ECE before, %", lambda m: percent(m.metrics["ece"])),
    Column("ECE after, %", lambda m: percent(m.scaled.ece_after if m.scaled else None)),
    Column("NLL before", lambda m: decimal(m.metrics["nll"])),
    Column("NLL after", lambda m: decimal(m.scaled.nll_after if m.scaled else None)),
    Column("ECE, equal mass, %", lambda m: percent(m.metrics["ece_equal_mass"])),
    Column("ECE, debiased L2, %", lambda m: percent(m.metrics["ece_debiased"])),
    Column("captured mass, %", lambda m: percent(m.metrics["captured_mass"])),
    Column("examples with mass < 1/2, %", lambda m: percent(m.metrics["captured_mass_below_half"])),
)


def temperature(m: Measured) -> str:
    if m.scaled is None:
        return NONE
    return f"{m.scaled.temperature:.3g}{' (at its limit)' if m.scaled.at_limit else ''}"


def table_of(columns: Sequence[Column], measured: Sequence[Measured], caption: str = "") -> Table:
    """One row an arm."""
    return Table(
        columns=tuple(column.header for column in columns),
        rows=tuple(tuple(column.cell(m) for column in columns) for m in measured),
        numeric=frozenset(i for i, column in enumerate(columns) if column.numeric),
        caption=caption,
    )


def main_table(results: Sequence[Result]) -> Table:
    """Every arm, in order: with its numbers, or with the state that it is in; last, the commoner label of the dev set."""
    rows: list[tuple[Text, ...]] = []
    for result in results:
        if isinstance(result, Unmeasured):
            state = (Mono(result.arm.label), " ", Strong(state_of(result)))
            rows.append((state, *[NONE] * (len(MAIN) - 2), (Mono(result.arm.run.identity),)))
        else:
            rows.append(tuple(column.cell(result) for column in MAIN))
    references = {m.items: m for m in reversed([r for r in results if isinstance(r, Measured)])}
    rows += [tuple(column.majority(m) for column in MAIN) for m in references.values()]
    numeric = frozenset(i for i, column in enumerate(MAIN) if column.numeric)
    return Table(tuple(column.header for column in MAIN), tuple(rows), numeric)


def state_of(result: Unmeasured) -> str:
    """The status of an arm without numbers, as a table says it."""
    return "NO PREDICTIONS" if result.arm.finished else result.arm.run.status


def seeds_table(every: Sequence[Experiment]) -> Table | None:
    """Mean and spread over seeds of the experiments that have several; None if none has."""
    repeated = [experiment for experiment in every if len(experiment.members) > 1]
    if not repeated:
        return None
    metrics = (("accuracy, %", "accuracy", percent), ("ECE, %", "ece", percent), ("NLL, nats", "nll", decimal))
    rows = []
    for experiment in repeated[:MOST_ROWS]:
        seeds = ", ".join(str(m.arm.run.config.get("seed", 0)) for m in experiment.members)
        cells = [f"{write(experiment.mean(key))} ± {write(experiment.spread(key))}" for _, key, write in metrics]
        values = [m.metrics["accuracy"] for m in experiment.members]
        rows.append(((Mono(experiment.label),), seeds, *cells, f"{percent(min(values))} to {percent(max(values))}"))
    cut = f"The first {MOST_ROWS} of {len(repeated):,}." if len(repeated) > MOST_ROWS else ""
    columns = ("experiment", "seeds", *(header for header, _, _ in metrics), "accuracy, lowest to highest, %")
    return Table(columns, tuple(rows), frozenset(range(2, len(columns))), caption=cut)


def subsets_table(measured: Sequence[Measured]) -> Table | None:
    """Accuracy per subset (statement family); None if the data has no subsets."""
    names = sorted({name for m in measured for name in m.subsets})
    if not names:
        return None
    sizes = {name: max(m.subsets[name][0] for m in measured if name in m.subsets) for name in names}
    shown = best(measured)
    rows = [
        ((Mono(m.arm.label),), *(percent(m.subsets[name][1]) if name in m.subsets else NONE for name in names)) for m in shown
    ]
    columns = ("arm", *(f"{name} (n = {count(sizes[name])})" for name in names))
    return Table(columns, tuple(rows), frozenset(range(1, len(columns))), caption=shown_of(len(measured)))


def pairs_table(compared: Compared) -> Table:
    """The numbers behind the sentences."""
    rows: list[tuple[Text, ...]] = []
    for pair in compared.pairs:
        c = pair.comparison
        rows.append(
            (
                (Mono(pair.first),),
                (Mono(pair.second),),
                points(c.difference, c.low, c.high),
                p_value(c.p_value) if c.has_interval else NONE,
                p_value(pair.claim.holm_p) if c.has_interval else NONE,
                f"{c.discordant[0]} / {c.discordant[1]}" if c.discordant else NONE,
                p_value(c.mcnemar_p) if c.mcnemar_p is not None else NONE,
                percent(pair.resolution.smallest_detectable) if pair.resolution.discordance > 0 else NONE,
                decimal(pair.resolution.design_effect, 2),
                str(c.num_seeds),
            )
        )
    columns = (
        "first", "second", "accuracy, first - second, points [95 %]", "p", "p, Holm", "only first / only second right",
        "p, McNemar", "smallest detectable, points", "design effect", "seeds",
    )  # fmt: skip
    return Table(columns, tuple(rows), frozenset(range(2, len(columns))))


def provenance_table(selection: Selection) -> Table:
    """Which run and which command made each row."""
    rows = tuple(
        (
            (Mono(arm.run.identity),),
            (Mono(arm.label),),
            arm.run.status,
            arm.run.started or NONE,
            arm.run.ended or NONE,
            (Mono(arm.run.command or NONE),),
        )
        for arm in selection.arms
    )
    return Table(("run", "arm", "status", "started (UTC)", "ended (UTC)", "command"), rows)


def best(measured: Sequence[Measured], most: int = MOST_ROWS) -> list[Measured]:
    """At most `most` arms: the best on minival (on dev where there is none), in the order of the sweep."""
    if len(measured) <= most:
        return list(measured)
    chosen = sorted(measured, key=lambda m: -(m.metrics["accuracy"] if m.minival_accuracy is None else m.minival_accuracy))[:most]
    return [m for m in measured if any(m is other for other in chosen)]


def shown_of(number: int, most: int = MOST_ROWS) -> str:
    """Say that a table or figure was cut; empty if it was not."""
    return f"The {most} best of {number:,} on minival." if number > most else ""

