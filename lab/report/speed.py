"""What an answer costs in time, stage by stage, with the adapters beside the weights and merged into them; training as planned and real."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lab.report.checks import fact
from lab.report.document import Block, Paragraph, Table
from lab.report.formatting import NONE, count, quantity
from lab.report.measure import Measured
from lab.report.tables import Column, best, name_of, recorded, shown_of, table_of

STAGES = {"": "whole answer", "vision_": "vision", "prefill_": "prefill", "decode_": "one more token"}


def between(m: Measured, name: str) -> str:
    """`p50 / p95` of one latency metric in milliseconds, or a dash."""
    p50, p95 = (m.arm.run.metrics.get(f"latency/{name}{p}_ms") for p in ("p50", "p95"))
    return NONE if p50 is None and p95 is None else f"{quantity(p50)} / {quantity(p95)}"


def columns(batch: str) -> list[Column]:
    """Every stage, unmerged and merged. batch: empty or `batch_`."""
    made = [Column("arm", name_of, False)]
    if batch:
        made.append(Column("examples together", recorded("latency/batch_size", count)))
    for merged, said in (("", ""), ("merged_", ", merged")):
        for stage, header in STAGES.items():
            made.append(Column(f"{header}{said}, ms", lambda m, name=f"{merged}{batch}{stage}": between(m, name)))
    if not batch:
        made.append(Column("tokens of a prompt", recorded("latency/tokens", quantity)))
        made.append(Column("peak memory of answering, MiB", recorded("latency/peak_mb", count)))
    return made


def latency_table(measured: Sequence[Measured], batch: str) -> Table | None:
    """One row an arm, only columns that some arm has; None if no stage was timed apart."""
    shown = best(measured)
    if not any(f"latency/{batch}prefill_p50_ms" in m.arm.run.metrics for m in shown):
        return None
    there = [column for column in columns(batch) if not column.numeric or any(column.cell(m) != NONE for m in shown)]
    return table_of(there, shown, shown_of(len(measured)))


def answer_ms(metrics: Mapping[str, float]) -> float | None:
    """Median milliseconds of a whole answer at batch 1: read off the logits, or written, of the mean number of tokens that dev's have."""
    whole, further = metrics.get("latency/p50_ms"), metrics.get("latency/decode_p50_ms")
    if whole is None:
        return None
    return whole + (0.0 if further is None else (metrics.get("answers/tokens", 1.0) - 1) * further)


def answers_told(measured: Sequence[Measured]) -> list[Block]:
    """Milliseconds of an answer of every arm."""
    taken = [(m, milliseconds) for m in best(measured) if (milliseconds := answer_ms(m.arm.run.metrics)) is not None]
    if not taken:
        return []
    said = "; ".join(f"{m.arm.label} {quantity(milliseconds)}" for m, milliseconds in taken)
    length = taken[0][0].arm.run.metrics.get("answers/tokens")
    of = "read off the logits" if length is None else f"of {quantity(length)} tokens in the mean"
    return [Paragraph(f"Milliseconds an answer at batch 1, median, {of}: {said}.")]


def planned_told(measured: Sequence[Measured]) -> list[Block]:
    """What training was planned to take before it began, and what it took."""
    said = []
    for m in best(measured):
        real, plan = m.arm.run.metrics.get("train/seconds"), fact(m.arm, "planned", "train", "seconds")
        if real is not None and plan and plan["expected"]:
            within = "" if plan["low"] <= real <= plan["high"] else ", outside it"
            off = f"{100 * (real / plan['expected'] - 1):+.0f} %"
            ends = f"{quantity(plan['low'])} to {quantity(plan['high'])}"
            said.append(f"{m.arm.label}: planned {quantity(plan['expected'])} ({ends}), real {quantity(real)} ({off}{within})")
    return [Paragraph(f"Training as planned before it began and as it was, seconds. {'; '.join(said)}.")] if said else []


def latency_blocks(measured: Sequence[Measured]) -> list[Block]:
    """One example alone, then a batch."""
    page = [*planned_told(measured), *answers_told(measured)]
    for batch, said in (("", "One example alone"), ("batch_", "As many together as scoring takes")):
        table = latency_table(measured, batch)
        if table is not None:
            page += [Paragraph(f"{said}, p50 / p95 in milliseconds."), table]
    return page
