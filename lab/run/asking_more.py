"""What is asked of a finished run beyond its record: measured on its adapter, without a step of training."""

from __future__ import annotations

import logging
from pathlib import Path

from lab.artifacts import contract
from lab.config import Experiment, also_asked, as_dict, name_of_option
from lab.host.progress import Report, silent
from lab.run import judging, zero_shot
from lab.run.assembly import trained
from lab.run.facts import data_facts, put_below
from lab.run.measuring import evaluate, unasked, wanted_of
from lab.run.sharing import Prepared
from lab.statistics import summary
from lab.store import runs
from lab.store.runs import Run

log = logging.getLogger(__name__)


def ask_more(x: Experiment, prepared: Prepared, run: Run, run_dir: Path, report: Report = silent) -> Run:
    """Measure of a finished run what is asked beyond its record, and add it to that; no step is taken. The folder is held.

    Raises `ContractError` if its adapter would not be used as it was trained.
    """
    todo = unasked(x, run)
    encoded = prepared.encoded(x, report)
    log.info("run %s is trained; asked of it now: %s", run.identity, ", ".join(sorted(todo)))
    others = prepared.others(x, todo, report)
    baselines = ({} if "dev" in todo else run.facts["data"].get("baselines", {})) | dict(prepared.splits_of(x).baselines)
    beside = prepared.others(x, zero_shot.others_of(todo), report)
    numbers, rows = zero_shot.measure(x, prepared.vlm, encoded["dev"], beside, todo, report)
    run.metrics |= numbers
    with trained(x, prepared.vlm, run_dir) as vlm:
        reads = encoded["dev"].encoder.readout
        described = contract.describe(x, vlm, encoded["dev"].encoder, reads)
        contract.enforce(contract.load(run_dir), described, f"asking more of run {run.identity}")
        if "post" in todo:
            run.metrics = {name: value for name, value in run.metrics.items() if not summary.is_learned(name)}  # they were of another rule
        numbers = evaluate(x, vlm, encoded, reads, run_dir, report, run.facts, todo=todo, others=others)
        run.metrics = judging.without_outdated(run.metrics, numbers) | numbers
    now = {name_of_option(option) for option in x.evaluation.also}
    before = {name: digest for name, digest in run.facts.get("asked", {}).items() if name_of_option(name.partition("also ")[2]) not in now}
    run.facts["asked"] = before | wanted_of(x)
    facts = data_facts(x, prepared, encoded)
    run.facts["data"] |= {key: facts[key] for key in ("counts", "samples", "notes")} | {"baselines": baselines}
    put_below(run, rows)
    run.config["evaluation"] = as_dict(also_asked(x, run.config))["evaluation"]
    run.config["plugins"] = list(dict.fromkeys([*run.config.get("plugins", ()), *x.plugins]))
    run.config["prompt"]["post"] = x.prompt.post
    run.config["data"] |= {"num_dev": x.data.num_dev, "rule": x.data.rule}
    runs.save(Path(x.tracking.runs_dir), run)
    return run
