"""The tables of the page. A column is a header and what it takes from an arm, so that every table is read off one list."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import quote

from lab.report.checks import fact
from lab.report.compare import Compared, Group
from lab.report.document import Link, Mono, Strong, Table, Text
from lab.report.formatting import NONE, count, decimal, number, number_within, p_value, percent, points, quantity, tokens
from lab.report.measure import Measured, Result, Unmeasured
from lab.report.select_runs import Row, Selection
from lab.statistics.metrics import Kind, Metric
from lab.store import sync_state
from lab.store.sync_state import Delivered

MOST_ROWS = 40
"""Most arms in a table other than the first, which has them all."""


@dataclass(frozen=True)
class Column:
    """header: with its unit. cell: of a measured arm. baseline: of a row of `with_baselines`."""

    header: str
    cell: Callable[[Measured], Text]
    numeric: bool = True
    baseline: Callable[[Measured], Text] = lambda m: NONE


def recorded(key: str, write: Callable[[float | None], str]) -> Callable[[Measured], Text]:
    """A cell taken from `run.metrics`."""
    return lambda m: write(m.arm.run.metrics.get(key))


def link_of(arm: Row) -> Link:
    """An arm's name, which leads to where its run lies and how it is made again."""
    return Link(arm.label, f"#run-{arm.run.identity}")


def label_of(m: Measured) -> Text:
    return (link_of(m.arm),)


def name_of(m: Measured) -> Text:
    return (link_of(m.arm), " zero-shot") if m.arm.zero_shot else label_of(m)


def latency(m: Measured) -> str:
    """`p50 / p95`."""
    both = [m.arm.run.metrics.get(f"latency/{name}_ms") for name in ("p50", "p95")]
    return " / ".join(map(quantity, both)) if any(value is not None for value in both) else NONE


def metric_column(metric: Metric) -> Column:
    """A metric with its interval or its chance level, where it has one."""

    def cell(m: Measured) -> str:
        text = number_within(metric, m.metrics[metric.name], m.intervals.get(metric.name)) if metric.name in m.metrics else NONE
        text += f" ({m.notes[metric.name]})" if metric.name in m.notes else ""
        return f"{text} ({number(metric, m.chance[metric.name])})" if metric.chance else text

    def baseline(m: Measured) -> str:
        text = number(metric, m.baseline[1].get(metric.name))
        return f"{text} ({number(metric, m.chance[metric.name])})" if metric.chance else text

    suffix = " [95 %]" if metric.interval else " (chance)" if metric.chance else ""
    return Column(metric.title + suffix, cell, baseline=baseline)


def main_columns(kind: Kind) -> tuple[Column, ...]:
    """The columns of the first table."""
    sizes = lambda m: f"{count(m.num_examples)} / {count(m.num_clusters)}"  # noqa: E731
    return (
        Column("arm", name_of, False, lambda m: m.baseline[0]),
        Column("trainable parameters", recorded("parameters/trainable", count), baseline=lambda m: "0"),
        Column("visual tokens per image", lambda m: tokens(m.tokens)),
        *(metric_column(kind.metrics[name]) for name in kind.shown),
        Column("latency p50 / p95, ms", latency),
        Column("examples/s", recorded("latency/examples_per_second", quantity)),
        Column("examples / clusters", sizes, baseline=sizes),
        Column("run", lambda m: (Link(m.arm.run.identity, f"#run-{m.arm.run.identity}"),), False),
    )


COST = (
    Column("arm", name_of, False),
    Column("optimizer steps", recorded("train/steps", count)),
    Column("training, s", recorded("train/seconds", quantity)),
    Column("training examples/s", recorded("train/examples_per_second", quantity)),
    Column("peak memory, MiB", recorded("memory/peak_mb", count)),
    Column("first metric after, s", recorded("time/first_metric_s", quantity)),
)

def table_of(columns: Sequence[Column], measured: Sequence[Measured], caption: str = "") -> Table:
    """One row an arm."""
    return table_with(columns, [tuple(column.cell(m) for column in columns) for m in measured], caption, [(m.arm.run.identity,) for m in measured])


def table_with(
    columns: Sequence[Column], rows: Iterable[tuple[Text, ...]], caption: str = "", runs: Iterable[tuple[str, ...]] = ()
) -> Table:
    numeric = frozenset(i for i, column in enumerate(columns) if column.numeric)
    return Table(tuple(column.header for column in columns), tuple(rows), numeric, caption, tuple(runs))


def best_table(columns: Sequence[Column], measured: Sequence[Measured]) -> Table:
    """One row an arm, of at most `MOST_ROWS`."""
    return table_of(columns, best(measured), shown_of(len(measured)))


def main_table(results: Sequence[Result], kind: Kind) -> Table:
    """Every arm, in order: with its numbers, or with the state that it is in; last, what takes no image."""
    columns, rows = main_columns(kind), []
    for result in results:
        if isinstance(result, Unmeasured):
            state = (link_of(result.arm), " ", Strong(state_of(result)))
            rows.append((state, *[NONE] * (len(columns) - 2), (Link(result.arm.run.identity, f"#run-{result.arm.run.identity}"),)))
        else:
            rows.append(tuple(column.cell(result) for column in columns))
    baselines = [tuple(column.baseline(m) for column in columns) for m in with_baselines(results)]
    runs = [*((result.arm.run.identity,) for result in results), *((),) * len(baselines)]
    return table_with(columns, rows + baselines, runs=runs)


def with_baselines(results: Sequence[Result], recorded: tuple[str, ...] = ("data",)) -> list[Measured]:
    """An arm for each baseline of each dev set, for `Column.baseline`: always one answer, then those that the data set gives.

    recorded: where a run's facts have the latter.
    """
    arms = [result for result in results if isinstance(result, Measured)]
    rows = list({m.items: m for m in reversed(arms)}.values())
    shares = {(m.items, *each): m for m in reversed(arms) for each in (fact(m.arm, *recorded, "baselines") or {}).items()}
    return rows + [replace(m, baseline=(name, {m.kind.headline: share})) for (_, name, share), m in shares.items()]


def other_table(measured: Sequence[Measured], kind: Kind, data: str) -> Table:
    """The arms on another data set: what the first table says of answers, and last what takes no image."""
    first, sizes = main_columns(kind)[0], main_columns(kind)[-2]
    columns = (first, *(metric_column(kind.metrics[name]) for name in kind.shown), sizes)
    shown = best(measured)
    rows = [tuple(column.cell(m) for column in columns) for m in shown]
    baselines = [tuple(column.baseline(m) for column in columns) for m in with_baselines(measured, ("also", data))]
    runs = [*((m.arm.run.identity,) for m in shown), *((),) * len(baselines)]
    return table_with(columns, rows + baselines, shown_of(len(measured)), runs)


def state_of(result: Unmeasured) -> str:
    """The status of an arm without numbers, as a table says it."""
    return result.state if result.arm.finished else result.arm.run.status


def seeds_table(every: Sequence[Group], kind: Kind) -> Table | None:
    """Mean and spread over seeds of the groups that have several; None if none has."""
    repeated = [group for group in every if len(group.members) > 1]
    if not repeated:
        return None
    members = [member.metrics for group in repeated for member in group.members]
    names = dict.fromkeys((*kind.with_interval, kind.watched))
    metrics, rows = [kind.metrics[name] for name in names if all(name in metrics for metrics in members)], []
    for group in repeated[:MOST_ROWS]:
        seeds = ", ".join(str(m.arm.run.config.get("seed", 0)) for m in group.members)
        cells = [f"{number(metric, group.mean(metric.name))} ± {number(metric, group.spread(metric.name))}" for metric in metrics]
        values = [m.headline for m in group.members]
        rows.append(((Mono(group.label),), seeds, *cells, f"{number(kind.main, min(values))} to {number(kind.main, max(values))}"))
    runs = tuple(group.runs for group in repeated[:MOST_ROWS])
    cut = f"The first {MOST_ROWS} of {len(repeated):,}." if len(repeated) > MOST_ROWS else ""
    lowest = f"{kind.main.header}, lowest to highest{f', {kind.main.unit}' if kind.main.unit else ''}"
    columns = ("experiment", "seeds", *(metric.title for metric in metrics), lowest)
    return Table(columns, tuple(rows), frozenset(range(2, len(columns))), cut, runs)


def subsets_table(measured: Sequence[Measured]) -> Table | None:
    """The headline per subset (statement family); None if the data has no subsets."""
    sizes: dict[str, int] = {}
    for m in measured:
        sizes |= {name: max(size, sizes.get(name, 0)) for name, (size, _) in m.subsets.items()}
    if not sizes:
        return None

    def cell(m: Measured, name: str) -> str:
        return number(m.kind.main, m.subsets[name][1]) if name in m.subsets else NONE

    columns = [Column("arm", label_of, False)]
    columns += [Column(f"{name} (n = {count(sizes[name])})", partial(cell, name=name)) for name in sorted(sizes)]
    return best_table(columns, measured)


def pairs_table(compared: Compared) -> Table:
    """The numbers behind the sentences."""
    rows: list[tuple[Text, ...]] = []
    runs = {group.label: group.runs for group in compared.groups}
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
    header = f"{compared.pairs[0].comparison.metric.header}, first - second, points [95 %]"
    columns = (
        "first", "second", header, "p", "p, Holm", "only first / only second right", "p, McNemar", "smallest detectable, points",
        "design effect", "seeds",
    )  # fmt: skip
    about = tuple(runs[pair.first] + runs[pair.second] for pair in compared.pairs)
    return Table(columns, tuple(rows), frozenset(range(2, len(columns))), runs=about)


def provenance_table(selection: Selection, page_folder: Path) -> Table:
    """Which run and which command made each row, and where it lies, seen from the page's folder."""
    tracked = {arm.run.identity: sync_state.latest(arm.folder) for arm in selection.arms}
    in_mlflow = any(tracked.values())
    rows = tuple(
        (
            (Link(arm.run.identity, quote(os.path.relpath(arm.folder, page_folder)) + "/"),),
            *([mlflow_of(tracked[arm.run.identity])] if in_mlflow else []),
            (Mono(arm.label),),
            arm.run.status,
            arm.run.started or NONE,
            arm.run.ended or NONE,
            (Mono(arm.run.command or NONE),),
        )
        for arm in selection.arms
    )
    columns = ("run", *(["MLflow run"] if in_mlflow else []), "arm", "status", "started (UTC)", "ended (UTC)", "command")
    return Table(columns, rows, runs=tuple((arm.run.identity,) for arm in selection.arms), anchored=True)


def mlflow_of(note: Delivered | None) -> Text:
    """The id of an MLflow run, which leads to its page where a server has it."""
    if note is None:
        return NONE
    served = note.uri.startswith(("http://", "https://"))
    return (Link(note.run_id, f"{note.uri.rstrip('/')}/#/runs/{note.run_id}") if served else Mono(note.run_id),)


def best(measured: Sequence[Measured], most: int = MOST_ROWS) -> list[Measured]:
    """At most `most` arms: the best on minival (on dev where there is none), in the order of the sweep."""
    if len(measured) <= most:
        return list(measured)
    sign = -1 if measured[0].kind.main.higher_is_better else 1
    chosen = sorted(measured, key=lambda m: sign * (m.headline if m.minival is None else m.minival))[:most]
    return [m for m in measured if any(m is other for other in chosen)]


def shown_of(number: int, most: int = MOST_ROWS) -> str:
    """Say that a table or figure was cut; empty if it was not."""
    return f"The {most} best of {number:,} on minival." if number > most else ""

