"""From a selection of runs to all that a report says of them: the one call behind the page, the figures and the notebook."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lab.answers.text import RepliedTable
from lab.errors import LabError
from lab.host.progress import Report, silent
from lab.report.checks import different_questions, remarks
from lab.report.compare import Compared, compare_all
from lab.report.kinds import page_of
from lab.report.measure import Measured, Result, Unmeasured, measure_all
from lab.report.select_runs import Selection
from lab.report.transfer import Transfer, study_transfer
from lab.statistics.metrics import KINDS, Kind
from lab.statistics.resampling import LEAST_RESAMPLES


@dataclass(frozen=True)
class Findings:
    """What is known of the arms of a selection, in its order. remarks: what a reader must know first, in sentences.

    others: the same of each other data set that arms were asked (`evaluation.also`), by its name. transfer: what moved there.
    """

    selection: Selection
    results: tuple[Result, ...]
    compared: Compared
    remarks: tuple[str, ...]
    num_resamples: int
    others: Mapping[str, Findings] = field(default_factory=dict)
    transfer: Transfer = Transfer()

    @property
    def measured(self) -> list[Measured]:
        return [result for result in self.results if isinstance(result, Measured)]

    @property
    def kind(self) -> Kind:
        """The kind of answer of the arms; the first there is, if none was measured."""
        return self.measured[0].kind if self.measured else next(iter(KINDS.values()))

    @property
    def unmeasured(self) -> list[Unmeasured]:
        return [result for result in self.results if isinstance(result, Unmeasured)]


def study(
    selection: Selection, num_resamples: int = LEAST_RESAMPLES, report: Report = silent, workers: int = 1
) -> Findings:
    """Measure, compare and check the arms of a selection; intervals come from `num_resamples` draws."""
    if num_resamples < LEAST_RESAMPLES:
        raise LabError(f"--bootstrap={num_resamples}: too few for the ends of an interval; legal: {LEAST_RESAMPLES} or more.")
    results = of_one_kind(measure_all(selection.arms, num_resamples, report, workers))
    compared = compare_all(results, num_resamples, report)
    names = sorted({name for arm in selection.finished for name in arm.others})
    others = {name: study_other(selection, name, num_resamples, report, workers) for name in names}
    transfer = study_transfer(others, num_resamples)
    return Findings(selection, tuple(results), compared, tuple(remarks(selection, results)), num_resamples, others, transfer)


def of_one_kind(results: Sequence[Result]) -> list[Result]:
    """The results without numbers of arms whose kind of answer has not all that the page measures: that of the first arm that tells
    probabilities, or of the first.
    """
    measured = [result for result in results if isinstance(result, Measured)]
    if not measured:
        return list(results)
    lead = next((m for m in measured if m.kind_name != RepliedTable.kind), measured[0])
    needed = set(page_of(lead.kind_name).measured)
    why = f"it answers in another form than {lead.arm.label}, and is in the table of benchmarks alone"
    fits = [not isinstance(one, Measured) or one.kind_name == lead.kind_name or needed <= one.metrics.keys() for one in results]
    return [one if fit else Unmeasured(one.arm, why, "ANOTHER FORM") for one, fit in zip(results, fits, strict=True)]


def study_other(selection: Selection, data: str, num_resamples: int, report: Report, workers: int) -> Findings:
    """The same of another data set, over the arms that were asked it."""
    asked = [arm for arm in selection.finished if data in arm.others]
    results = of_one_kind(measure_all(asked, num_resamples, report, workers, data))
    compared = compare_all(results, num_resamples, report)
    remarks = different_questions([result for result in results if isinstance(result, Measured)])
    return Findings(selection, tuple(results), compared, tuple(remarks), num_resamples)
