"""A language model as judge of the replies that a finished run has given to benchmarks (`evaluation.judge`): no step, and no model of ours.

It comes after everything else, so that answers and exact numbers are written whatever becomes of the judge. What a run holds of it:
`evaluations/<set>.json` has `judge`, beside it lie `<set>.verdicts.jsonl` and `<set>.marks.csv`, its record has `<set>/judge_mean` and the like.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lab import data
from lab.benchmark_specs import SPECS
from lab.config import DataDial, Experiment, identity
from lab.data.benchmarks import marks
from lab.errors import ConfigError, LabError
from lab.host.files import write_atomically
from lab.host.progress import Report
from lab.host.redaction import without_secrets
from lab.host.stopping import limited, stoppable
from lab.store import results, runs
from lab.store.runs import FINISHED

if TYPE_CHECKING:
    from lab.judge.verdicts import Judged

log = logging.getLogger(__name__)

AWAY = 2
"""Exit code: nobody could be asked."""


def sets_of(x: Experiment) -> dict[str, DataDial]:
    """The benchmarks that an experiment asks, by the name of their files: its own data, and those of `evaluation.also`."""
    asked = {x.data.name: x.data} | {option.name: option.dial for option in map(data.option, x.evaluation.also)}
    return {name: dial for name, dial in asked.items() if dial.name in SPECS}


def check(x: Experiment) -> None:
    """Say before anything loads what a judge cannot do here. Raises `ConfigError`."""
    if x.evaluation.judge.base_url is None:
        return
    if not sets_of(x):
        raise ConfigError(
            f"evaluation.judge: it marks replies to benchmarks, and neither data={x.data.name} nor evaluation.also={x.evaluation.also} names one. "
            "Add some to evaluation.also, as in evaluation.also=[gqa,chartqa], or leave it out."
        )
    from lab.judge import verdicts

    verdicts.service_of(x.evaluation.judge)


def judge(x: Experiment, report: Report, started: float) -> int:
    """Ask for the verdicts that the finished run of `x` lacks; how the command ends by it, 0 where nothing is missing.

    What stops the judge is told on standard error, and the sets after it wait for the next command. started: Unix time of the command,
    from which `trainer.max_time` counts; raises `Stopped` then, what was answered being kept.
    """
    runs_dir, code = Path(x.tracking.runs_dir), 0
    run_dir, known = runs.folder(runs_dir, identity(x)), runs.look(runs_dir, identity(x))
    if x.evaluation.judge.base_url is None or known is None or known.status != FINISHED:
        return 0
    from lab.judge import verdicts
    from lab.llm.limits import exit_code

    try:
        with stoppable(), limited(x.trainer.max_time, "trainer.max_time", started), runs.held(run_dir):
            for name, dial in sets_of(x).items():
                judged = mark(x, name, dial, run_dir, report)
                log.info("%s: %s", name, "\n".join(verdicts.lines(judged.facts)))
                code = max(code, exit_code(judged.ended, judged.facts["waiting"]))
                if judged.ended is not None:
                    break
    except LabError as error:
        print(f"error: {without_secrets(str(error))}", file=sys.stderr, flush=True)
        return AWAY
    return code


def judge_all(experiments: Iterable[Experiment], report: Report, started: float) -> int:
    """The same of several runs, until something stops the judge."""
    worst = 0
    for x in experiments:
        worst = max(worst, judge(x, report, started))
        if worst >= AWAY:
            break
    return worst


def mark(x: Experiment, name: str, dial: DataDial, run_dir: Path, report: Report) -> Judged:
    """Have the replies to one benchmark judged, and write the result and the run's numbers of it. The folder is held."""
    from lab.judge import verdicts

    place = run_dir / "evaluations" / f"{name}.json"
    facts, replies = results.read(place), marks.replies_of(run_dir / "answers" / f"{name}.jsonl")
    untaken = {one["id"]: one["reason"] for one in facts.get("left_out", ()) if one["id"] not in replies}
    dial = replace(dial, profile=facts.get("profile", dial.profile))
    found = marks.opened(dial)
    marked = marks.result(dial, replies, untaken, found=found)
    rows = marked.pop("rows")
    runs_dir = Path(x.tracking.runs_dir)
    judged = verdicts.mark(x.evaluation.judge, found.questions, rows, runs_dir, place.with_suffix(""), report)
    write_atomically(place, json.dumps((facts or marked) | {"judge": judged.facts}, indent=1, ensure_ascii=False) + "\n")
    run = runs.load(runs_dir, identity(x))
    assert run is not None  # it has finished, and is held
    run.metrics = without(run.metrics, name) | verdicts.numbers(name, judged.facts)
    runs.save(runs_dir, run)
    return judged


def without(metrics: Mapping[str, float], name: str) -> dict[str, float]:
    """A run's numbers without what a judge said of a set."""
    return {key: value for key, value in metrics.items() if not key.startswith(f"{name}/judge_")}


def without_outdated(metrics: Mapping[str, float], new: Mapping[str, float]) -> dict[str, float]:
    """A run's numbers without what a judge said of sets whose replies are marked anew in `new`."""
    found = dict(metrics)
    for key in new:
        if key.endswith("/rule_version"):
            found = without(found, key.removesuffix("/rule_version"))
    return found
