"""`hydra/sweeper=optuna`: a search by Optuna's ask and tell, whose samples are arms like those of any sweep.

An arm is its config: a sample whose arm has been trained is told that result, and a search that was killed goes on with the
arms it was at. What is sampled depends on the seed, on how many samples there are, and on the results before them, not on the
process; so a search that goes on takes the samples that it would have taken. The study lies in
`runs/sweeps/<sweep>/study.db`, for `optuna-dashboard`.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState

from lab.config import DIALS, Experiment, as_dict, asked, identity, identity_values
from lab.errors import ConfigError, LabError, did_you_mean
from lab.host.files import values_hash
from lab.host.stopping import EXIT_CODE, Stopped
from lab.report import searching
from lab.store import runs
from lab.store.runs import Sweep
from lab.sweeping.arms import Arm, SweepSource, drop_duplicates
from lab.sweeping.groups import Bases, arms_at_once
from lab.sweeping.objectives import Objectives
from lab.sweeping.space import Space
from lab.sweeping.sweep import Launch, run_batches

if TYPE_CHECKING:
    from lab.sweeping.launcher import OptunaSweeperConfig

log = logging.getLogger(__name__)

SAMPLERS: dict[str, Callable[..., BaseSampler]] = {
    "tpe": optuna.samplers.TPESampler,
    "random": optuna.samplers.RandomSampler,
    "qmc": optuna.samplers.QMCSampler,
    "nsgaii": optuna.samplers.NSGAIISampler,
}
RETRY_OF, ERROR, RUNS = "retry_of", "error", "runs"
"""Attributes of a trial: the failed trial that it repeats, why it is no experiment, the runs that it is."""

HOPELESS = 5
"""A search whose first samples all fail ends at so many."""


@dataclass(frozen=True)
class Sample:
    """A trial of the study and its arms: one, or as many as `sweep.replicates` says."""

    number: int
    arms: list[Arm]


@dataclass
class Search:
    """A study, and the sweep that its samples make.

    compose: the arms of a sample from its overrides. width: samples that are asked for at once.
    """

    study: optuna.Study
    space: Space
    objectives: Objectives
    settings: OptunaSweeperConfig
    compose: Callable[[Sequence[str]], list[Arm]]
    sweep: Sweep
    runs_dir: Path
    width: int

    def batches(self) -> Iterator[list[Arm]]:
        """The arms of the samples so far, then of as many more as there are to be, each batch when the one before has ended."""
        ended = [self.sample(trial) for trial in self.trials(TrialState.COMPLETE)]
        if ended:
            yield self.arms(ended)
        self.retry_failed()
        while batch := self.next_batch():
            yield self.arms(batch)
            if not all([self.tell(sample) for sample in batch]):
                return
            failed = len(self.trials(TrialState.FAIL))
            if failed >= HOPELESS and not self.trials(TrialState.COMPLETE):
                log.error("all of the first %d samples have failed: the search ends here", failed)
                return

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Trials with a value for every key; a search that was killed while it asked leaves one without."""
        every = self.study.get_trials(deepcopy=False, states=states or None)
        return [trial for trial in every if trial.params.keys() == self.space.searched.keys()]

    def samples(self) -> list[FrozenTrial]:
        """The trials that count: all but those that failed and are run again."""
        again = {trial.user_attrs.get(RETRY_OF) for trial in self.study.get_trials(deepcopy=False)}
        return [trial for trial in self.trials() if trial.number not in again]

    def sample(self, trial: FrozenTrial | optuna.Trial) -> Sample:
        """A trial as arms. Raises `LabError` for one that is no experiment."""
        return Sample(trial.number, checked(self.compose(self.space.overrides(trial.params))))

    def arms(self, samples: Sequence[Sample]) -> list[Arm]:
        """The different arms of samples, which become arms of the sweep."""
        arms = drop_duplicates([arm for sample in samples for arm in sample.arms])
        self.sweep.arms = list(dict.fromkeys([*self.sweep.arms, *(identity(arm.experiment) for arm in arms)]))
        runs.save_sweep(self.runs_dir, self.sweep)
        return arms

    def retry_failed(self) -> None:
        """Have samples whose arms failed asked again, as the same command runs again what failed of any sweep."""
        for trial in self.samples():
            if trial.state == TrialState.FAIL and ERROR not in trial.user_attrs:
                self.study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})

    def next_batch(self) -> list[Sample]:
        """Samples that a killed search was at, then new ones while there are fewer than there are to be."""
        for trial in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.params.keys() != self.space.searched.keys():
                self.study.tell(trial.number, state=TrialState.FAIL)
        batch = [self.sample(trial) for trial in self.trials(TrialState.RUNNING)]
        while len(batch) < self.width and len(self.samples()) < self.settings.n_trials:
            batch += self.ask()
        return batch

    def ask(self) -> list[Sample]:
        """One more sample; none where it is no experiment, which the study is told."""
        self.study.sampler = sampler(self.settings, len(self.samples()))
        trial = self.study.ask(self.space.searched)
        try:
            sample = self.sample(trial)
        except LabError as error:
            log.error("sample %d is no experiment: %s", trial.number, error)
            trial.set_user_attr(ERROR, str(error))
            self.study.tell(trial.number, state=TrialState.FAIL)
            return []
        trial.set_user_attr(RUNS, [identity(arm.experiment) for arm in sample.arms])
        return [sample]

    def tell(self, sample: Sample) -> bool:
        """Tell the study how a sample's arms have ended; False if they have not, and the search must wait for them."""
        records = [runs.look(self.runs_dir, identity(arm.experiment)) for arm in sample.arms]
        known = [record for record in records if record is not None and not waits(record)]
        if len(known) < len(records):
            return False
        values = None
        if all(record.status == runs.FINISHED for record in known):
            values = self.objectives.values(known)
            if not all(map(math.isfinite, values)):
                log.error("sample %d: %s came out as %s: it counts as failed", sample.number, self.objectives.metrics, values)
                values = None
        self.study.tell(sample.number, values, TrialState.FAIL if values is None else TrialState.COMPLETE)
        self.sweep.facts["search"] = self.facts()
        return True

    def facts(self) -> dict[str, Any]:
        """What the report says of the search. best: the chosen samples' runs and values, first to last; several objectives: the Pareto set."""
        ended, samples = self.trials(TrialState.COMPLETE), self.samples()
        several = len(self.objectives.metrics) > 1
        best = (self.study.best_trials if several else [self.study.best_trial]) if ended else []
        chosen = {tuple(one.user_attrs.get(RUNS, ())): one.values for one in best}
        return {
            "samples": len(samples),
            "failed": sum(trial.state == TrialState.FAIL for trial in samples),
            "sampler": self.settings.sampler,
            "seed": self.settings.seed,
            "metrics": self.objectives.metrics,
            "directions": self.objectives.directions,
            "best": [{"runs": list(names), "values": values} for names, values in chosen.items()],
        }


def waits(record: runs.Run) -> bool:
    """Whether a run has not come to its end: it was stopped on request, or another process is at work on it."""
    return record.status == runs.RUNNING or (record.error or "").startswith(Stopped.__name__)


def checked(arms: list[Arm]) -> list[Arm]:
    """The arms, whose dials can be had together. Raises `LabError`."""
    from lab import run as running
    from lab.run import judging

    for arm in arms:
        running.check(arm.experiment)
        judging.check(arm.experiment)
    return arms


def sampler(settings: OptunaSweeperConfig, number: int) -> BaseSampler:
    """The sampler of the `number`-th sample. A Sobol sequence has one seed, and a place in it that the study keeps."""
    if settings.sampler == "qmc":
        seed, options = settings.seed, {"scramble": True, **settings.sampler_options}
    else:
        seed, options = int(np.random.SeedSequence([settings.seed, number]).generate_state(1)[0]), settings.sampler_options
    try:
        with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
            return SAMPLERS[settings.sampler](seed=seed, **options)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"hydra.sweeper.sampler_options={dict(settings.sampler_options)}: {error}.") from None


def run_search(
    settings: OptunaSweeperConfig, space: Space, compose: Callable[[Sequence[str]], list[Arm]], origin: SweepSource,
    max_arms: int | None = None, launch: Launch | None = None,
) -> int:
    """Take samples until there are `n_trials`, print the best; 0 if every one has finished, `EXIT_CODE` if it was stopped, else 1.

    Raises `LabError` before anything is loaded for settings or a space that cannot be had; `BusyError` if another process is
    at work on the same search.
    """
    check_settings(settings)
    objectives = Objectives.read(settings.metrics, settings.direction)
    first, *_ = [checked(compose(space.overrides(corner)))[0].experiment for corner in space.corners()]
    objectives.check(first)
    if first.sweep.require:
        raise ConfigError("sweep.require: the arms of a search are not known before it, so they cannot be held to it. Leave it out.")
    if first.sweep.race is not None:
        raise ConfigError(f"sweep.race={first.sweep.race.value}: samples of a search do not wait for each other at rungs. Leave it out.")
    runs_dir = Path(first.tracking.runs_dir)
    keys = [f"{key}.name" if key in DIALS else key for key in space.searched]
    sweep = Sweep(search_identity(first, space, objectives, settings), origin.name, origin.command, [], keys, origin.question)
    sweep.started = runs.now()
    folder = runs_dir / "sweeps" / sweep.identity
    with runs.held(folder):
        study = open_study(folder / "study.db", objectives, f"{sweep.name} ({sweep.identity})")
        width = settings.n_jobs or max_arms or arms_at_once([first])
        search = Search(study, space, objectives, settings, compose, sweep, runs_dir, width)
        sweep.facts["search"] = search.facts()
        code = run_batches(search.batches(), sweep, origin, first.tracking, Bases(), max_arms, launch, alone=False)
        missing = settings.n_trials - len(search.samples())
    for sentence in searching.sentences(sweep.facts["search"], lambda name: name_of(runs_dir, name)):
        print(f"search:   {sentence}", flush=True)
    print(f"study:    optuna-dashboard sqlite:///{folder / 'study.db'}", flush=True)
    return code or (EXIT_CODE if missing > 0 else int(sweep.facts["search"]["failed"] > 0))


def check_settings(settings: OptunaSweeperConfig) -> None:
    """Raise a `ConfigError` for a setting that is not legal."""
    if settings.sampler not in SAMPLERS:
        legal = ", ".join(SAMPLERS)
        raise ConfigError(f"hydra.sweeper.sampler={settings.sampler}: legal values are {legal}.{did_you_mean(settings.sampler, SAMPLERS)}")
    for key, value, least in (("n_trials", settings.n_trials, 1), ("n_jobs", settings.n_jobs, 1), ("seed", settings.seed, 0)):
        if value is not None and value < least:
            raise ConfigError(f"hydra.sweeper.{key}={value}: it must be at least {least}.")
    sampler(settings, 0)


def search_identity(first: Experiment, space: Space, objectives: Objectives, settings: OptunaSweeperConfig) -> str:
    """What a search is known by: all that its samples and their results depend on, so not by how many are asked for."""
    measured = {key: value for key, value in asked(first).items() if key in ("minival", "post")}
    told = [repr(space), objectives.metrics, objectives.directions, settings.sampler, dict(settings.sampler_options), settings.seed]
    return values_hash([identity_values(as_dict(first)), first.sweep.replicates, measured, *told], 10)


def open_study(path: Path, objectives: Objectives, name: str) -> optuna.Study:
    """The one study in a SQLite file, under whatever name it was begun; begun if it is not there."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = f"sqlite:///{path}"
    directions: Any = objectives.directions
    name = (optuna.get_all_study_names(storage) or [name])[0]
    study = optuna.create_study(storage=storage, study_name=name, directions=directions, load_if_exists=True)
    with warnings.catch_warnings(action="ignore", category=optuna.exceptions.ExperimentalWarning):
        study.set_metric_names(objectives.metrics)
    return study


def name_of(runs_dir: Path, identity: str) -> str:
    """What an arm is called."""
    known = runs.look(runs_dir, identity)
    return identity if known is None else known.name
