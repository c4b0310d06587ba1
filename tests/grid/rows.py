"""Rows that hold every pair of choices: those that must finish, by `allpairspy`, and those that are refused, packed."""

from __future__ import annotations

import itertools
import random

from allpairspy import AllPairs

from grid.dimensions import DIMENSIONS, FIRST, REFUSALS, Member, Overrides, Refusal, Row, refused

Pair = frozenset[Member]
"""Two choices in two dimensions."""
ABOUT = {dimension: [refusal for refusal in REFUSALS if dimension in refusal.values] for dimension in DIMENSIONS}
"""Refusals by each dimension that they are about."""


def pairs_of(row: Row) -> set[Pair]:
    """Every pair of choices in a row."""
    return {frozenset(pair) for pair in itertools.combinations(row.items(), 2)}


def all_pairs() -> set[Pair]:
    """Every pair that there is."""
    members = [[(dimension, name) for name in values] for dimension, values in DIMENSIONS.items()]
    return {frozenset(pair) for a, b in itertools.combinations(members, 2) for pair in itertools.product(a, b)}


def completed(row: Row, order: dict[str, list[str]], but: Refusal | None = None) -> Row | None:
    """A row that is not refused, but for one reason, and begins with these choices; None if there is none.

    order: values as they are tried.
    """
    if any(refusal is not but for refusal in refused(row)):
        return None
    longer = extended(row, [dimension for dimension in order if dimension not in row], order, but)
    return longer if isinstance(longer, dict) else None


def extended(row: Row, missing: list[str], order: dict[str, list[str]], but: Refusal | None) -> Row | frozenset[str]:
    """The same, of a row whose choices are legal: what is added must be. Else the dimensions of the row that leave no choice.

    Where those are not among the last ones chosen, other values of these are not tried (backjumping, Dechter 1990).
    """
    if not missing:
        return row
    dimension, *rest = missing
    blamed: set[str] = set()
    for name in order[dimension]:
        longer = row | {dimension: name}
        against = next((refusal for refusal in ABOUT[dimension] if refusal is not but and refusal.holds(longer)), None)
        tried = extended(longer, rest, order, but) if against is None else frozenset(against.values)
        if isinstance(tried, dict) or dimension not in tried:
            return tried
        blamed |= tried
    return frozenset(blamed - {dimension})


def bound() -> dict[str, list[str]]:
    """The dimensions that any refusal is about, and their values: the others are free."""
    names = {dimension for refusal in REFUSALS for dimension in refusal.values}
    return {dimension: list(values) for dimension, values in DIMENSIONS.items() if dimension in names}


def impossible() -> set[Pair]:
    """Pairs that no row can have: refused themselves, or each of them refused beside what the other needs."""
    order = bound()
    return {pair for pair in all_pairs() if {dimension for dimension, _ in pair} <= set(order) and not completed(dict(pair), order)}


def finishing(seed: int, never: set[Pair]) -> list[Row]:
    """Rows that hold every pair but those of `never`, and no refused choices. seed: of the order of dimensions and values."""
    rng = random.Random(seed)
    tied = bound()
    largest_first = sorted(shuffled(rng), key=lambda item: (item[0] not in tied, -len(item[1])))
    order = {dimension: rng.sample(list(values), len(values)) for dimension, values in largest_first}
    names = list(order)

    def legal(values: list[str]) -> bool:
        """Whether a row's beginning stays legal with its last value; it is asked of every beginning."""
        row = dict(zip(names, values, strict=False))
        last = (names[len(values) - 1], values[-1])
        return not any(refusal.holds(row) for refusal in ABOUT[last[0]]) and not any(frozenset((last, one)) in never for one in row.items())

    rows = [dict(zip(names, found, strict=True)) for found in AllPairs(list(order.values()), filter_func=legal)]
    missing = all_pairs() - never - set().union(*map(pairs_of, rows))
    while missing:  # allpairspy ends when its next row, not when none, has a new pair
        row = completed(dict(min(missing, key=sorted)), order)
        assert row is not None
        rows.append(row)
        missing -= pairs_of(row)
    return [{dimension: row[dimension] for dimension in DIMENSIONS} for row in rows]


def shuffled(rng: random.Random) -> list[tuple[str, dict[str, Overrides]]]:
    """The dimensions in another order."""
    return rng.sample(list(DIMENSIONS.items()), len(DIMENSIONS))


def refused_rows(seed: int, never: set[Pair]) -> list[Row]:
    """Rows that hold all pairs of `never` and an example of each refusal, as many in one row as fit; else the defaults."""
    rng = random.Random(seed)
    wanted = [dict(pair) for pair in sorted(never, key=sorted)]
    wanted += [choices for choices in examples() if len(choices) > 2]
    rng.shuffle(wanted)
    rows: list[Row] = []
    while wanted:
        row: Row = {}
        while fitting := [choices for choices in wanted if fits(choices, row)]:
            row |= max(fitting, key=lambda choices: sum(held(other, row | choices) for other in wanted))
            wanted = [choices for choices in wanted if not held(choices, row)]
        rows.append(FIRST | row)
    return rows


def fits(choices: Row, row: Row) -> bool:
    """Whether a row can have choices beside its own."""
    return all(row.get(dimension, name) == name for dimension, name in choices.items())


def held(choices: Row, row: Row) -> bool:
    """Whether a row has choices."""
    return choices.items() <= row.items()


def examples() -> list[Row]:
    """The first choices of every refusal; of what adapters do, those of `lora=llm`."""
    first = [{dimension: names[0] for dimension, names in refusal.values.items()} for refusal in REFUSALS]
    return [row | {"lora": "llm"} if "llm" in refusal.values.get("lora", ()) else row for row, refusal in zip(first, REFUSALS, strict=True)]


def grid(seed: int) -> list[Row]:
    """All rows, in the order of the seed."""
    never = impossible()
    rows = finishing(seed, never) + refused_rows(seed, never)
    random.Random(seed).shuffle(rows)
    return rows


def single(seed: int = 0) -> list[Row]:
    """A few rows that must finish and together hold every choice that can: CI's slice of the grid. A choice not needed is the default."""
    rng = random.Random(seed)
    order = bound()
    shuffled_values = {dimension: rng.sample(list(values), len(values)) for dimension, values in DIMENSIONS.items()}
    missing = {dimension: [name for name in names if completed({dimension: name}, order)] for dimension, names in shuffled_values.items()}
    rows: list[Row] = []
    while wanted := next(((dimension, names[0]) for dimension, names in missing.items() if names), None):
        row: Row = dict([wanted])
        for dimension in [name for name in dict.fromkeys((*order, *DIMENSIONS)) if name not in row]:
            tries = [*missing[dimension], FIRST[dimension], *DIMENSIONS[dimension]]
            row[dimension] = next(name for name in tries if completed(row | {dimension: name}, order))
        missing = {dimension: [name for name in names if name != row[dimension]] for dimension, names in missing.items()}
        rows.append({dimension: row[dimension] for dimension in DIMENSIONS})
    return rows


def each_refused(shortest: bool = False) -> list[Row]:
    """Every pair of the first two choices of a refusal, with an example of its others, and no other reason to be refused.

    The rest are the laboratory's defaults, as far as these are legal beside the choices. shortest: two rows a refusal.
    """
    order = {dimension: [FIRST[dimension], *names] for dimension, names in bound().items()}
    rows: list[Row] = []
    for refusal, example in zip(REFUSALS, examples(), strict=True):
        first = list(refusal.values)[:2]
        found = itertools.product(*(refusal.values[dimension] for dimension in first))
        made = [completed(example | dict(zip(first, names, strict=True)), order, refusal) for names in found]
        legal = [FIRST | row for row in made if row is not None]
        rows += [legal[0], *legal[1:][-1:]] if shortest else legal
    return rows
