"""A finished run's model from its files alone, held to its contract and asked anew: the one path of `lab.evaluate`, `lab.predict` and `lab.serve`."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab import data
from lab.artifacts import adapter, contract
from lab.config import DataDial, Experiment
from lab.evaluation import asking
from lab.host.progress import Report
from lab.model import Vlm
from lab.model.encoding import Encoder
from lab.records import AnswerSpace, Prediction, Splits
from lab.run.assembly import assemble, check, load_base
from lab.run.measuring import require_effect
from lab.run.other_data import section_of
from lab.run.sharing import Prepared
from lab.store.runs import Run
from lab.training.features import FeatureStore
from lab.training.screening import screen

log = logging.getLogger(__name__)


@dataclass
class Rebuilt:
    """vlm: with the run's adapter, over `base`. contract: of this process; reasons: in what it breaks that of the adapter.

    adapted: there is an adapter, or a module that trained. store: the features of the images that were asked about.
    """

    x: Experiment
    base: Vlm
    vlm: Vlm
    encoder: Encoder
    contract: dict[str, Any]
    reasons: list[str]
    adapted: bool
    effective: bool = False
    store: FeatureStore | None = None

    def asked(self, dial: DataDial, answers: AnswerSpace) -> Encoder:
        """The encoder by which questions of a data option are asked."""
        return self.encoder.of_data(dial, answers)

    def ask(self, splits: Splits, name: str, dial: DataDial, report: Report, part: Path) -> tuple[Splits, list[Prediction]]:
        """The splits without what the encoding cannot take (by `dial.on_bad`), and what the model says of one of them, in order.

        part: as in `asking.ask`.
        Raises `DataError` for bad records, `ModelError` for an adapter that moves no logit.
        """
        dial, splits = data.lead(dial), replace(splits, parts=())  # of a mixture the first part alone is asked
        encoder = self.asked(dial, splits.answers)
        splits, made = screen(splits, (name,), encoder, dial)
        examples = made[name]
        self.store = self.store or Prepared(self.base, splits).store(self.x, self.vlm, encoder)
        examples.prepare(self.store, self.vlm, report)
        if self.adapted and not self.effective:
            require_effect(self.vlm, assemble(self.x, self.base), examples)
            self.effective = True
        section = section_of(self.x.evaluation, self.encoder.readout.kind, encoder.readout.kind)
        return splits, asking.ask(self.vlm, examples, encoder.readout, section, name, report, part=part)


def rebuild(
    run: Run, run_dir: Path, x: Experiment, answers: AnswerSpace, purpose: str, report: Report, break_contract: bool = False,
    base: Vlm | None = None,
) -> Rebuilt:
    """Load base, dials and adapter of a finished run. answers: as in `Splits`; purpose: what is to be done, for the error.

    base: of the run's `model`, without adapters, where it is loaded already.
    Raises `ContractError` unless `break_contract`, and `ConfigError` or `ModelError` for what cannot be loaded.
    """
    check(x)
    base = base or load_base(x, report)
    vlm = assemble(x, base)
    encoder = Encoder(vlm, x.prompt, x.seed, answers)
    trained, now = contract.load(run_dir), contract.describe(x, vlm, encoder, encoder.readout)
    reasons = contract.differences(trained, now)
    if not break_contract:
        contract.enforce(trained, now, f"run {run.identity}: {purpose}")
    for reason in reasons:
        log.warning("contract broken: %s", reason)
    adapted = has_adapter(run)
    if adapted:
        adapter.load(vlm, run_dir / "adapter", x.lora)
    return Rebuilt(x, base, vlm, encoder, now, reasons, adapted)


def has_adapter(run: Run) -> bool:
    """Whether the run has trained anything; a zero-shot baseline is asked without."""
    section = run.config.get("trainer", {})
    return bool(section.get("max_steps")) or bool(section.get("max_epochs"))
