"""Which arms are compared, and what may be claimed of each pair. Arms that differ only in their seed are one experiment."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.errors import LabError
from lab.host.progress import Report, silent
from lab.report.alike import Realised, alike, told
from lab.report.measure import Measured, Result
from lab.statistics.comparing import Comparison, Paired, compare_paired, paired
from lab.statistics.power_analysis import Resolution, resolution
from lab.statistics.seeds import NoiseFloor, compare_seeds, noise_floor
from lab.statistics.verdict import Claim, verdicts

ALL_PAIRS_UP_TO = 6
"""Most experiments of which every pair is compared; above, only the reference and the baseline meet the others."""
MOST_RIVALS = 24
"""Most experiments that the reference is compared with."""
READ = ("sample_id", "image_set", "question_group", "right", "prediction")


@dataclass(frozen=True, eq=False)
class Experiment:
    """Measured arms that differ only in their seed, by seed."""

    label: str
    members: tuple[Measured, ...]

    @property
    def zero_shot(self) -> bool:
        return self.members[0].arm.zero_shot

    def mean(self, metric: str) -> float:
        return statistics.fmean(member.metrics[metric] for member in self.members)

    def spread(self, metric: str) -> float:
        """Standard deviation over seeds (n - 1); 0 of a single one."""
        values = [member.metrics[metric] for member in self.members]
        return statistics.stdev(values) if len(values) > 1 else 0.0

    @property
    def rank(self) -> float:
        """What the reference is chosen by: accuracy on minival, on dev only where minival was not scored."""
        held_out = [member.minival_accuracy for member in self.members if member.minival_accuracy is not None]
        return statistics.fmean(held_out) if len(held_out) == len(self.members) else self.mean("accuracy")


@dataclass(frozen=True)
class Pair:
    """Two experiments on the same items. resolution: of their first common seed."""

    first: str
    second: str
    comparison: Comparison
    resolution: Resolution
    claim: Claim


@dataclass(frozen=True)
class Meeting:
    """A pair before its claim is judged among all others."""

    first: str
    second: str
    comparison: Comparison
    resolution: Resolution


@dataclass(frozen=True)
class Compared:
    """All comparisons of a report. notes: how pairs were chosen and which could not be compared, in sentences."""

    experiments: tuple[Experiment, ...]
    pairs: tuple[Pair, ...]
    floor: NoiseFloor | None
    notes: tuple[str, ...]


def experiments(results: Sequence[Result]) -> list[Experiment]:
    """Gather replicates, in the order of the arms."""
    groups: dict[str, list[Measured]] = {}
    for result in results:
        if isinstance(result, Measured):
            groups.setdefault(result.arm.group, []).append(result)
    made = []
    for members in groups.values():
        members.sort(key=_seed)
        label = members[0].arm.group_label if len(members) > 1 else members[0].arm.label
        made.append(Experiment(label, tuple(members)))
    return made


def compare_all(results: Sequence[Result], num_resamples: int = 2000, report: Report = silent) -> Compared:
    """Compare experiments of which the same questions were asked, in accuracy, with Holm's correction over all pairs."""
    every = experiments(results)
    notes: list[str] = []
    comparable = same_items(every, notes)
    floor = measured_floor(comparable)
    comparable = once(comparable, notes)
    reason = next((m.no_interval for experiment in comparable for m in experiment.members if m.no_interval), None)
    if reason:
        notes.append(f"Nothing is compared: {reason}")
        return Compared(tuple(every), (), floor, tuple(notes))
    chosen = choose_pairs(comparable, notes)
    met = meet(chosen, notes, num_resamples, report)
    claims = verdicts([(m.comparison, m.first, m.second) for m in met], floor=floor)
    pairs = [Pair(m.first, m.second, m.comparison, m.resolution, claim) for m, claim in zip(met, claims, strict=True)]
    return Compared(tuple(every), tuple(pairs), floor, tuple(notes))


def meet(
    chosen: Sequence[tuple[Experiment, Experiment]], notes: list[str], num_resamples: int, report: Report
) -> list[Meeting]:
    """Compare each pair; those of one seed share their draws. What cannot be compared is noted."""
    tables: dict[str, PredictionTable] = {}
    left = Counter(experiment.label for pair in chosen for experiment in pair)
    found: list[tuple[str, str, Comparison | Paired, Resolution]] = []
    for number, (first, second) in enumerate(chosen, start=1):
        try:
            one, other = paired_tables(first, second, tables)
        except LabError as error:
            notes.append(str(error))
        else:
            alone = len(one) == 1
            compared = paired(one[0], other[0]) if alone else compare_seeds(one, other, num_resamples=num_resamples)
            found.append((first.label, second.label, compared, resolution(one[0], other[0])))
        for experiment in (first, second):
            left[experiment.label] -= 1
            if not left[experiment.label]:
                for member in experiment.members:
                    tables.pop(member.arm.run.identity, None)
        report("comparing (pairs)", number, len(chosen), "")
    together = iter(compare_paired([pair for _, _, pair, _ in found if isinstance(pair, Paired)], num_resamples=num_resamples))
    return [
        Meeting(first, second, next(together) if isinstance(pair, Paired) else pair, seen) for first, second, pair, seen in found
    ]


def same_items(every: Sequence[Experiment], notes: list[str]) -> list[Experiment]:
    """Keep the experiments that were asked what most were asked."""
    if not every:
        return []
    usual = Counter(member.items for experiment in every for member in experiment.members).most_common(1)[0][0]
    kept = [e for e in every if all(member.items == usual for member in e.members)]
    for experiment in every:
        if experiment not in kept:
            notes.append(
                f"{experiment.label} is not compared: its dev questions or labels are not those of most arms, "
                "and unpaired numbers say little about a difference."
            )
    return kept


def realised(experiment: Experiment) -> Realised:
    """What an experiment's runs recorded of what reaches the model: of all its seeds, or nothing."""
    facts = {str(_seed(member)): member.arm.run.facts.get("realised") for member in experiment.members}
    first = experiment.members[0].arm.run
    if any(not one for one in facts.values()):
        return Realised(experiment.label, first.config, None)
    parts = {f"{seed} {name}": value for seed, one in facts.items() for name, value in one["parts"].items()}
    return Realised(experiment.label, first.config, {**first.facts["realised"], "parts": parts})


def once(every: Sequence[Experiment], notes: list[str]) -> list[Experiment]:
    """Keep the first of experiments that are one under several names: between them there is nothing to compare."""
    left_out: set[str] = set()
    for members in alike([realised(experiment) for experiment in every]):
        rest = [member.label for member in members[1:]]
        left_out |= set(rest)
        notes.append(f"{told(members)} They are not compared with each other; {members[0].label} stands for them.")
    return [experiment for experiment in every if experiment.label not in left_out]


def measured_floor(every: Sequence[Experiment]) -> NoiseFloor | None:
    """Spread of accuracy over seeds, pooled over the experiments with more than one; None if there is none.

    An experiment that no seed touches, as a zero-shot baseline, has no spread by construction and is left out.
    """
    repeated = [[m.metrics["accuracy"] for m in e.members] for e in every if len(e.members) > 1 and not seedless(e)]
    return noise_floor(repeated) if repeated else None


def seedless(experiment: Experiment) -> bool:
    """Whether all its runs recorded that the same reached the model, whatever the seed."""
    facts = [member.arm.run.facts.get("realised") for member in experiment.members]
    return all(facts) and len({tuple(sorted(one["parts"].items())) for one in facts}) == 1


def choose_pairs(every: Sequence[Experiment], notes: list[str]) -> list[tuple[Experiment, Experiment]]:
    """All pairs of a few experiments; of many, the best on minival against the next best and against the baseline."""
    if len(every) <= ALL_PAIRS_UP_TO:
        return list(combinations(every, 2))
    ranked = sorted(every, key=lambda experiment: -experiment.rank)
    reference, rivals = ranked[0], ranked[1 : MOST_RIVALS + 1]
    baselines = [experiment for experiment in every if experiment.zero_shot and experiment is not reference]
    rivals += [baseline for baseline in baselines[:1] if baseline not in rivals]
    on_minival = all(member.minival_accuracy is not None for experiment in every for member in experiment.members)
    chosen_on = "minival" if on_minival else "dev (not every arm has minival predictions)"
    others = "each of the others"
    if len(rivals) < len(every) - 1:
        others = f"{len(rivals)} others: those next to it{', and the zero-shot baseline' if baselines else ''}"
    notes.append(
        f"{len(every)} experiments make {len(every) * (len(every) - 1) // 2:,} pairs. Compared are only {reference.label}, "
        f"the best on {chosen_on}, and {others}."
    )
    return [(reference, rival) for rival in rivals]


def paired_tables(
    first: Experiment, second: Experiment, tables: dict[str, PredictionTable]
) -> tuple[list[PredictionTable], list[PredictionTable]]:
    """Predictions of both under the seeds they share; a zero-shot baseline, which no seed touches, meets every seed."""

    def load(member: Measured) -> PredictionTable:
        name = member.arm.run.identity
        if name not in tables:
            tables[name] = predictions.read(member.arm.folder / "predictions" / "dev.parquet", READ)
        return tables[name]

    one = {_seed(member): member for member in first.members}
    other = {_seed(member): member for member in second.members}
    if first.zero_shot and len(one) == 1:
        one = dict.fromkeys(other, first.members[0])
    if second.zero_shot and len(other) == 1:
        other = dict.fromkeys(one, second.members[0])
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        raise LabError(f"{first.label} and {second.label} are not compared: they share no seed ({sorted(one)}, {sorted(other)}).")
    return [load(one[seed]) for seed in seeds], [load(other[seed]) for seed in seeds]


def _seed(member: Measured) -> int:
    return int(member.arm.run.config.get("seed", 0))
