"""The sentence at the top of a report: what the sweep's data carry, and no more."""

from __future__ import annotations

from collections.abc import Sequence

from lab.report.checks import NAMED
from lab.report.compare import Group, Pair
from lab.report.findings import Findings
from lab.report.formatting import arms, count, number


def headline(findings: Findings) -> str:
    """One sentence: the arm that is best on minival, its score on dev with its interval, and whom it may be said to beat."""
    if not findings.measured:
        return f"Nothing can be said yet: none of {arms(len(findings.results))} has finished."
    leader = best_group(findings)
    said = f"{leader.label} has {score(leader)}"
    pairs = [pair for pair in findings.compared.pairs if leader.label in (pair.first, pair.second)]
    if len(findings.compared.groups) == 1:
        return f"{said}; it is alone, so nothing is compared."
    chosen = "the best on minival" if all(m.minival is not None for m in findings.measured) else "the best on dev"
    said = f"{leader.label}, {chosen}, has {score(leader)}"
    if not pairs:
        return f"{said}; no other arm can be compared with it."
    return f"{said}; {against(leader, pairs)}{reach(findings, pairs)}."


def best_group(findings: Findings) -> Group:
    """The experiment that is best on minival, of those that were compared where any were."""
    names = {name for pair in findings.compared.pairs for name in (pair.first, pair.second)}
    groups = [group for group in findings.compared.groups if group.label in names] or list(findings.compared.groups)
    return max(groups, key=lambda group: group.rank)


def score(group: Group) -> str:
    """`accuracy 68.2 % on 1,400 dev examples (95 % interval 65.2 to 71.1)`; of several seeds their mean."""
    first, kind = group.members[0], group.members[0].kind
    unit = f" {kind.main.unit}" if kind.main.unit else ""
    if len(group.members) > 1:
        return f"{kind.main.header} {number(kind.main, group.mean(kind.headline))}{unit} on dev (mean of {len(group.members)} seeds)"
    interval = first.intervals.get(kind.headline)
    if interval is None or not interval.has_ends:
        return f"{kind.main.header} {number(kind.main, first.headline)}{unit} on {count(first.num_examples)} dev examples"
    ends = f"95 % interval {number(kind.main, interval.low)} to {number(kind.main, interval.high)}"
    return f"{kind.main.header} {number(kind.main, first.headline)}{unit} on {count(first.num_examples)} dev examples ({ends})"


def against(leader: Group, pairs: Sequence[Pair]) -> str:
    """Whom it beats, who beats it, and of whom neither may be said."""
    beaten = [other(leader, pair) for pair in pairs if pair.claim.claimed and pair.claim.better == leader.label]
    ahead = [other(leader, pair) for pair in pairs if pair.claim.claimed and pair.claim.worse == leader.label]
    level = [other(leader, pair) for pair in pairs if not pair.claim.claimed]
    said = [f"it beats {listed(beaten, pairs)}"] if beaten else []
    said += [f"it is beaten by {listed(ahead, pairs)}"] if ahead else []
    said += [f"no claim holds between it and {listed(level, pairs)}"] if level else []
    return ", and ".join(said)


def other(leader: Group, pair: Pair) -> str:
    return pair.second if pair.first == leader.label else pair.first


def listed(names: Sequence[str], pairs: Sequence[Pair]) -> str:
    """A few names, or how many of those that it was compared with."""
    if len(names) > NAMED:
        return f"{f'all {len(pairs)}' if len(names) == len(pairs) else f'{len(names)} of the {len(pairs)}'} arms compared with it"
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def reach(findings: Findings, pairs: Sequence[Pair]) -> str:
    """What the claims are about, where seeds were not tried."""
    claimed = any(pair.claim.claimed for pair in pairs)
    return " (claims are about these trained models: no second seed was run)" if claimed and findings.compared.floor is None else ""
