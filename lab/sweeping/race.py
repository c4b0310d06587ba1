"""`sweep.race`: all arms pause at a rung, one decision is made for all of them, and those it stops go no further.

A rung is a checkpoint and the answers to minival, so that what goes on from it ends as it would have without a race, to the bit.
The decision (`lab.statistics.race`) is written before anything goes on and stands: a sweep that was killed stops the same arms.
A stopped arm keeps its checkpoint; the same command with sweep.race=null finishes it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.config import Experiment, RaceMode, as_dict, identity
from lab.errors import ConfigError
from lab.host.progress import bars
from lab.report.race import outside
from lab.statistics import race as statistics
from lab.statistics.comparing import aligned
from lab.statistics.metrics import KINDS, Metric
from lab.statistics.resampling import clusters, clusters_of_samples
from lab.store import races, runs
from lab.store.races import Race
from lab.store.runs import Run
from lab.sweeping.arms import Arm

if TYPE_CHECKING:
    from lab.sweeping.groups import Bases

log = logging.getLogger(__name__)

ALIKE = ("data", "seed", "trainer.max_steps", "sweep.race", "race")
"""Keys and sections in which arms of a race do not differ, beside the samples of a step."""
ORDER_CHANGERS = (
    "lr", "lr_vision", "lr_projector", "lr_llm", "lr_extras", "lr_b_ratio", "warmup_fraction", "schedule", "schedule_kwargs", "milestones", "gamma",
    "optimizer", "optimizer_kwargs",
)  # fmt: skip
"""Keys of `optim` that change how fast an arm learns, so that the order at a rung need not be that of the end."""
CAUTION = (
    "Race compares arms as they are at the rung. An arm that learns slowly or starts late can be stopped although it would have won; "
    "more questions make this worse. Do not race these unless a sweep with sweep.race=watch on this task shows the order at the rungs "
    "to be that of the end."
)


def steps_of(x: Experiment) -> list[int]:
    """The optimizer steps after which arms pause."""
    assert x.trainer.max_steps is not None
    return [round(share * x.trainer.max_steps) for share in x.race.rungs]


def check(arms: Sequence[Arm], shared: bool) -> None:
    """Refuse, before anything is loaded, arms that cannot be raced; what one experiment cannot be, `lab.freezing` has refused.

    shared: whether they run over shared bases, in this process and its forks.
    """
    experiments = [arm.experiment for arm in arms]
    x = next(one for one in experiments if one.sweep.race is not None)
    if not shared:
        raise ConfigError(f"sweep.race={mode(x)}: arms wait for each other at rungs, which hydra/launcher=shared alone has them do.")
    if any(arm.start is not None for arm in arms):
        raise ConfigError(f"sweep.race={mode(x)}: an arm that starts from another (model.start=arm:N) cannot race with it. Give sweep.race=null.")
    for key in ALIKE:
        values = {repr(value_of(one, key)) for one in experiments}
        if len(values) > 1:
            raise ConfigError(f"{key}: arms of a race (sweep.race={mode(x)}) have one, and these have {len(values)}. Vary another key.")
    if len({one.trainer.samples_per_step for one in experiments}) > 1:
        raise ConfigError(f"trainer.batch_size: arms of a race (sweep.race={mode(x)}) take as many samples a step; these do not.")
    statistics.require_arms(len(arms))
    steps = steps_of(x)
    if min(steps) < 1 or max(steps) >= (x.trainer.max_steps or 0) or len(set(steps)) < len(steps):
        given = f"race.rungs={x.race.rungs}: of trainer.max_steps={x.trainer.max_steps}"
        raise ConfigError(f"{given} they are the steps {steps}, which must rise and lie between the first and the last. Give more steps.")
    rule_of(x, len(arms))
    differing = [key for key in ORDER_CHANGERS if len({repr(getattr(one.optim, key)) for one in experiments}) > 1]
    if differing:
        log.warning("race: arms differ in optim.%s. %s", ", optim.".join(differing), CAUTION)


def mode(x: Experiment) -> str:
    assert x.sweep.race is not None
    return x.sweep.race.value


def value_of(x: Experiment, key: str) -> Any:
    """The value of a dotted key or section, as JSON."""
    values: Any = as_dict(x)
    for name in key.split("."):
        values = values[name]
    return values


def stages(arms: Sequence[Arm], sweep: str, bases: Bases) -> Iterator[list[Arm]]:
    """The arms to run, rung by rung and then to the end; each list is run whole before the next is asked for.

    An arm that fails takes no part any more; one that was killed is waited for, by the next command.
    Raises `LabError` where minival has too few clusters, and where this sweep has decided by another rule before.
    """
    x = arms[0].experiment
    runs_dir, steps = Path(x.tracking.runs_dir), steps_of(x)
    race = opened(arms, sweep, runs_dir)
    if any(race.rung(step) is None for step in steps):
        require_questions(x, bases)
    running, out = list(arms), set()
    for step in steps:
        if race.rung(step) is None:
            todo = [replace(arm, pause_at=step) for arm in running if not answered(arm, step)]
            if todo:
                yield todo
            if any(status_of(arm) == runs.KILLED for arm in todo):
                log.warning("race: arms ended before step %d without having failed, so nothing is decided yet; the same command goes on", step)
                return
            running = [arm for arm in running if status_of(arm) != runs.FAILED]
            decide(race, [arm for arm in running if identity(arm.experiment) not in out], step, runs_dir)
        out = {run for run, _ in race.stops()}
        if x.sweep.race is RaceMode.stop:
            for arm in running:
                stop(arm, race)
            running = [arm for arm in running if identity(arm.experiment) not in out]
    yield running


def opened(arms: Sequence[Arm], sweep: str, runs_dir: Path) -> Race:
    """The sweep's race so far. Raises `ConfigError` if it was decided by another rule."""
    x = arms[0].experiment
    rule = value_of(x, "race")
    race = races.load(runs_dir, sweep)
    if race is None or not race.rungs:
        race = Race(sweep, mode(x), rule, x.trainer.max_steps or 0, x.trainer.samples_per_step, len(arms))
    elif race.rule != rule:
        key = next(key for key in rule if rule[key] != race.rule.get(key))
        raise ConfigError(
            f"race.{key}={rule[key]}: this sweep was decided at step {race.rungs[0]['step']} with {race.rule.get(key)}, which stands. Give "
            f"that value, or move {races.path_of(runs_dir, sweep)} away."
        )
    race.mode = mode(x)
    races.save(runs_dir, race)
    return race


def require_questions(x: Experiment, bases: Bases) -> None:
    """Hold minival to what the test needs. Raises `LabError`."""
    split = bases.of(x).encoded(x, bars())["minival"].split
    samples = [split.index(i) for i in range(len(split))]
    number = int(clusters_of_samples(samples).max()) + 1 if samples else 0
    statistics.require_clusters(number)
    if number < statistics.FEW_CLUSTERS:
        log.warning("race: minival has %d clusters; with fewer than %d its error rate is not as stated", number, statistics.FEW_CLUSTERS)


def record(arm: Arm) -> Run | None:
    """The arm's run as it stands."""
    return runs.look(Path(arm.experiment.tracking.runs_dir), identity(arm.experiment))


def status_of(arm: Arm) -> str | None:
    known = record(arm)
    return None if known is None else known.status


def answers_of(arm: Arm, step: int) -> Path:
    return runs.rung_file(runs.folder(Path(arm.experiment.tracking.runs_dir), identity(arm.experiment)), step)


def answered(arm: Arm, step: int) -> bool:
    """Whether an arm need not run to a rung: it has answered there, or has finished."""
    return answers_of(arm, step).exists() or status_of(arm) == runs.FINISHED


def decide(race: Race, running: Sequence[Arm], step: int, runs_dir: Path) -> None:
    """Decide a rung among the arms that have answered there, and write it down; nothing where fewer than two have."""
    there = [arm for arm in running if answers_of(arm, step).exists()]
    if len(there) < len(running):
        log.warning("race: %d of %d arms left no answers at step %d; they take no part there", len(running) - len(there), len(running), step)
    if len(there) < 2:
        return
    tables = [predictions.read(answers_of(arm, step)) for arm in there]
    tables = [tables[0], *(aligned(tables[0], table) for table in tables[1:])]
    x, cluster = running[0].experiment, clusters(tables[0])
    right, score = measures(tables)
    rule = rule_of(x, race.num_arms)
    decision = statistics.decide(right, score, cluster, rung=steps_of(x).index(step), num_arms=race.num_arms, rule=rule)
    rows = {
        "accuracy": right.mean(axis=1), "score": score.mean(axis=1), "p_accuracy": decision.p_accuracy, "p_score": decision.p_score,
        "stops": decision.stops,
    }  # fmt: skip
    race.rungs.append({
        "step": step, "questions": right.shape[1], "clusters": int(cluster.max()) + 1, "alpha": rule.alpha / len(rule.pace), "decided": runs.now(),
        "arms": [{"run": identity(arm.experiment), **{key: column[i].item() for key, column in rows.items()}} for i, arm in enumerate(there)],
    })  # fmt: skip
    races.save(runs_dir, race)
    stopped = [run.name for run, stops in zip(map(record, there), decision.stops, strict=True) if stops and run is not None]
    verb = "stop" if race.mode == RaceMode.stop.value else "would stop"
    log.info("race: step %d of %d: %d of %d arms %s", step, race.max_steps, len(stopped), len(there), "; ".join([verb, *stopped]))


def measures(tables: Sequence[PredictionTable]) -> tuple[np.ndarray, np.ndarray]:
    """Whether each answer is right, and the watched score with its sign turned so that more is better, [A, n]."""
    kind = KINDS[tables[0].kind]
    watched = kind.metrics[kind.watched]
    right, score = (np.stack([each(metric, table) for table in tables]) for metric in (kind.main, watched))
    return right, score if watched.higher_is_better else -score


def each(metric: Metric, table: PredictionTable) -> np.ndarray:
    """A metric of every question, float [n]; of a ratio its numerator, since arms share what it is divided by."""
    if metric.each is not None:
        return np.asarray(metric.each(table), dtype=np.float64)
    assert metric.rows is not None  # a headline or watched metric is a sum over questions
    return metric.rows(table)[:, 0]


def rule_of(x: Experiment, num_arms: int) -> statistics.Rule:
    """The rule that the section `race` gives."""
    section = x.race
    kept = None if section.budget is None else statistics.kept_in_budget(section.budget, section.rungs, num_arms)
    return statistics.Rule(section.alpha, section.indifference, tuple(section.pace), kept)


def stop(arm: Arm, race: Race) -> None:
    """Write into an unfinished run that the race has stopped it, if it has."""
    step, run = dict(race.stops()).get(identity(arm.experiment)), record(arm)
    if step is None or run is None or run.status in (runs.FINISHED, runs.STOPPED, runs.UNREADABLE):
        return
    run.status, run.error, run.ended = runs.STOPPED, reason(race, step), runs.now()
    runs.save(Path(arm.experiment.tracking.runs_dir), run)


def reason(race: Race, step: int) -> str:
    """Why an arm was stopped, as far as that can be said."""
    if race.rule["budget"] is not None:
        return f"stopped at step {step} of {race.max_steps} by its rank there (race.budget={race.rule['budget']}), a heuristic without an error rate"
    return f"stopped at step {step} of {race.max_steps}: {outside(race)}"
