"""lab evaluate: score what is there, under the contract it was trained by. Light until it starts.

    lab evaluate RUN data=winoground ...                    a finished run on other data, beside its record
    lab evaluate RUN evaluation.also=[gqa,mmmu]             benchmarks, as part of its record
    lab evaluate model=MODEL evaluation.also=[gqa,mmmu]     the same of a checkpoint without a run, whose record is then one
    lab evaluate model=endpoint endpoint.base_url=URL endpoint.model=NAME evaluation.also=[gqa,mmmu]     the same of a model behind a server
"""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lab import paths, placing, plugins, services
from lab.cli import add_max_time, add_run, program, run_stoppable, set_up_logging, take_run
from lab.errors import ConfigError
from lab.finished import changed, find, merged
from lab.host.files import values_hash, write_atomically
from lab.host.progress import silent

if TYPE_CHECKING:
    from lab.answers.predictions import PredictionTable
    from lab.config import Experiment
    from lab.host.progress import Report
    from lab.store.runs import Run


log = logging.getLogger(__name__)
SPLITS = ("dev", "minival")


def parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog=program("lab.evaluate"),
        usage="%(prog)s RUN [KEY=VALUE ...] [options], or %(prog)s model=MODEL [model.path=PATH] evaluation.also=[SET,...] [KEY=VALUE ...]",
        description="Rebuild a run's base, dials and adapter from runs/ID/run.json, check them against the adapter's contract, "
        "score a split, and write runs/ID/evaluations/NAME.parquet with NAME.json beside it; of NLVR or NLVR2 without labels the official CSV.",
        epilog="KEY=VALUE changes one value of the run's config and GROUP=OPTION takes conf/GROUP/OPTION.yaml, as in lab train: "
        "data=winoground, data.num_dev=400, trainer.accelerator=cpu. A change that the contract forbids is refused. With evaluation.also=[gqa,mmmu] "
        "evaluation.also_root=FOLDER benchmarks are asked as part of the run's record, or, without RUN, of a checkpoint's own: each reply a "
        "line of runs/ID/answers/SET.jsonl, which other tools print where verbose is set; tracking.runs_dir=FOLDER is their output_dir.",
    )
    add_run(made)
    made.add_argument("--split", choices=SPLITS, default="dev", help="what to score (default: dev)")
    made.add_argument("--runs-dir", type=paths.argument, default=Path("runs"), metavar="DIR", help="where run folders lie (default: runs)")
    made.add_argument("--name", help="name of the files (default: the split, and a hash of what was changed)")
    made.add_argument("--break-contract", action="store_true", help="score what the contract forbids; the result is marked")
    add_max_time(made)
    made.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes to the run's config")
    return made


def untrained(overrides: Sequence[str], runs_dir: Path) -> Experiment:
    """A checkpoint asked as it is: the first set of `evaluation.also` is its own data, the rest is asked beside. Raises `ConfigError`."""
    from lab import data
    from lab.cli import compose
    from lab.sweeping.launcher import register

    register()
    words = [f"tracking.runs_dir={runs_dir}", *overrides, "lora=none", "trainer.max_steps=0", "trainer.max_epochs=null"]
    if "model=endpoint" in overrides:
        services.refuse_unread(overrides)
    asked = compose(words).evaluation.also
    if not asked:
        raise ConfigError("evaluation.also: a checkpoint without a run is asked the sets that it names, as in evaluation.also=[ai2d,chartqa].")
    if any(word.startswith("data=") for word in overrides):
        return compose(words)
    own, (_, *keys) = data.option(asked[0]), shlex.split(asked[0])
    if own.name != own.dial.name:
        raise ConfigError(f"evaluation.also=[{asked[0]}]: the first set is kept by its own name. Put it behind one without as=.")
    chosen = [f"data={own.dial.name}", *([f"prompt={own.prompt}"] if own.prompt else [])]
    chosen += [f"data.{key}={value}" for key, _, value in (word.partition("=") for word in keys) if key != "prompt"]
    left = [word for word in words if word.partition("=")[0] not in ("evaluation.also", *placing.KEYS)]
    return compose([*left, *chosen, f"evaluation.also={json.dumps(asked[1:])}"])


def asked_more(run: Run, overrides: Sequence[str], runs_dir: Path) -> Experiment:
    """The run's config with more asked of it, its steps as they were. Raises `ConfigError` for keys by which it would be another run."""
    from lab.config import IfFinished, identity
    from lab.freezing import freeze

    free = ("evaluation", "endpoint", "tracking", "plugins", "trainer")
    if wrong := [word for word in overrides if word.partition("=")[0].partition(".")[0] not in free]:
        raise ConfigError(f"{wrong[0]}: evaluation.also is asked as part of the run's record, whose own keys stand. Take it out, or evaluation.also.")
    x = freeze(merged(run, [*overrides, f"tracking.runs_dir={runs_dir}"], trains=True))
    x = replace(x, trainer=replace(x.trainer, if_finished=IfFinished.reuse))
    if identity(x) != run.identity:
        raise ConfigError(f"run {run.identity}: its record is of another version, under which it has another name. Give data=SET data.root=FOLDER.")
    return x


def ask(x: Experiment, command: str) -> int:
    """Ask what is missing, deliver it to the trackers, and print what each benchmark comes to."""
    from lab.cli import process_started
    from lab.config import ENDPOINT, identity
    from lab.data.benchmarks import marks
    from lab.host.progress import bars
    from lab.judge.verdicts import lines
    from lab.report.rescoring import stored
    from lab.run import asked_endpoint, judging
    from lab.store import runs
    from lab.train import run_alone

    if x.model.family == ENDPOINT:
        judging.check(x)
        code = asked_endpoint.run_delivered(x, command, process_started(), bars())
    else:
        record, _, judged = run_alone(x, command, process_started(), bars())
        code = judged if record.status == runs.FINISHED else 1
    folder = runs.folder(Path(x.tracking.runs_dir), identity(x))
    for found in stored(folder).values():
        print("\n".join([*marks.lines(found), *(lines(found["judge"]) if "judge" in found else ())]), flush=True)
    print(f"written to {folder / 'evaluations'}, replies to {folder / 'answers'}", flush=True)
    return code


def evaluate(
    run: Run, x: Experiment, runs_dir: Path, split: str, overrides: Sequence[str], name: str | None = None, break_contract: bool = False,
    report: Report = silent,
) -> tuple[Path, dict[str, Any]]:
    """Check the contract, score a split, and write predictions and facts; return the predictions' path and the facts.

    x: the run's config with `overrides` in it (`changed`). name: of the files; None: of the split and what was changed.
    """  # fmt: skip
    from lab import data, model, prompt
    from lab.answers import predictions
    from lab.artifacts import contract
    from lab.errors import DataError
    from lab.freezing import from_dict
    from lab.run.accounting import visual_tokens
    from lab.run.assembly import check_data
    from lab.run.rebuilt import rebuild
    from lab.statistics import metrics, rules
    from lab.store import runs

    run_dir = runs.folder(runs_dir, run.identity)
    check_data(x.data, model.family(x.model.family), x)
    own = replace(x, data=data.stored(run.config["data"]))
    answers = contract.answers_of(contract.load(run_dir), from_dict(run.config).prompt)
    splits = data.load(x.data, Path(x.tracking.cache_dir))
    model.family(x.model.family).require(f"answers={splits.kind}", f"data={x.data.name}")
    if not len(getattr(splits, split)):
        raise DataError(f"--split {split}: it is empty in data={x.data.name}. {' '.join(splits.notes)}")
    again = rebuild(run, run_dir, own, answers, "this evaluation", report, break_contract)
    now, reasons = again.contract, again.reasons
    path = run_dir / "evaluations" / f"{name or name_of(split, overrides, bool(reasons))}.parquet"
    splits, scored = again.ask(splits, split, x.data, report, runs.part_file(path, values_hash(sorted(overrides), 10)))
    tokens = visual_tokens(row.visual_tokens for row in scored)
    now["visual_tokens"] = {key.removeprefix("visual_tokens/"): value for key, value in tokens.items()}
    remarks = contract.compare(contract.load(run_dir), now)[1]
    for remark in remarks:
        log.info("contract (no reason to refuse): %s", remark)
    predictions.write(path, scored)
    table = predictions.read(path)
    facts = {
        "run": run.identity, "split": split, "n": len(scored), "contract_broken": bool(reasons), "differences": reasons, "remarks": remarks,
        "overrides": list(overrides),
        "data": {"name": x.data.name, "rule": x.data.rule, "samples": data.fingerprint(getattr(splits, split))},
        "prompt": prompt.describe(again.asked(x.data, splits.answers).prompt),
        "notes": list(splits.notes),
        "skipped": len(splits.skipped),
        "metrics": metrics.summarise(table) | rules.evaluated(vars(data.lead(x.data)), table)[0],
        "contract": now,
        "ended": runs.now(),
    }  # fmt: skip
    write_atomically(path.with_suffix(".json"), json.dumps(facts, indent=1) + "\n")
    return path, facts


def name_of(split: str, overrides: Sequence[str], broken: bool) -> str:
    """A file name from the split and the changes; a broken contract shows in it."""
    name = f"{split}-{values_hash(sorted(overrides), 8)}" if overrides else split
    return f"{name}-broken" if broken else name


def told(path: Path, facts: dict[str, Any], table: PredictionTable, num_resamples: int) -> str:
    """The lines that a person reads: metrics with 95 % intervals, or the reason why there are none."""
    from lab.errors import LabError
    from lab.statistics import rules
    from lab.statistics.intervals import intervals
    from lab.statistics.metrics import KINDS

    shown = [name for name in KINDS[table.kind].shown if KINDS[table.kind].metrics[name].only(table)]
    lines = [f"run {facts['run']}, {facts['data']['name']}/{facts['split']}, n={facts['n']}"]
    if facts["contract_broken"]:
        lines.append(f"  CONTRACT BROKEN in {len(facts['differences'])} values; see the .json file")
    try:
        estimates = intervals([table], shown, num_resamples=num_resamples)[0]
        for name, one in estimates.items():
            within = f"[{one.low:.4f}, {one.high:.4f}]" if one.has_ends else f"[no interval: {one.method}]"
            lines.append(f"  {name} {one.estimate:.4f} {within}")
        lines.append(f"  intervals over {estimates[shown[0]].num_clusters} clusters of samples that share images or sentences")
    except LabError as error:
        lines += [f"  {name} {facts['metrics'][name]:.4f}" for name in shown if name in facts["metrics"]]
        lines.append(f"  no intervals: {error}")
    lines += [f"  {line}" for line in rules.evaluated(facts["data"], table)[1].splitlines()]
    return "\n".join([*lines, f"written to {path}"])


def act(given: argparse.Namespace) -> int:
    """Evaluate and print."""
    plugins.load(plugins.named(given.overrides))
    command = f"python -m lab.evaluate {shlex.join(sys.argv[1:])}"
    also = any(word.startswith("evaluation.also=") for word in given.overrides)
    if also and (given.name or given.break_contract or given.split != SPLITS[0]):
        raise ConfigError("--name, --split, --break-contract: they are of one set, data=SET. Take them out, or evaluation.also.")
    if given.run is None:
        return ask(untrained(given.overrides, given.runs_dir), command)
    run = find(given.runs_dir, given.run, weights=not also)
    if also:
        return ask(asked_more(run, given.overrides, given.runs_dir), command)
    if lacking := plugins.missing(run.config):
        log.warning("run %s was made with plugins=%s, not imported here; add plugins=[...] if they are needed", run.identity, lacking)
    x = changed(run, given.overrides)

    from lab.answers import predictions
    from lab.host.progress import bars
    from lab.run import submitting

    if given.split == SPLITS[0] and submitting.unlabelled(x.data):
        path = submitting.submit(run, x, given.runs_dir, given.name, given.break_contract, bars())
        print(f"data={x.data.name} has no labels here: the official submission of run {run.identity} is {path}", flush=True)
        return 0
    path, facts = evaluate(run, x, given.runs_dir, given.split, given.overrides, given.name, given.break_contract, bars())
    print(told(path, facts, predictions.read(path), x.evaluation.bootstrap), flush=True)
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command-line entry point; 2 if the user must act."""
    arguments_of = parser()
    given = arguments_of.parse_intermixed_args(arguments)
    if given.run is not None or not any(word.startswith("model=") for word in given.overrides) or "=" not in given.overrides[0]:
        take_run(arguments_of, given, given.overrides)
    set_up_logging()
    return run_stoppable(lambda: act(given), given.max_time)


if __name__ == "__main__":
    sys.exit(main())
