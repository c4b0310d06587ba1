"""Every measure of calibration before and after temperature scaling, for the arms that are shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.report.document import Mono, Table, Text
from lab.report.formatting import decimal, percent
from lab.report.measure import Measured
from lab.report.tables import best, shown_of
from lab.statistics import calibration
from lab.statistics.metrics import KINDS

READ = ("sample_id", "right", "log_p", "captured_mass", "prediction")
ARROW = " → "


@dataclass(frozen=True)
class Quantity:
    """A number of one arm's dev predictions. scaled: whether a temperature can change it."""

    header: str
    of: Callable[[PredictionTable], float]
    write: Callable[[float], str]
    scaled: bool = True


METRICS = {name: metric.of for name, metric in KINDS["choice"].metrics.items()}
QUANTITIES = (
    Quantity("ECE, %", METRICS["ece"], percent),
    Quantity("equal mass, %", METRICS["ece_equal_mass"], percent),
    Quantity("P(True), %", METRICS["ece_p_true"], percent),
    Quantity("debiased L2, %", METRICS["ece_debiased"], percent),
    Quantity("smooth ECE, %", METRICS["smece"], percent),
    Quantity("MCE, %", METRICS["mce"], percent),
    Quantity("NLL, nats", METRICS["nll"], decimal),
    Quantity("Brier", METRICS["brier"], decimal),
    Quantity("= reliability", METRICS["brier_reliability"], decimal),
    Quantity("- resolution", METRICS["brier_resolution"], decimal),
    Quantity("+ uncertainty", METRICS["brier_uncertainty"], decimal, scaled=False),
    Quantity("+ within bins", METRICS["brier_within_bin"], decimal),
    Quantity("AUROC of confidence", METRICS["auroc_confidence"], decimal, scaled=False),
    Quantity("area under risk-coverage", METRICS["aurc"], decimal, scaled=False),
)


def calibration_table(measured: Sequence[Measured]) -> Table:
    """One row an arm; `before → after` where a temperature was fitted and can change the number."""
    rows: list[tuple[Text, ...]] = []
    for m in best(measured):
        dev = predictions.read(m.arm.folder / "predictions" / "dev.parquet", READ)
        after = scaled(m, dev)
        rows.append(((Mono(m.arm.label),), *(cell(quantity, dev, after) for quantity in QUANTITIES)))
    columns = ("arm", *(quantity.header for quantity in QUANTITIES))
    return Table(columns, tuple(rows), frozenset(range(1, len(columns))), caption=shown_of(len(measured)))


def scaled(m: Measured, dev: PredictionTable) -> PredictionTable | None:
    """The dev predictions at the temperature that minival gives; None where it gives none (the page says why)."""
    if m.scaled is None:
        return None
    fitted = calibration.fit(predictions.read(m.arm.folder / "predictions" / "minival.parquet", READ), "minival")
    return calibration.apply(fitted, dev)


def cell(quantity: Quantity, before: PredictionTable, after: PredictionTable | None) -> str:
    """`10.4 → 2.1`, or one number."""
    written = quantity.write(quantity.of(before))
    return written if after is None or not quantity.scaled else f"{written}{ARROW}{quantity.write(quantity.of(after))}"
