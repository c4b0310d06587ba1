"""Which arms are compared, and what may be claimed of each pair. Arms that differ only in their seed are one group."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from lab.answers import predictions
from lab.answers.predictions import PredictionTable
from lab.config import identity_values
from lab.errors import LabError
from lab.host.progress import Report, silent
from lab.report.alike import Realised, alike, describe
from lab.report.measure import Measured, Result
from lab.statistics.comparing import Comparison, Paired, compare_paired, paired
from lab.statistics.metrics import columns
from lab.statistics.power_analysis import Resolution, resolution
from lab.statistics.seeds import NoiseFloor, compare_seeds, noise_floor
from lab.statistics.verdict import Claim, verdicts

ALL_PAIRS_UP_TO = 6
"""Most groups of which every pair is compared; above, only the reference and the baseline meet the others."""
MOST_RIVALS = 24
"""Most groups that the reference is compared with."""
INDEX = ("sample_id", "image_set", "question_group")


@dataclass(frozen=True, eq=False)
class Group:
    """Measured arms that differ only in their seed, by seed."""

    label: str
    members: tuple[Measured, ...]

    @property
    def zero_shot(self) -> bool:
        return self.members[0].arm.zero_shot

    @property
    def runs(self) -> tuple[str, ...]:
        """The identities of its runs."""
        return tuple(member.arm.run.identity for member in self.members)

    @property
    def by_seed(self) -> dict[int, Measured]:
        return {_seed(member): member for member in self.members}

    def mean(self, metric: str) -> float:
        return statistics.fmean(member.metrics[metric] for member in self.members)

    def spread(self, metric: str) -> float:
        """Standard deviation over seeds (n - 1); 0 of a single one."""
        values = [member.metrics[metric] for member in self.members]
        return statistics.stdev(values) if len(values) > 1 else 0.0

    @property
    def rank(self) -> float:
        """What the reference is chosen by, most first: the headline on minival, on dev only where minival was not scored."""
        held_out = [member.minival for member in self.members if member.minival is not None]
        complete = len(held_out) == len(self.members)
        value = statistics.fmean(held_out if complete else [member.headline for member in self.members])
        return value if self.members[0].kind.main.higher_is_better else -value


@dataclass(frozen=True)
class Pair:
    """Two groups on the same items. resolution: of their first common seed."""

    first: str
    second: str
    comparison: Comparison
    resolution: Resolution
    claim: Claim


@dataclass(frozen=True)
class Compared:
    """All comparisons of a report. notes: how pairs were chosen and which could not be compared, in sentences."""

    groups: tuple[Group, ...]
    pairs: tuple[Pair, ...]
    floor: NoiseFloor | None
    notes: tuple[str, ...]


def groups_of(results: Sequence[Result]) -> list[Group]:
    """Gather replicates, in the order of the arms."""
    by_group: dict[str, list[Measured]] = {}
    for result in results:
        if isinstance(result, Measured):
            by_group.setdefault(result.arm.group, []).append(result)
    return [
        Group(members[0].arm.group_label if len(members) > 1 else members[0].arm.label, tuple(sorted(members, key=_seed)))
        for members in by_group.values()
    ]


def compare_all(results: Sequence[Result], num_resamples: int = 2000, report: Report = silent) -> Compared:
    """Compare groups of which the same questions were asked, in the headline metric, with Holm's correction over all pairs."""
    every = groups_of(results)
    notes: list[str] = []
    comparable = same_items(every, notes)
    floor = measured_floor(comparable)
    comparable = once(comparable, notes)
    reason = next((m.no_interval for group in comparable for m in group.members if m.no_interval), None)
    if reason:
        notes.append(f"Nothing is compared: {reason}")
        return Compared(tuple(every), (), floor, tuple(notes))
    compared = compare_pairs(choose_pairs(comparable, notes), notes, num_resamples, report)
    claims = verdicts([(comparison, first, second) for first, second, comparison, _ in compared], floor=floor)
    pairs = tuple(Pair(*one, claim) for one, claim in zip(compared, claims, strict=True))
    return Compared(tuple(every), pairs, floor, tuple(notes))


def compare_pairs(
    chosen: Sequence[tuple[Group, Group]], notes: list[str], num_resamples: int, report: Report
) -> list[tuple[str, str, Comparison, Resolution]]:
    """Compare each pair; those of one seed share their draws. What cannot be compared is noted."""
    tables: dict[str, PredictionTable] = {}
    remaining = Counter(group.label for pair in chosen for group in pair)
    compared: list[tuple[str, str, Comparison | Paired, Resolution]] = []
    for number, pair in enumerate(chosen, start=1):
        try:
            one, other = paired_tables(*pair, tables)
            alone = len(one) == 1
            comparison = paired(one[0], other[0]) if alone else compare_seeds(one, other, num_resamples=num_resamples)
            compared.append((pair[0].label, pair[1].label, comparison, resolution(one[0], other[0])))
        except LabError as error:
            notes.append(str(error))
        for group in pair:
            remaining[group.label] -= 1
            if not remaining[group.label]:
                for member in group.members:
                    tables.pop(member.arm.run.identity, None)
        report("comparing (pairs)", number, len(chosen), "")
    single = iter(compare_paired([pair for _, _, pair, _ in compared if isinstance(pair, Paired)], num_resamples=num_resamples))
    return [(first, second, next(single) if isinstance(pair, Paired) else pair, seen) for first, second, pair, seen in compared]


def same_items(every: Sequence[Group], notes: list[str]) -> list[Group]:
    """Keep the groups that were asked what most were asked."""
    if not every:
        return []
    usual = Counter(member.items for group in every for member in group.members).most_common(1)[0][0]
    kept = [group for group in every if all(member.items == usual for member in group.members)]
    notes += [
        f"{group.label} is not compared: its dev questions or labels are not those of most arms, "
        "and unpaired numbers say little about a difference."
        for group in every
        if group not in kept
    ]
    return kept


def realised(group: Group) -> Realised:
    """What a group's runs recorded of what reaches the model: of all its seeds, or nothing."""
    facts = {str(seed): member.arm.run.facts.get("realised") for seed, member in group.by_seed.items()}
    first = group.members[0].arm.run
    if not all(facts.values()):
        return Realised(group.label, first.config, None)
    parts = {f"{seed} {name}": value for seed, one in facts.items() if one for name, value in one["parts"].items()}
    return Realised(group.label, first.config, {**first.facts["realised"], "parts": parts})


def once(every: Sequence[Group], notes: list[str]) -> list[Group]:
    """Keep the first of groups that are one experiment under several names: between them there is nothing to compare."""
    left_out: set[str] = set()
    for members in alike([realised(group) for group in every]):
        left_out |= {member.label for member in members[1:]}
        notes.append(f"{describe(members)} They are not compared with each other; {members[0].label} stands for them.")
    return [group for group in every if group.label not in left_out]


def measured_floor(every: Sequence[Group]) -> NoiseFloor | None:
    """Spread of the headline over seeds, pooled over the groups with more than one; None if there is none.

    A group that no seed touches, as a zero-shot baseline, has no spread by construction and is left out.
    """
    repeated = [[m.headline for m in group.members] for group in every if len(group.members) > 1 and not seedless(group)]
    return noise_floor(repeated) if repeated else None


def seedless(group: Group) -> bool:
    """Whether all its runs recorded that the same reached the model, whatever the seed."""
    facts = [member.arm.run.facts.get("realised") for member in group.members]
    return all(facts) and len({tuple(sorted(one["parts"].items())) for one in facts if one}) == 1


def choose_pairs(every: Sequence[Group], notes: list[str]) -> list[tuple[Group, Group]]:
    """All pairs of a few groups; of many, the best on minival against the next best and against the baseline."""
    if len(every) <= ALL_PAIRS_UP_TO:
        return list(combinations(every, 2))
    stages = twins(every)
    reference, *others = sorted(every, key=lambda group: -group.rank)
    rivals = others[:MOST_RIVALS]
    baselines = [group for group in every if group.zero_shot and group is not reference]
    rivals += [baseline for baseline in baselines[:1] if baseline not in rivals]
    on_minival = all(member.minival is not None for group in every for member in group.members)
    chosen_on = "minival" if on_minival else "dev (not every arm has minival predictions)"
    against = "each of the others"
    if len(rivals) < len(others):
        against = f"{len(rivals)} others: those next to it{', and the zero-shot baseline' if baselines else ''}"
    notes.append(
        f"{len(every)} experiments make {len(every) * (len(every) - 1) // 2:,} pairs. Compared are only {reference.label}, "
        f"the best on {chosen_on}, and {against}{', and what went on from another run with the same without it' if stages else ''}."
    )
    pairs = [(reference, rival) for rival in rivals]
    pairs += [pair for pair in stages if pair not in pairs and pair[::-1] not in pairs]
    return with_own_bases(pairs, every, notes)


def twins(every: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Each group that went on from another run (`model.start`), and the one that is the same training without it."""

    def key(group: Group) -> str:
        values = identity_values(group.members[0].arm.run.config)
        return repr({name: value for name, value in values.items() if name not in ("seed", "model.start")})

    alone = {key(group): group for group in every if not started(group)}
    return [(group, alone[key(group)]) for group in every if started(group) and key(group) in alone]


def started(group: Group) -> bool:
    """Whether it went on from another run."""
    return group.members[0].arm.run.config.get("model", {}).get("start") is not None


def with_own_bases(pairs: list[tuple[Group, Group]], every: Sequence[Group], notes: list[str]) -> list[tuple[Group, Group]]:
    """Where arms have several bases, the pairs and each trained group beside its own base as it is."""

    there = {frozenset((first.label, second.label)) for first, second in pairs}
    more = [pair for pair in beside_bases(every) if frozenset((pair[0].label, pair[1].label)) not in there]
    if len({base_of(group) for group in every}) == 1 or not more:
        return pairs
    notes.append("Each trained arm is compared with its own base as it is, too.")
    return pairs + more


def base_of(group: Group) -> str:
    """What a group was trained from."""
    model = group.members[0].arm.run.config.get("model", {})
    return str(model.get("path") or model.get("name"))


def beside_bases(every: Sequence[Group]) -> list[tuple[Group, Group]]:
    """Each trained group, and its own base as it is, where that was asked too."""
    untrained = {base_of(group): group for group in reversed(every) if group.zero_shot}
    return [(group, untrained[base_of(group)]) for group in every if not group.zero_shot and base_of(group) in untrained]


def paired_tables(
    first: Group, second: Group, tables: dict[str, PredictionTable], wanted: Sequence[str] = ()
) -> tuple[list[PredictionTable], list[PredictionTable]]:
    """Predictions of both under the seeds they share; a zero-shot baseline, which no seed touches, meets every seed.

    tables: known ones, by run. wanted: columns; none: those of the headline.
    """

    def load(member: Measured) -> PredictionTable:
        name = member.arm.run.identity
        if name not in tables:
            tables[name] = predictions.read(member.path, tuple(wanted) or (*INDEX, *columns()))
        return tables[name]

    one, other = paired_members(first, second)
    return [load(member) for member in one], [load(member) for member in other]


def paired_members(first: Group, second: Group) -> tuple[list[Measured], list[Measured]]:
    """The runs of both under the seeds they share, in one order. Raises `LabError` where they share none."""
    one, other = first.by_seed, second.by_seed
    if first.zero_shot and len(one) == 1:
        one = dict.fromkeys(other, first.members[0])
    if second.zero_shot and len(other) == 1:
        other = dict.fromkeys(one, second.members[0])
    seeds = sorted(one.keys() & other.keys())
    if not seeds:
        raise LabError(f"{first.label} and {second.label} are not compared: they share no seed ({sorted(one)}, {sorted(other)}).")
    return [one[seed] for seed in seeds], [other[seed] for seed in seeds]


def _seed(member: Measured) -> int:
    return int(member.arm.run.config.get("seed", 0))
