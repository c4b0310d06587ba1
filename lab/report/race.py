"""What a race has done: which arm stopped when, what alpha was spent, what was saved. Nothing of how a stopped arm would have ended."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lab.report.document import Block, Bullets, Heading, Mono, Paragraph, Strong, Table, Text
from lab.report.formatting import arms, capital, decimal, p_value, percent
from lab.report.select_runs import Selection
from lab.statistics.metrics import KINDS
from lab.store import races, runs
from lab.store.races import Race
from lab.store.runs import Run

CAUTION = (
    "A race compares arms as they are at the rung. An arm that learns slowly or starts late can be stopped although it would have won, and "
    "more questions make this worse: in simulation an arm three times slower that wins by 3 points was lost in 17 % of races with 400 "
    "questions and in 84 % with 2,000. Of a stopped arm's final accuracy or rank, and of its difference from any other, nothing is known."
)
HEURISTIC = "Arms were stopped by rank alone (race.budget), a heuristic without an error rate: equal arms are stopped as readily as worse ones."
COLUMNS = ("step", "arm", "right there, %", "score there", "p by accuracy", "p by score", "")


def race_blocks(selection: Selection) -> list[Block]:
    """The section on the race of a sweep; nothing where there was none."""
    race = None if selection.sweep is None else races.load(selection.runs_dir, selection.sweep.identity)
    if race is None or not race.rungs:
        return []
    found = raced(selection.runs_dir, race)
    return [Heading(2, "Race"), Bullets(tuple(sentences(race, found))), table(race, found), Paragraph(CAUTION)]


def race_lines(runs_dir: Path, sweep: str) -> list[str]:
    """The same in the terminal, a line each."""
    race = races.load(runs_dir, sweep)
    return [] if race is None or not race.rungs else list(sentences(race, raced(runs_dir, race)))


def raced(runs_dir: Path, race: Race) -> dict[str, Run]:
    """The records of all arms that were compared at a rung, by identity."""
    names = dict.fromkeys(arm["run"] for rung in race.rungs for arm in rung["arms"])
    return {name: runs.look(runs_dir, name) or Run(name, name, {}, "") for name in names}


def sentences(race: Race, found: dict[str, Run]) -> Iterator[str]:
    """What was stopped or would have been, alpha, what was saved, and what became of the winner."""
    stops, acts = dict(race.stops()), race.mode == "stop"
    stopped = ", ".join(f"{found[name].name} at step {step} of {race.max_steps}" for name, step in stops.items())
    verb = "stopped" if acts else "would have been stopped by sweep.race=stop"
    if not stops:
        yield f"No arm of {race.num_arms} {'was' if acts else 'would have been'} stopped."
    else:
        yield f"{arms(len(stops))} of {race.num_arms} {verb}: {stopped}. {why(race)}"
    saved, asked = race.shares()
    yield (
        f"{'Saved' if acts else 'It would have saved'} {percent(saved)} % of the optimizer steps of all arms; the questions at the rungs cost "
        f"as much as {percent(asked)} %, each a third of a trained sample: net {percent(saved - asked)} %."
    )
    yield from (f"{which} at the end, {name}, {fate}." for which, name, fate in winners(race, found))
    open_ = [found[name].name for name in stops if found[name].status == runs.STOPPED]
    if open_:
        yield f"Stopped arms are in no table of results ({', '.join(open_)}). The same command with sweep.race=null finishes them."


def why(race: Race) -> str:
    """What a stop means, and the probability of error that was spent."""
    if race.rule["budget"] is not None:
        return HEURISTIC
    spent = sum(rung["alpha"] for rung in race.rungs)
    each = " and ".join(f"{decimal(rung['alpha'])} at step {rung['step']}" for rung in race.rungs)
    return f"{capital(outside(race))}. Alpha spent: {each}, {decimal(spent)} of {race.rule['alpha']:g}."


def outside(race: Race) -> str:
    """What is known of an arm that the test stops."""
    level, lead = 100 * (1 - race.rule["alpha"]), 100 * race.rule["indifference"]
    points = f"{lead:g} point{'' if lead == 1 else 's'}"
    return f"not in the {level:g} % set of arms that may have led by {points} or more there, by the share of right answers and by the watched score"


def winners(race: Race, found: dict[str, Run]) -> Iterator[tuple[str, str, str]]:
    """Where nothing was stopped, the arms that were best on dev in the end: what they are best in, name, and what a race would have done."""
    finished = [run for run in found.values() if run.status == runs.FINISHED]
    if race.mode == "stop" or len(finished) < len(found):
        return
    for kind in KINDS.values():
        values = {run.identity: run.metrics.get(f"dev/{kind.headline}") for run in finished}
        if all(value is not None for value in values.values()):
            best = max(value for value in values.values() if value is not None)
            stops = dict(race.stops())
            for name in (name for name, value in values.items() if value == best):
                fate = f"would have been stopped at step {stops[name]}" if name in stops else "would have gone on to its end"
                yield f"The arm with the best dev {kind.main.header}", found[name].name, fate
            return


def table(race: Race, found: dict[str, Run]) -> Table:
    """Every decision: a row an arm and rung."""
    stops = "stopped" if race.mode == "stop" else "would stop"
    rows: list[tuple[Text, ...]] = []
    for rung in race.rungs:
        for arm in sorted(rung["arms"], key=lambda arm: -arm["accuracy"]):
            numbers = percent(arm["accuracy"]), decimal(arm["score"]), p_value(arm["p_accuracy"]), p_value(arm["p_score"])
            name = (Mono(found[arm["run"]].name),)
            rows.append((str(rung["step"]), name, *numbers, (Strong(stops),) if arm["stops"] else "went on"))
    first = race.rungs[0]
    caption = (
        f"Answers to minival at the rungs ({first['questions']:,} in {first['clusters']:,} clusters), of the models as they were there. p: of "
        f'"it leads every other running arm{by(race)}", by the max-T test over swapped clusters.'
    )
    return Table(COLUMNS, tuple(rows), frozenset({0, 2, 3, 4, 5}), caption)


def by(race: Race) -> str:
    lead = 100 * race.rule["indifference"]
    return f" by {lead:g} point{'' if lead == 1 else 's'} or more (accuracy), or at all (score)" if lead else ""
