"""One arm from config to results, in a run folder. A run alone and an arm of a sweep go through the same function."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import socket
from pathlib import Path
from typing import Any

from lab import adapter, contract, data, lora, runs
from lab.config import Experiment, as_dict, identity, trains
from lab.evaluation import equivalence
from lab.model import Vlm
from lab.model.answers import answer_tokens
from lab.progress import Report, silent
from lab.run.assembly import assemble, attached
from lab.run.measuring import added_flops, evaluate, require_effect, verify
from lab.run.sharing import SPLITS, Prepared, prepare
from lab.runs import Run
from lab.training import loop
from lab.training.datamodule import Examples

log = logging.getLogger(__name__)


def new_run(x: Experiment, command: str, sweep: str | None = None) -> Run:
    """A run record that has not started."""
    return Run(identity=identity(x), name=identity(x), config=as_dict(x), command=command, sweep=sweep)


def run_arm(x: Experiment, prepared: Prepared, run: Run, started: float, report: Report = silent) -> Run:
    """Attach, train and measure one arm; write everything to its run folder and return the finished record.

    started: Unix time at which the command began, for the time to the first metric.
    """
    runs_dir = Path(x.tracking.runs_dir)
    run_dir = runs.folder(runs_dir, run.identity)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / "curves.jsonl").unlink(missing_ok=True)
    run.started, run.status, run.error = runs.now(), runs.RUNNING, None
    run.process = {"pid": os.getpid(), "host": socket.gethostname()}
    runs.save(runs_dir, run)
    prepared.encoded(x, report)  # before adapters sit in the tower
    with attached(x, prepared.vlm) as vlm:
        train_and_measure(x, vlm, prepared, run, run_dir, started, report)
    run.status, run.ended = runs.FINISHED, runs.now()
    runs.save(runs_dir, run)
    return run


def train_and_measure(
    x: Experiment, vlm: Vlm, prepared: Prepared, run: Run, run_dir: Path, started: float, report: Report
) -> None:
    """Fill a run's record with what one arm's model counts, learns and answers."""
    encoded = prepared.encoded(x, report)
    ledger = lora.ledger(vlm)
    log.info("parameters\n%s", lora.ledger_text(ledger))
    tokens = answer_tokens(vlm.processor.tokenizer, x.prompt)
    run.facts = {"data": data_facts(x, prepared, encoded), "ledger": lora.ledger_facts(ledger), "versions": versions()}
    run.metrics = {
        "parameters/total": float(sum(row.total for row in ledger)),
        "parameters/trainable": float(sum(row.trainable for row in ledger)),
    }
    run.metrics["flops/added_per_example"] = added_flops(vlm, encoded["dev"])
    runs.save(Path(x.tracking.runs_dir), run)
    described = contract.describe(x, vlm, encoded["dev"].encoder, tokens)
    contract.save(run_dir, described)
    if trains(x):
        run.metrics |= loop.train(x, vlm, encoded, run_dir, started, report)
        lora.settle(vlm)
        require_effect(vlm, assemble(x, prepared.vlm), encoded["dev"])
        adapter.save(vlm, run_dir / "adapter")
    run.metrics |= evaluate(x, vlm, encoded, tokens, run_dir, report)
    realised = {key: run.metrics[f"visual_tokens/{key}"] for key in ("mean", "min", "max")}
    contract.save(run_dir, {**described, "visual_tokens": realised})
    if x.evaluation.verify:
        checks = verify(x, vlm, encoded["dev"], tokens, run_dir)
        run.metrics |= equivalence.summary(checks)
        run.facts["verify"] = equivalence.facts(checks)
        log.info("equivalence gate\n%s", equivalence.table(checks))


def data_facts(x: Experiment, prepared: Prepared, encoded: dict[str, Examples]) -> dict[str, Any]:
    """Counts, hashes of samples and of their order, notes and skipped records: what makes arms comparable."""
    steps = loop.num_steps(x, len(encoded["train"])) if trains(x) else 0
    seen = steps * x.trainer.batch_size * x.trainer.accumulate_grad_batches
    return {
        "counts": {name: len(getattr(prepared.splits, name)) for name in SPLITS},
        "samples": {name: data.fingerprint(getattr(prepared.splits, name)) for name in SPLITS},
        "order": {"seed": x.seed, "examples_seen": seen},
        "notes": list(prepared.splits.notes),
        "skipped": len(prepared.splits.skipped),
        "skipped_records": [[record.source, record.reason] for record in prepared.splits.skipped[:200]],
    }


def versions() -> dict[str, str]:
    """The libraries, the interpreter and the machine behind a run."""
    names = (*contract.LIBRARIES, "lightning", "datasets", "hydra-core", "mlflow", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    return {**found, "python": platform.python_version(), "platform": platform.platform()}


def run_alone(x: Experiment, command: str, started: float, report: Report = silent) -> Run:
    """One experiment in this process, unless it is finished already (`trainer.if_finished`)."""
    known = runs.load(Path(x.tracking.runs_dir), identity(x))
    if reusable(x, known):
        assert known is not None
        return known
    prepared = prepare(x, report)
    lora.verify(prepared.vlm, x.lora)
    run = new_run(x, command)
    try:
        return run_arm(x, prepared, run, started, report)
    except BaseException as error:
        fail(x, run, error)
        raise


def reusable(x: Experiment, known: Run | None) -> bool:
    """Whether a finished run of this identity stands in for training it again."""
    return known is not None and known.status == runs.FINISHED and x.trainer.if_finished.value == "reuse"


def fail(x: Experiment, run: Run, error: BaseException) -> None:
    """Record why a run stopped."""
    stopped = isinstance(error, KeyboardInterrupt | SystemExit)
    run.status = runs.KILLED if stopped else runs.FAILED
    run.error = f"{type(error).__name__}: {error}"
    run.ended = runs.now()
    runs.save(Path(x.tracking.runs_dir), run)
