"""`sweep.race` in a sweep: who pauses, who stops, and that what goes on ends as it would have without a race, to the bit."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from kills import PowerCut, essence
from synthetic_runs import Questions, answers, write_example

from lab import run as running
from lab.answers import predictions
from lab.config import Experiment, identity
from lab.errors import ConfigError, LabError
from lab.report.markdown import to_markdown
from lab.report.race import race_blocks, race_lines
from lab.report.select_runs import choose
from lab.statistics import race as statistics
from lab.store import races, runs
from lab.sweeping import race
from lab.sweeping.arms import Arm, SweepSource
from lab.sweeping.sweep import new_sweep, run_sweep
from lab.training import checkpoints

pytestmark = pytest.mark.usefixtures("nominal_costs")

ORIGIN = SweepSource("race", "command", "train", None, time.time())
SKILLS = (2.0, 1.8, 0.5, 0.4, 0.2, 0.1)


def racing(make, *overrides: str, ranks=(2, 4, 6, 8, 10, 12)) -> list[Arm]:
    x = make("trainer.max_steps=8", "sweep.race=stop", *overrides)
    return [Arm(dataclasses.replace(x, lora=dataclasses.replace(x.lora, r=r)), (f"lora.r={r}",)) for r in ranks]


# --- rung by rung, with answers made up instead of trained ------------------------------------------------------------


class Played:
    """A sweep whose arms answer as their skill says, as soon as they are asked to run."""

    def __init__(self, arms: list[Arm], monkeypatch) -> None:
        self.arms = arms
        self.names = [identity(arm.experiment) for arm in arms]
        self.runs_dir = Path(arms[0].experiment.tracking.runs_dir)
        self.sweep = new_sweep(arms, ORIGIN, self.runs_dir).identity
        self.skills = dict(zip(self.names, SKILLS, strict=False))
        self.ends: dict[str, str] = {}
        monkeypatch.setattr(race, "require_questions", lambda *_: None)

    def play(self, batches: int = 9) -> list[list[str]]:
        """The arms that ran to each rung and to the end."""
        ran = []
        for _, batch in zip(range(batches), race.stages(self.arms, self.sweep, None), strict=False):
            ran.append([identity(arm.experiment) for arm in batch])
            for arm in batch:
                self.ran(arm)
        return ran

    def ran(self, arm: Arm) -> None:
        name = identity(arm.experiment)
        record = runs.load(self.runs_dir, name) or running.new_run(arm.experiment, "command", self.sweep)
        record.name = arm.overrides[0]
        record.status = self.ends.get(name, runs.FINISHED if arm.pause_at is None else runs.PAUSED)
        record.metrics = {"dev/accuracy": self.skills[name]}
        if record.status == runs.PAUSED:
            path = runs.rung_file(runs.folder(self.runs_dir, name), arm.pause_at)
            predictions.write(path, answers(Questions.draw("minival", 210), self.skills[name], 1.5, seed=self.names.index(name)))
        runs.save(self.runs_dir, record)

    def status(self) -> list[str]:
        return [runs.load(self.runs_dir, name).status for name in self.names]


@pytest.fixture
def played(small, monkeypatch):
    return lambda *overrides: Played(racing(small, *overrides), monkeypatch)


def test_arms_behind_stop_and_only_the_others_go_on(played) -> None:
    sweep = played("race.pace=[0.6,0.4]")
    first, second, last = sweep.play()
    assert first == sweep.names
    stops = dict(races.load(sweep.runs_dir, sweep.sweep).stops())
    assert set(stops.values()) == {2, 4} and second == [name for name in sweep.names if stops.get(name) != 2]
    assert last == [name for name in sweep.names if name not in stops] and sweep.names[0] in last
    assert sweep.status() == [runs.STOPPED if name in stops else runs.FINISHED for name in sweep.names]
    assert "stopped at step 2 of 8: not in the 95 % set" in runs.load(sweep.runs_dir, sweep.names[-1]).error
    assert sweep.play() == [last], "asked again, nothing is decided or run to a rung"


def test_a_decision_stands_whatever_happens_to_what_it_was_made_of(played) -> None:
    """Cut after each batch in turn, with the answers of the rungs gone and other swaps since: the same arms stop."""
    whole = played()
    whole.play()
    decided = races.load(whole.runs_dir, whole.sweep).rungs
    for batches in (1, 2):
        cut = played(f"tracking.runs_dir={whole.runs_dir}{batches}")
        cut.play(batches)
        before = races.load(cut.runs_dir, cut.sweep).rungs
        assert len(before) == batches - 1, "the last batch has paused, and nothing was decided since"
        for step in (rung["step"] for rung in before):
            for name in cut.names:
                runs.rung_file(runs.folder(cut.runs_dir, name), step).unlink()
        ran = cut.play()
        again = races.load(cut.runs_dir, cut.sweep)
        assert [[arm["stops"] for arm in rung["arms"]] for rung in again.rungs] == [[arm["stops"] for arm in rung["arms"]] for rung in decided]
        assert cut.status() == whole.status() and len(ran) == 3 - batches


def test_watch_stops_nothing_decides_the_same_and_says_what_of_the_winner(played) -> None:
    stop = played()
    stop.play()
    watch = played("sweep.race=watch", f"tracking.runs_dir={stop.runs_dir}w")
    assert [len(batch) for batch in watch.play()] == [6, 6, 6]
    said = race_lines(watch.runs_dir, watch.sweep)
    stops = list(races.load(stop.runs_dir, stop.sweep).stops())
    assert stops == list(races.load(watch.runs_dir, watch.sweep).stops()) and watch.status() == [runs.FINISHED] * 6
    assert f"{len(stops)} arms of 6 would have been stopped by sweep.race=stop: lora.r=" in said[0]
    assert said[1].startswith("It would have saved ")
    assert said[2] == "The arm with the best dev accuracy at the end, lora.r=2, would have gone on to its end."
    watch.skills = dict.fromkeys(watch.names, 0.0) | {stops[0][0]: 1.0}
    for arm in watch.arms:
        watch.ran(arm)
    assert "would have been stopped at step 2" in race_lines(watch.runs_dir, watch.sweep)[2]


def test_an_arm_that_fails_takes_no_part_and_is_tried_again(played, caplog) -> None:
    sweep = played()
    sweep.ends = {sweep.names[0]: runs.FAILED}
    first, *rest = sweep.play()
    assert sweep.names[0] in first and all(sweep.names[0] not in batch for batch in rest)
    assert all(arm["run"] != sweep.names[0] for rung in races.load(sweep.runs_dir, sweep.sweep).rungs for arm in rung["arms"])
    sweep.ends = {}
    (again,) = sweep.play()
    assert sweep.names[0] in again and sweep.status()[0] == runs.FINISHED


def test_nothing_is_decided_before_an_arm_that_was_killed_has_come(played) -> None:
    sweep = played()
    sweep.ends = {sweep.names[5]: runs.KILLED}
    assert len(sweep.play()) == 1 and not races.load(sweep.runs_dir, sweep.sweep).rungs
    sweep.ends = {}
    first, *rest = sweep.play()
    assert first == [sweep.names[5]] and len(rest) == 2
    assert len(races.load(sweep.runs_dir, sweep.sweep).rungs[0]["arms"]) == 6


def test_another_rule_than_it_was_decided_by_is_refused(played, small) -> None:
    sweep = played()
    sweep.play(2)
    sweep.arms = racing(small, "race.alpha=0.1")
    with pytest.raises(ConfigError, match=r"race.alpha=0.1: this sweep was decided at step 2 with 0.05.*move .*race.json away"):
        sweep.play()


def test_saved_steps_and_the_questions_that_they_cost(played) -> None:
    sweep = played("race.budget=0.5")
    sweep.play()
    record = races.load(sweep.runs_dir, sweep.sweep)
    kept = statistics.kept_in_budget(0.5, [0.25, 0.5], 6)
    saved, asked = record.shares()
    assert saved == pytest.approx(((6 - kept[0]) * 6 + (kept[0] - kept[1]) * 4) / 48) and saved >= 0.5
    assert asked == pytest.approx(210 * (6 + kept[0]) / 3 / 4 / 48)
    said = " ".join(race_lines(sweep.runs_dir, sweep.sweep))
    assert "a heuristic without an error rate" in said and "95 %" not in said


# --- what is refused before anything is loaded ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "why"),
    [
        (["trainer.val_every=2", "trainer.patience=2"], "trainer.patience=2 beside sweep.race=stop: it fits the end of training on minival"),
        (["trainer.val_every=2", "trainer.restore_best=true"], "trainer.restore_best=True beside sweep.race=stop"),
        (["sweep.replicates=2"], "sweep.replicates=2 beside sweep.race=stop: replicates are equal by construction"),
        (["trainer.max_steps=null", "trainer.max_epochs=1"], "trainer.max_steps=None beside sweep.race=stop: rungs are shares of it"),
        (["trainer.devices=2"], "trainer.devices=2 beside sweep.race=stop"),
        (["trainer.if_unfinished=restart"], "trainer.if_unfinished=restart beside sweep.race=stop: an arm that pauses must go on"),
        (["trainer.if_finished=again"], "trainer.if_finished=again beside sweep.race=stop: what a race has decided stands"),
        (["race.rungs=[0.5,0.25]"], "rungs rise, and every rung has its pace"),
        (["race.rungs=[0.5]"], "rungs rise, and every rung has its pace"),
    ],
)  # fmt: skip
def test_an_experiment_that_cannot_be_raced(small, overrides, why) -> None:
    with pytest.raises(ConfigError) as error:
        small("sweep.race=stop", *overrides)
    assert why in str(error.value)


def test_arms_that_cannot_be_raced_together(small, caplog) -> None:
    arms = racing(small)
    for override in ("trainer.max_steps=9", "data.num_minival=24", "seed=1", "trainer.batch_size=2"):
        key = "data" if override.startswith("data") else override.partition("=")[0]
        with pytest.raises(ConfigError, match=f"^{key}: arms of a race"):
            race.check([*arms, *racing(small, override, ranks=(3,))], shared=True)
    with pytest.raises(ConfigError, match=r"^sweep.race: arms of a race \(sweep.race=stop\)"):
        race.check([*racing(small, "sweep.race=null", ranks=(3,)), *arms], shared=True)
    with pytest.raises(LabError, match="2 arms; a race needs 3 or more"):
        race.check(arms[:2], shared=True)
    with pytest.raises(ConfigError, match="hydra/launcher=shared alone"):
        race.check(arms, shared=False)
    with pytest.raises(ConfigError, match=r"they are the steps \[0, 0\]"):
        race.check(racing(small, "trainer.max_steps=1"), shared=True)
    with pytest.raises(LabError, match=r"race.budget=0.1: 6 arms"):
        race.check(racing(small, "race.budget=0.1"), shared=True)
    race.check(arms, shared=True)
    assert not caplog.text
    race.check([*arms, *racing(small, "optim.lr=1e-5")], shared=True)
    assert "race: arms differ in optim.lr. Race compares arms as they are at the rung." in caplog.text


def test_minival_is_held_to_what_the_test_needs(small, caplog) -> None:
    def bases(num_clusters: int):
        split = [SimpleNamespace(image_set=f"{i}", question_group=f"{i}") for i in range(num_clusters)]
        examples = SimpleNamespace(split=SimpleNamespace(index=split.__getitem__, __len__=None))
        examples.split = type("Split", (), {"index": lambda self, i: split[i], "__len__": lambda self: len(split)})()
        return SimpleNamespace(of=lambda x: SimpleNamespace(encoded=lambda x, report: {"minival": examples}))

    for number in (0, 1, 19):
        with pytest.raises(LabError, match=f"minival has {number} clusters"):
            race.require_questions(small(), bases(number))
    race.require_questions(small(), bases(50))
    assert not caplog.text
    race.require_questions(small(), bases(49))
    assert "minival has 49 clusters" in caplog.text


def test_a_race_changes_no_run(small) -> None:
    assert {identity(small(*more)) for more in ([], ["sweep.race=stop"], ["sweep.race=watch", "race.rungs=[0.1,0.2]", "race.budget=0.9"])} == {
        identity(small())
    }


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_report_says_which_arm_stopped_when_and_no_table_of_results_has_it(tmp_path) -> None:
    sweep = write_example(tmp_path)
    stopped = runs.load(tmp_path, "rank512")
    stopped.status = runs.STOPPED
    runs.save(tmp_path, stopped)
    rule = dataclasses.asdict(Experiment().race)
    row = {"accuracy": 0.7, "score": -0.6, "p_accuracy": 0.4, "p_score": 0.3, "stops": False}
    arms = [{"run": name, **row} for name in sweep.arms[1:-1]] + [{"run": "rank512", **row, "p_accuracy": 0.0004, "p_score": 0.02, "stops": True}]
    rungs = [{"step": 75, "questions": 400, "clusters": 58, "alpha": 0.025, "decided": runs.now(), "arms": arms}]
    races.save(tmp_path, races.Race(sweep.identity, "stop", rule, 300, 16, 5, rungs))
    selection = choose(tmp_path, sweep.identity)
    assert [arm.run.identity for arm in selection.arms] == sweep.arms[:-1], "it is in no table, figure or comparison"
    section = to_markdown(race_blocks(selection), tmp_path)
    assert "1 arm of 5 stopped: lora.r=512 at step 75 of 300. Not in the 95 % set of arms that may have led by 1 point or more there" in section
    assert "0.025 at step 75, 0.025 of 0.05" in section and "Saved 15.0 % of the optimizer steps" in section and "net 1" in section
    assert "Of a stopped arm's final accuracy or rank" in section and "sweep.race=null finishes" in section


# --- trained ----------------------------------------------------------------------------------------------------------

TRAINED = (
    "trainer.max_steps=4", "trainer.batch_size=2", "trainer.save_every=null", "data.num_train=16", "data.num_minival=32", "data.num_dev=16",
    "lora.lora_dropout=0.1", "evaluation.splits=[dev]", "race.budget=0.6",
)  # fmt: skip


def without_rungs(x: Experiment) -> dict:
    left = essence(x)
    return {**left, "predictions": {name: data for name, data in left["predictions"].items() if not name.startswith("rung_")}}


def test_what_goes_on_ends_as_without_a_race_and_a_killed_race_stops_the_same(small, monkeypatch, tmp_path, capsys) -> None:
    """Cut after the first decision; what has paused is not trained again. Finished with race=null, all are whole."""
    monkeypatch.setattr(statistics, "LEAST_CLUSTERS", 2)
    plain = racing(small, *TRAINED, "sweep.race=null", f"tracking.runs_dir={tmp_path}/plain", ranks=(2, 4, 8))
    prepared = running.prepare(plain[0].experiment)
    monkeypatch.setattr(running, "prepare", lambda *_: prepared)
    assert run_sweep(plain, ORIGIN) == 0
    arms = racing(small, *TRAINED, ranks=(2, 4, 8))
    folders = [runs.folder(tmp_path / "runs", identity(arm.experiment)) for arm in arms]
    with monkeypatch.context() as patch:
        patch.setattr(race, "stop", lambda *_: (_ for _ in ()).throw(PowerCut()))
        with pytest.raises(PowerCut):
            run_sweep(arms, ORIGIN)
    (record,) = (tmp_path / "runs" / "sweeps").glob("*/race.json")
    decided = json.loads(record.read_text())["rungs"]
    assert len(decided) == 1 and [runs.load(tmp_path / "runs", folder.name).status for folder in folders] == [runs.PAUSED] * 3
    first = [runs.rung_file(folder, 1).stat().st_mtime_ns for folder in folders]
    assert run_sweep(arms, ORIGIN) == 0, "stopped arms are no failure"
    assert json.loads(record.read_text())["rungs"][:1] == decided
    assert first == [runs.rung_file(folder, 1).stat().st_mtime_ns for folder in folders]
    stops = dict(races.load(tmp_path / "runs", record.parent.name).stops())
    assert sorted(stops.values()) == [1, 2]
    for arm, whole in zip(arms, plain, strict=True):
        name = identity(arm.experiment)
        run = runs.load(tmp_path / "runs", name)
        if name in stops:
            assert run.status == runs.STOPPED and checkpoints.newest(runs.folder(tmp_path / "runs", name)).step == stops[name]
        else:
            assert without_rungs(arm.experiment) == without_rungs(whole.experiment) and "interruptions" not in run.facts
    said = capsys.readouterr().out
    assert "race:     2 arms of 3 stopped: " in said and "STOPPED" not in said
    assert run_sweep([Arm(dataclasses.replace(arm.experiment, sweep=plain[0].experiment.sweep), arm.overrides) for arm in arms], ORIGIN) == 0
    assert [without_rungs(arm.experiment) for arm in arms] == [without_rungs(whole.experiment) for whole in plain]


def test_measures_turn_the_watched_score_so_that_more_is_better() -> None:
    table = predictions.table(answers(Questions.draw("minival", 70), 0.8))
    right, score = race.measures([table, table])
    assert np.array_equal(right[0], table.correct) and (score <= 0).all() and (score[0][table.correct] > np.log(0.5) - 1e-9).all()
