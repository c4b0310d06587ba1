"""What an answer costs in time, stage by stage, with the adapters beside the weights and merged into them."""

from __future__ import annotations

from collections.abc import Sequence

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


def latency_blocks(measured: Sequence[Measured]) -> list[Block]:
    """One example alone, then a batch."""
    page: list[Block] = []
    for batch, said in (("", "One example alone"), ("batch_", "As many together as scoring takes")):
        table = latency_table(measured, batch)
        if table is not None:
            page += [Paragraph(f"{said}, p50 / p95 in milliseconds."), table]
    return page
