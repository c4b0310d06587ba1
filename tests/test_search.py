"""`hydra/sweeper=optuna`: what is sampled, what may be optimised, and that a search goes on where it was killed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import optuna
import pytest
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from synthetic_runs import write_example

from lab import keys
from lab import run as running
from lab.config import Experiment
from lab.errors import ConfigError
from lab.report.searching import sentences
from lab.report.select_runs import choose
from lab.report.write import write_report
from lab.store import runs
from lab.store.runs import Run, Sweep
from lab.sweeping.arms import Arm
from lab.sweeping.launcher import OptunaSweeperConfig, register
from lab.sweeping.objectives import Objectives
from lab.sweeping.search import SAMPLERS, Search, check_settings, open_study, search_identity
from lab.sweeping.space import Space

# ------------------------------------------------------------------------------------------------ what is sampled, and by what


@pytest.mark.parametrize(
    ("given", "distribution"),
    [
        ("lora.r=int(interval(4,64))", IntDistribution(4, 64)),
        ("lora.r=int(tag(log,interval(4,64)))", IntDistribution(4, 64, log=True)),
        ("optim.lr=interval(1,2)", FloatDistribution(1.0, 2.0)),
        ("optim.lr=tag(log,interval(1e-5,1e-2))", FloatDistribution(1e-5, 1e-2, log=True)),
        ("lora.r=range(4,17,4)", IntDistribution(4, 16, step=4)),
        ("lora.r=range(16,3,-4)", IntDistribution(4, 16, step=4)),
        ("optim.lr=range(0,1,0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("lora.r=8,16", CategoricalDistribution(["8", "16"])),
        ("lora=choice(attention,mlp)", CategoricalDistribution(["attention", "mlp"])),
        ("lora.where=[llm],[llm,projector]", CategoricalDistribution(["[llm]", "[llm,projector]"])),
        ("lora.r=shuffle(range(1,3))", IntDistribution(1, 2)),
        ("lora.r=shuffle(1,2,3,4,5)", CategoricalDistribution(["1", "2", "3", "4", "5"])),
    ],
)  # fmt: skip
def test_hydras_syntax_of_sweeps_is_a_space(given: str, distribution) -> None:
    space = Space.read(["seed=3", given])
    ((key, found),) = space.searched.items()
    assert (key, found) == (given.partition("=")[0], distribution) and space.fixed == ("seed=3",)
    ends = distribution.choices if isinstance(distribution, CategoricalDistribution) else (distribution.low, distribution.high)
    assert [corner[key] for corner in space.corners()] == list(ends)
    for value in ends:
        assert space.overrides({key: value}) == ["seed=3", f"{key}={value}"]


def test_the_last_override_of_a_key_counts() -> None:
    assert Space.read(["lora.r=1,2", "seed=1,2", "seed=5"]).fixed == ("seed=5",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("seed=3", "no key is searched"),
        ("optim.lr=tag(logarithm,interval(1,2))", r"tag\(log, interval\(LOW, HIGH\)\) is the one tag"),
        ("lora.r=tag(log,range(1,9))", "is the one tag"),
        ("optim.lr=tag(log,interval(0,1))", "nothing can be sampled from it"),
        ("lora.r=range(1,1)", "nothing can be sampled from it"),
        ("evaluation.batch_size=8,16", "it changes nothing that is trained"),
    ],
)
def test_what_cannot_be_searched_is_said(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Space.read([given])


@pytest.mark.parametrize(
    ("metrics", "direction", "said"),
    [
        ("dev/accuracy", "maximize", "dev is what the report compares arms on.*Give minival/accuracy"),
        ("dev_blank/ece", "minimize", "dev is what the report compares arms on"),
        ("accuracy", "maximize", "legal are minival/..."),
        ("minival/accuracy", "up", "legal values are maximize, minimize"),
        (["minival/accuracy", "latency/p50_ms"], "maximize", "each metric needs one direction"),
        ("latency_p50_ms", "minimize", "evaluation.latency_examples=0 measures no latency"),
    ],
)
def test_what_cannot_be_optimised_is_said(small, metrics, direction, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Objectives.read(metrics, direction).check(small())


def test_a_sample_is_worth_the_mean_of_its_seeds() -> None:
    objectives = Objectives.read(["minival/accuracy", "latency_p50_ms"], ["maximize", "minimize"])
    records = [Run(str(i), "", {}, "", metrics={"minival/accuracy": i / 10, "latency/p50_ms": 2.0 * i}) for i in (1, 3)]
    assert objectives.values(records) == pytest.approx([0.2, 4.0])
    with pytest.raises(ConfigError, match="minival/f1: run 1 has no such number.*It has minival/accuracy, latency/p50_ms"):
        Objectives.read("minival/f1", "maximize").values(records)


# ------------------------------------------------------------------------------------------------ ask and tell


def score(x: Experiment) -> dict[str, float]:
    """Made-up results that a sampler can learn from."""
    return {"minival/accuracy": 1.0 - abs(x.lora.r - 20) / 64 - abs(x.optim.lr - 1e-3), "latency/p50_ms": float(x.lora.r)}


@dataclasses.dataclass
class Desk:
    """Searches over one study, kept in memory, whose arms end as the test says, without training."""

    base: Experiment
    folder: Path
    study: optuna.Study | None = None
    trained: list[str] = dataclasses.field(default_factory=list)

    def search(self, *space: str, objectives: Objectives | None = None, width: int = 2, **settings) -> Search:
        objectives = objectives or Objectives.read("minival/accuracy", "maximize")
        self.study = self.study or optuna.create_study(directions=objectives.directions)
        options = OptunaSweeperConfig(**{"n_trials": 12, **settings})
        sweep = Sweep("search", "search", "command", [], [])
        return Search(self.study, Space.read(space), objectives, options, self.compose, sweep, self.folder, width)

    def compose(self, overrides: Sequence[str]) -> list[Arm]:
        given = dict(one.split("=") for one in overrides)
        rank, rate = int(given.get("lora.r", 8)), float(given.get("optim.lr", 1e-3))
        if rank == 13:
            raise ConfigError("lora.r=13: it brings bad luck.")
        lora, optim = dataclasses.replace(self.base.lora, r=rank), dataclasses.replace(self.base.optim, lr=rate)
        return [Arm(dataclasses.replace(self.base, lora=lora, optim=optim), tuple(overrides))]

    def run(self, arms: list[Arm], fails: Callable[[Experiment], bool] = lambda x: False) -> None:
        """What a batch of the sweep does: arms that have not finished do, or fail."""
        for arm in arms:
            record = running.new_run(arm.experiment, "command")
            known = runs.load(self.folder, record.identity)
            if known is None or known.status != runs.FINISHED:
                self.trained.append(record.identity)
                failed = fails(arm.experiment)
                record.status, record.metrics = runs.FAILED if failed else runs.FINISHED, {} if failed else score(arm.experiment)
                record.started = record.ended = runs.now()
                runs.save(self.folder, record)


@pytest.fixture
def desk(small, tmp_path) -> Callable[[str], Desk]:
    def make(name: str) -> Desk:
        (tmp_path / name).mkdir()
        return Desk(small(f"tracking.runs_dir={tmp_path}/{name}"), tmp_path / name)

    return make


SPACE = ("lora.r=int(interval(4,64))", "optim.lr=tag(log,interval(1e-4,1e-2))")


def test_help_and_completion_know_the_sweepers_launchers_and_keys_that_there_are() -> None:
    assert keys.SAMPLER["sampler"] == tuple(SAMPLERS)
    assert set(keys.OPTUNA) == {field.name for field in dataclasses.fields(OptunaSweeperConfig)} - {"_target_", "params"}
    register()
    Plugins.instance()  # makes the launchers that are installed known
    for group, options in keys.HYDRA.items():
        assert set(options) <= {name.removesuffix(".yaml") for name in ConfigStore.instance().list(group)}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_killed_search_takes_the_samples_that_it_would_have_taken(desk, sampler: str) -> None:
    """Killed after two batches, and within the third, of which one arm has finished: no finished arm again, twelve in all."""
    options = {"nsgaii": {"population_size": 4}, "tpe": {"n_startup_trials": 4}}.get(sampler, {})
    whole, killed = desk("whole"), desk("killed")
    for batch in whole.search(*SPACE, sampler=sampler, sampler_options=options).batches():
        whole.run(batch)
    cut = killed.search(*SPACE, sampler=sampler, sampler_options=options).batches()
    for _ in range(2):
        killed.run(next(cut))
    killed.run(next(cut)[:1])
    again = killed.search(*SPACE, sampler=sampler, sampler_options=options)
    for batch in again.batches():
        killed.run(batch)
    assert len(killed.trained) == len(set(killed.trained)) == 12
    assert sorted(killed.trained) == sorted(whole.trained) and again.sweep.arms == killed.trained
    assert [trial.state for trial in again.study.trials] == [TrialState.COMPLETE] * 12
    more = killed.search(*SPACE, sampler=sampler, sampler_options=options, n_trials=14)
    for batch in more.batches():
        killed.run(batch)
    assert len(killed.trained) == len(more.study.trials) == 14
    assert [b for b in killed.search(*SPACE, sampler=sampler, sampler_options=options, n_trials=3).batches()][1:] == []


def test_a_study_keeps_the_name_of_the_sweep_that_began_it(tmp_path) -> None:
    objectives = Objectives.read("minival/accuracy", "maximize")
    for name in ("lora.r=range(2,9) (5e1f)", "other"):
        assert open_study(tmp_path / "study.db", objectives, name).study_name == "lora.r=range(2,9) (5e1f)"
    assert len(optuna.get_all_study_names(f"sqlite:///{tmp_path}/study.db")) == 1


def test_a_search_that_was_killed_while_it_asked_keeps_its_total(desk) -> None:
    one = desk("one")
    one.search(*SPACE).study.ask()  # a trial without a value
    last = one.search(*SPACE, n_trials=4)
    for batch in last.batches():
        one.run(batch)
    assert len(one.trained) == last.facts()["samples"] == 4 and last.facts()["failed"] == 0


def test_the_same_config_is_trained_once(desk) -> None:
    one = desk("one")
    search = one.search("lora.r=8,16", n_trials=6)
    for batch in search.batches():
        one.run(batch)
    assert sorted(one.trained) == sorted(set(search.sweep.arms)) and len(one.trained) <= 2
    values = {(trial.params["lora.r"], trial.value) for trial in search.study.trials}
    assert len(search.study.trials) == 6 and len(values) == len(one.trained)


def test_failures_are_told_and_the_search_goes_on(desk) -> None:
    """What failed is run again by the same command; what is no experiment is not, and both count."""
    one = desk("one")
    space = ("lora.r=range(8,20)",)
    search = one.search(*space, sampler="random", n_trials=20)
    for batch in search.batches():
        one.run(batch, fails=lambda x: x.lora.r % 2 == 0)
    facts = search.facts()
    drawn = [trial.params["lora.r"] for trial in search.study.trials]
    assert 13 in drawn and facts["samples"] == len(drawn) == 20
    assert facts["failed"] == sum(r % 2 == 0 or r == 13 for r in drawn)
    again = one.search(*space, sampler="random", n_trials=20)
    for batch in again.batches():
        one.run(batch)
    assert again.facts()["samples"] == 20 and again.facts()["failed"] == drawn.count(13)
    assert {trial.params["lora.r"] for trial in again.trials(TrialState.COMPLETE)} == set(drawn) - {13}


def test_a_search_ends_where_everything_fails_or_is_stopped(desk) -> None:
    one, two = desk("one"), desk("two")
    for batch in one.search(*SPACE).batches():
        one.run(batch, fails=lambda x: True)
    assert len(one.trained) == 6
    search = two.search(*SPACE)
    for batch in search.batches():
        record = running.new_run(batch[0].experiment, "command")
        record.status, record.error, record.started = runs.KILLED, "Stopped: stopped by SIGTERM", runs.now()
        runs.save(two.folder, record)
        two.run(batch[1:])
    assert len(two.trained) == 1 and len(search.trials(TrialState.RUNNING)) == 1


def test_several_objectives_keep_the_pareto_set(desk) -> None:
    one = desk("one")
    objectives = Objectives.read(["minival/accuracy", "latency_p50_ms"], ["maximize", "minimize"])
    search = one.search(*SPACE, objectives=objectives, sampler="nsgaii", sampler_options={"population_size": 4})
    for batch in search.batches():
        one.run(batch)
    points = {trial.number: trial.values for trial in search.study.trials}
    beaten = {i for i, (a, b) in points.items() for c, d in points.values() if c >= a and d <= b and (c, d) != (a, b)}
    best = search.facts()["best"]
    assert sorted(one["values"] for one in best) == sorted(value for i, value in points.items() if i not in beaten)
    (chosen, caution) = sentences(search.facts(), lambda name: f"arm {name}")
    assert f"The Pareto set of 12 samples by minival/accuracy (maximize) and latency/p50_ms (minimize) (nsgaii, seed 0) has {len(best)}:" in chosen
    assert "chose nothing" in caution


@pytest.mark.usefixtures("blank_figures")
def test_the_report_says_among_how_many_the_best_was_chosen(tmp_path) -> None:
    sweep = write_example(tmp_path, num_dev=140, num_minival=70)
    best = [{"runs": ["rank8"], "values": [0.8125]}]
    sweep.facts["search"] = {"samples": 12, "failed": 1, "sampler": "tpe", "seed": 3, "metrics": ["minival/accuracy"],
                             "directions": ["maximize"], "best": best}  # fmt: skip
    runs.save_sweep(tmp_path, sweep)
    page = (write_report(choose(tmp_path), tmp_path / "out") / "report.md").read_text()
    assert "Chosen: lora.r=8 (0.8125), the best of 12 samples by minival/accuracy (maximize) (tpe, seed 3, 1 failed)." in page
    assert "its scores on dev chose nothing" in page


def test_a_number_that_is_none_is_a_failure(desk, monkeypatch) -> None:
    one = desk("one")
    monkeypatch.setattr(sys.modules[__name__], "score", lambda x: {"minival/accuracy": float("nan") if x.lora.r > 40 else 0.5})
    search = one.search("lora.r=int(interval(4,64))", sampler="random")
    for batch in search.batches():
        one.run(batch)
    failed = {trial.params["lora.r"] > 40: trial.state for trial in search.study.trials}
    assert failed == {True: TrialState.FAIL, False: TrialState.COMPLETE}


def test_a_search_is_what_it_asks(small) -> None:
    """How many samples are wanted, and what more is measured, is no other search; the space, the seed and the base are."""
    objectives = Objectives.read("minival/accuracy", "maximize")

    def name(*overrides: str, space: str = "lora.r=2,4", **settings) -> str:
        return search_identity(small(*overrides), Space.read([space]), objectives, OptunaSweeperConfig(**settings))

    same = [name(), name(n_trials=99), name(n_jobs=3), name("evaluation.controls=[blank]"), name("trainer.threads=2")]
    others = [name("optim.lr=0.1"), name("evaluation.shared_prefix=true"), name(seed=1), name(sampler="random"), name(space="lora.r=2,5"),
              name("sweep.replicates=2")]  # fmt: skip
    assert len(set(same)) == 1 and len({*same, *others}) == 1 + len(others)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"sampler": "sobol"}, "hydra.sweeper.sampler=sobol: legal values are tpe, random, qmc, nsgaii"),
        ({"n_trials": 0}, "hydra.sweeper.n_trials=0: it must be at least 1"),
        ({"sampler_options": {"popsize": 3}}, "hydra.sweeper.sampler_options=.*popsize"),
    ],
)
def test_settings_are_checked(settings: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_settings(OptunaSweeperConfig(**settings))


# ------------------------------------------------------------------------------------------------ the door


@pytest.mark.bar
def test_a_killed_search_goes_on_to_its_total(fast_python, tiny_folder, tmp_path) -> None:
    """SIGKILL once five of twelve arms have finished; the same command trains none of them again and ends with twelve."""
    options = [
        f"model.path={tiny_folder}", "data.num_train=8", "data.num_minival=8", "data.num_dev=8", "trainer.max_steps=1",
        "trainer.batch_size=2", "evaluation.latency_examples=0", "evaluation.verify=false", "sweep.self_check=false",
        "tracking.enabled=false", *SPACE,
    ]  # fmt: skip
    command = [sys.executable, "-m", "lab.train", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=12", *options, "-m"]

    def finished() -> dict[str, tuple[str, str | None]]:
        found = [runs.look(tmp_path / "runs", path.parent.name) for path in tmp_path.glob("runs/*/run.json")]
        return {run.identity: (run.started, run.ended) for run in found if run is not None and run.status == runs.FINISHED}

    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log) as process:
        while len(finished()) < 5 and process.poll() is None:
            time.sleep(0.02)
        process.kill()
    before = finished()
    assert 5 <= len(before) < 12, (tmp_path / "log").read_text()
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = finished()
    (sweep,) = runs.all_sweeps(tmp_path / "runs")
    assert len(after) == 12 and before.items() <= after.items() and set(sweep.arms) == set(after)
    study = open_study(tmp_path / "runs" / "sweeps" / sweep.identity / "study.db", Objectives.read("minival/accuracy", "maximize"), "other")
    assert study.study_name == f"{sweep.name} ({sweep.identity})"
    assert [trial.state for trial in study.trials] == [TrialState.COMPLETE] * 12
    assert study.trials[3].user_attrs["runs"] == [sweep.arms[3]]
    assert "Chosen: lora.r=" in done.stdout and ", the best of 12 samples by minival/accuracy (maximize) (tpe, seed 0)." in done.stdout
    refused = [one.replace("n_trials=12", "metrics=dev/accuracy") for one in command]
    done = subprocess.run(refused, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "so no arm may be chosen by it" in done.stderr
