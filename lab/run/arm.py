"""One arm from config to results, in a run folder. A run alone and an arm of a sweep go through the same function."""

from __future__ import annotations

import functools
import logging
import os
import socket
from pathlib import Path

from lab import lora
from lab.artifacts import adapter, contract
from lab.config import Experiment, IfFinished, IfUnfinished, as_dict, identity, trains
from lab.errors import BusyError
from lab.evaluation import equivalence
from lab.host.progress import Report, silent
from lab.host.stopping import limited, stoppable
from lab.model import RANDOM, Vlm
from lab.run import ranks, realised_clips, transcripts, zero_shot
from lab.run.accounting import costs
from lab.run.asking_more import ask_more
from lab.run.assembly import assemble, attached, check, sized
from lab.run.facts import data_facts, order_facts, put_below, versions
from lab.run.measuring import ask_minival, evaluate, require_effect, unasked, verify, wanted_of
from lab.run.memory import checkpointing_choice
from lab.run.other_data import mixture_of
from lab.run.planned import planned
from lab.run.realised import realised
from lab.run.sharing import Prepared, load_shared, require_adapter, try_out
from lab.run.unchanged import require_same_base
from lab.run.warming import beside_features
from lab.store import curve_files, runs
from lab.store.runs import Run
from lab.training import checkpoints
from lab.training.capacity import Choice
from lab.training.checkpoints import Paused

log = logging.getLogger(__name__)


def new_run(x: Experiment, command: str, sweep: str | None = None) -> Run:
    """A run record that has not started."""
    return Run(identity=identity(x), name=identity(x), config=as_dict(x), command=command, sweep=sweep)


def run_arm(
    x: Experiment, prepared: Prepared, run: Run, started: float, report: Report = silent, interleaved: bool = False,
    pause_at: int | None = None,
) -> Run:
    """Attach, train and measure one arm; write everything to its run folder and return the finished record.

    An unfinished run of the same identity is resumed: from its last checkpoint, under its first start.
    started: Unix time at which the command began, for the time to the first metric. interleaved: latency is measured again later,
    beside other arms. pause_at: optimizer steps after which the arm answers minival and waits, unfinished, for the others of its
    race. Raises `BusyError` if another process is at work on the run.
    """
    x = sized(x, prepared.vlm)
    run.config = as_dict(x)
    runs_dir = Path(x.tracking.runs_dir)
    run_dir = runs.folder(runs_dir, run.identity)
    with runs.held(run_dir):
        earlier = runs.load(runs_dir, run.identity)
        if earlier is not None and stands(x, earlier):
            return ask_more(x, prepared, earlier, run_dir, report)
        begin_or_resume(x, run, earlier, run_dir)
        runs.save(runs_dir, run)
        prepared.encoded(x, report)  # before adapters sit in the tower
        run.facts["realised"], run.metrics = realised(x, prepared), costs(x, prepared)
        choice = checkpointing_choice(x, prepared)
        run.facts |= planned(x, prepared, choice)
        others, wanted = prepared.others(x, wanted_of(x), report), zero_shot.wanted(x)
        numbers, rows = zero_shot.measure(x, prepared.vlm, prepared.encoded(x)["dev"], others, wanted, report)
        with attached(x, prepared.vlm) as vlm:
            try:
                train_and_measure(x, vlm, prepared, run, run_dir, started, report, interleaved, pause_at, choice)
            except Paused as paused:
                pause(x, vlm, prepared, run, run_dir, paused.step, pause_at, report)
                return run
        run.metrics |= numbers
        put_below(run, rows)
        run.status, run.ended = runs.FINISHED, runs.now()
        runs.save(runs_dir, run)
        checkpoints.clear(run_dir)
    return run


def pause(
    x: Experiment, vlm: Vlm, prepared: Prepared, run: Run, run_dir: Path, step: int, pause_at: int | None, report: Report
) -> None:
    """Answer minival at a rung of a race, and leave the run waiting; one that is beyond it answers nothing."""
    if step == pause_at:
        examples = prepared.encoded(x, report)["minival"]
        ask_minival(x, vlm, examples, examples.encoder.readout, runs.rung_file(run_dir, step), report, step)
    run.status = runs.PAUSED
    runs.save(Path(x.tracking.runs_dir), run)


def begin_or_resume(x: Experiment, run: Run, earlier: Run | None, run_dir: Path) -> None:
    """Make a record one of a run that starts now, or that goes on where an unfinished one of its identity was left."""
    goes_on = earlier is not None and earlier.status != runs.FINISHED and x.trainer.if_unfinished is IfUnfinished.resume
    if goes_on:
        assert earlier is not None
        run.started = earlier.started
        was = runs.KILLED if earlier.status == runs.RUNNING else earlier.status  # the previous process released the lock
        step = checkpoints.newest_step(run_dir)
        interruption = [] if was == runs.PAUSED else [{"at": runs.now(), "was": was, "error": earlier.error, "step": step}]
        if interruptions := [*earlier.facts.get("interruptions", []), *interruption]:
            run.facts["interruptions"] = interruptions
    else:
        run.started = runs.now()
        checkpoints.clear(run_dir)
        curve_files.cut(run_dir, 0)
        curve_files.drop_samples(run_dir)
        runs.drop_parts(run_dir)
        for path in runs.rung_files(run_dir):
            path.unlink()
    run.status, run.error, run.ended = runs.RUNNING, None, None
    run.process = {"pid": os.getpid(), "host": socket.gethostname()}


def train_and_measure(
    x: Experiment, vlm: Vlm, prepared: Prepared, run: Run, run_dir: Path, started: float, report: Report, interleaved: bool,
    pause_at: int | None, choice: Choice | None,
) -> None:
    """Fill a run's record with what one arm's model learns and answers. choice: of `checkpointing_choice`. Raises `Paused` at `pause_at`."""
    encoded = prepared.encoded(x, report)
    ledger = lora.ledger(vlm)
    log.info("parameters\n%s", lora.ledger_text(ledger))
    reads = encoded["dev"].encoder.readout
    facts = data_facts(x, prepared, encoded)
    facts |= order_facts(x, encoded["train"], facts["order"]["examples_seen"]) if trains(x) else {}
    run.facts |= {"data": facts, "ledger": lora.ledger_facts(ledger), "versions": dict(versions())}
    run.facts |= {RANDOM: True} if vlm.base.get(RANDOM) else {}
    run.metrics |= {
        "parameters/total": float(sum(row.total for row in ledger)),
        "parameters/trainable": float(sum(row.trainable for row in ledger)),
    }
    runs.save(Path(x.tracking.runs_dir), run)
    described = contract.describe(x, vlm, encoded["dev"].encoder, reads)
    if checkpoints.saved(run_dir):  # also where training has ended and only the evaluation was cut off
        reasons = contract.differences(contract.load(run_dir), described)
        what = f"going on with {run.identity} would not train what it began"
        contract.refuse(reasons, what, "or begin anew with trainer.if_unfinished=restart.")
    described |= {"mixture": mixture} if (mixture := mixture_of(prepared.splits_of(x), encoded, x.evaluation)) else {}
    contract.save(run_dir, described)
    if trains(x):
        learn(x, vlm, prepared, run, run_dir, started, report, pause_at, choice)
    others = prepared.others(x, wanted_of(x))
    run.metrics |= evaluate(x, vlm, encoded, reads, run_dir, report, run.facts, interleaved, others=others)
    run.facts["asked"] = wanted_of(x)
    shown = {"clips": realised_clips.keep(encoded, run_dir)} if prepared.splits.clips else {}
    run.facts |= shown
    realised = {key: run.metrics[f"visual_tokens/{key}"] for key in ("mean", "min", "max") if f"visual_tokens/{key}" in run.metrics}
    contract.save(run_dir, {**described, "visual_tokens": realised, **shown, **contract.describe_trained(vlm, run_dir)})
    if x.evaluation.verify:
        checks = verify(x, vlm, encoded["dev"], run_dir)
        run.metrics |= equivalence.summary(checks)
        run.facts["verify"] = equivalence.facts(checks)
        log.info("equivalence gate\n%s", equivalence.table(checks))


def learn(
    x: Experiment, vlm: Vlm, prepared: Prepared, run: Run, run_dir: Path, started: float, report: Report, pause_at: int | None,
    choice: Choice | None,
) -> None:
    """Train an arm, record how it went, and save what has trained. Raises `Paused` at `pause_at`, `ModelError` if nothing has."""
    from lab.evaluation.watching import watchers
    from lab.training import loop  # with Lightning, which nothing before needs

    encoded = prepared.encoded(x, report)
    transcripts.write(encoded["train"], run_dir / transcripts.FILE)
    alike = {"samples": run.facts["data"]["samples"]["train"]}
    with ranks.launch_ranks(x, run_dir, started, alike):
        outcome = loop.train(
            x, vlm, encoded, run_dir, started, alike, report, watchers(encoded["minival"], x.evaluation), pause_at, choice
        )
    run.metrics |= outcome.metrics
    run.facts |= outcome.facts
    seen = int(outcome.metrics["train/steps"]) * x.trainer.samples_per_step
    run.facts["data"] |= order_facts(x, encoded["train"], seen)  # fewer than were asked for if it stopped early
    run.metrics["train/examples_seen"] = float(seen)
    lora.finalize_adapter(vlm)
    require_effect(vlm, assemble(x, prepared.vlm), encoded["dev"])
    adapter.save(vlm, run_dir / "adapter")


def run_alone(x: Experiment, command: str, started: float, report: Report = silent, run: Run | None = None) -> Run:
    """One experiment in this process, unless it is finished already (`trainer.if_finished`).

    run: its record, where it is an arm of a sweep.
    """
    known = runs.load(Path(x.tracking.runs_dir), identity(x))
    if reusable(x, known):
        assert known is not None
        return known
    check(x)
    run = run or new_run(x, command)
    with stoppable(), limited(x.trainer.max_time, "trainer.max_time", started):
        prepared = load_shared(x, report)
        require_adapter(x, prepared)
        prepared.encoded(x, report, functools.partial(beside_features, [x], prepared))
        try_out(x, prepared)
        try:
            return run_arm(x, prepared, run, started, report)
        except BusyError:
            raise
        except BaseException as error:
            fail(x, run, error)
            raise


def stands(x: Experiment, known: Run) -> bool:
    """Whether a finished run of this identity stands in for training it again."""
    return known.status == runs.FINISHED and x.trainer.if_finished is IfFinished.reuse


def reusable(x: Experiment, known: Run | None) -> bool:
    """Whether it does, and has also answered all that is asked. Raises `ContractError` where it is of other weights than lie there now."""
    if known is None or not stands(x, known) or unasked(x, known):
        return False
    require_same_base(x)
    return True


def fail(x: Experiment, run: Run, error: BaseException) -> None:
    """Record why a run stopped. One that is finished stays so: only what was asked of it beyond is missing."""
    known = runs.look(Path(x.tracking.runs_dir), run.identity)
    if known is not None and stands(x, known):
        log.error("run %s is finished, and what is asked of it now failed: %s", run.identity, error)
        return
    stopped = isinstance(error, KeyboardInterrupt | SystemExit)
    run.status = runs.KILLED if stopped else runs.FAILED
    run.error = f"{type(error).__name__}: {error}"
    run.started = run.started or runs.now()  # it may have stopped before it began to train
    run.ended = runs.now()
    runs.save(Path(x.tracking.runs_dir), run)
