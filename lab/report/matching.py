"""The matched-arm ledger: what arms must have in common before a difference between them means anything.

    samples      the same samples in train, minival and dev (a zero-shot baseline: dev)
    order        as many training examples, in the same order and mixture, for the same seeds; arms that differ in nothing but their seed are
                 replicates of one experiment and are not held against each other
    tokens       as many visual tokens of an image: mean, least and most over dev
    parameters   trainable parameters, within `MATCHED` (a rank is a whole number); zero-shot baselines are left out
    flops        operations of one forward pass (`lab.costs.counting`), within `MATCHED`; zero-shot baselines are left out

A report shows the ledger of its arms; `sweep.require` makes a sweep stop that breaks it (`lab.sweeping.ledger`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lab.config import MatchOn
from lab.report.document import Mono, Table
from lab.report.formatting import NONE, count, quantity, tokens

MATCHED = 0.05
"""Largest share by which the most of a number may exceed the least of it among matched arms."""
QUANTITIES = {MatchOn.parameters: "trainable parameters", MatchOn.flops: "forward FLOPs"}
SPLITS = ("train", "minival", "dev")


@dataclass(frozen=True)
class Account:
    """One arm in the ledger; None: not known.

    experiment: equal for arms that differ only in their seed. trains: False for a zero-shot baseline.
    samples: fingerprint of each split. examples_seen: by training. mixture: samples of an epoch by source, () of one source. tokens: mean,
    least and most of one dev image. blocks: most questions of one picture that follow each other; None: the order is random.
    """

    label: str
    experiment: str
    seed: int
    trains: bool
    samples: Mapping[str, str]
    examples_seen: int | None
    mixture: tuple[tuple[str, int], ...]
    tokens: tuple[float, float, float] | None
    parameters: float | None
    flops: float | None
    blocks: int | None = None

    @classmethod
    def of(
        cls, label: str, experiment: str, trains: bool, facts: Mapping[str, Any], metrics: Mapping[str, float], seed: int
    ) -> Account:
        """Read facts and metrics as a run records them."""
        data = facts.get("data") or {}
        mean, least, most = (metrics.get(f"visual_tokens/{key}") for key in ("mean", "min", "max"))
        return cls(
            label=label,
            experiment=experiment,
            seed=seed,
            trains=trains,
            samples=data.get("samples") or {},
            examples_seen=(data.get("order") or {}).get("examples_seen"),
            mixture=mixture_of(data),
            tokens=None if mean is None or least is None or most is None else (mean, least, most),
            parameters=metrics.get("parameters/trainable"),
            flops=metrics.get("flops/forward_per_example"),
            blocks=(data.get("order") or {}).get("questions_per_image"),
        )

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits whose samples count: a baseline is asked dev alone."""
        return SPLITS if self.trains else SPLITS[2:]

    def value(self, respect: MatchOn) -> Any:
        """What must be equal among arms; None where it is not known or does not count."""
        if respect is MatchOn.samples:
            return tuple(self.samples.get(split) for split in self.splits) if self.samples else None
        if respect is MatchOn.tokens:
            return self.tokens
        known = {MatchOn.order: self.examples_seen, MatchOn.parameters: self.parameters, MatchOn.flops: self.flops}
        return known[respect] if self.trains else None

    def written(self, respect: MatchOn) -> str:
        """The value as a table shows it."""
        value = self.value(respect)
        if value is None:
            return NONE
        match respect:
            case MatchOn.samples:
                return " ".join(f"{split} {self.samples.get(split, NONE)[:8]}" for split in self.splits)
            case MatchOn.order:
                return f"{count(value)}, seed {self.seed}"
            case MatchOn.tokens:
                return tokens((value[0], round(value[1]), round(value[2])))
        return count(value) if respect is MatchOn.parameters else quantity(value / 1e9)


def unknown(accounts: Sequence[Account], respect: MatchOn) -> list[str]:
    """Labels of the arms of which a respect should be known and is not."""
    counted = [a for a in accounts if a.trains or respect in (MatchOn.samples, MatchOn.tokens)]
    return [account.label for account in counted if account.value(respect) is None]


def differs(accounts: Sequence[Account], respect: MatchOn) -> str | None:
    """How the arms differ in one respect, as the end of a sentence; None if they are matched as far as is known."""
    known = [account for account in accounts if account.value(respect) is not None]
    match respect:
        case MatchOn.samples:
            odd = [split for split in SPLITS if len({a.samples.get(split) for a in known if a.trains or split == "dev"}) > 1]
            return f"the samples of {', '.join(odd)}" if odd else None
        case MatchOn.order:
            return "what they are trained on, or in which order" if len(set(orders(known).values())) > 1 else None
        case MatchOn.tokens:
            return "visual tokens of an image" if len({tuple(round(v, 6) for v in a.value(respect)) for a in known}) > 1 else None
        case _:
            least, most = extremes(known, respect)
            if least is not None and most is not None and apart(least, most, respect) > MATCHED:
                return contrast(least, most, respect)
            return None


def mixture_of(data: Mapping[str, Any]) -> tuple[tuple[str, int], ...]:
    """Samples of an epoch by source, of the facts that a run records of its data."""
    return tuple((source["name"], source["places"]) for source in data.get("sources") or ())


def orders(accounts: Sequence[Account]) -> dict[str, frozenset[tuple[Any, ...]]]:
    """For every experiment its seeds, each with the training samples, how many of them are seen, their mixture and blocks: what fixes the order."""
    found: dict[str, set[tuple[Any, ...]]] = {}
    for account in accounts:
        seen = (account.seed, account.samples.get("train"), account.examples_seen, account.mixture, account.blocks)
        found.setdefault(account.experiment, set()).add(seen)
    return {experiment: frozenset(seen) for experiment, seen in found.items()}


def extremes(accounts: Sequence[Account], respect: MatchOn) -> tuple[Account | None, Account | None]:
    """The arms with the least and the most of a quantity."""
    known = sorted((a for a in accounts if a.value(respect) is not None), key=lambda account: account.value(respect))
    return (known[0], known[-1]) if known else (None, None)


def apart(least: Account, most: Account, respect: MatchOn) -> float:
    """By what share the most exceeds the least."""
    low, high = least.value(respect), most.value(respect)
    return (high - low) / low if low else float(high > 0)


def contrast(least: Account, most: Account, respect: MatchOn) -> str:
    """`trainable parameters, by a factor of 2.00 (lora.r=16: 179,200; lora.r=8: 89,600)`."""
    unit = " GFLOP" if respect is MatchOn.flops else ""
    low, high = (f"{account.label}: {account.written(respect)}{unit}" for account in (least, most))
    return f"{QUANTITIES[respect]}, by a factor of {1.0 + apart(least, most, respect):.2f} ({high}; {low})"


def breaches(accounts: Sequence[Account], required: Sequence[MatchOn]) -> list[str]:
    """What is required and does not hold: a sentence with the difference, then one line an arm."""
    found = []
    for respect in required:
        how = differs(accounts, respect)
        if how is not None:
            width = max(len(account.label) for account in accounts)
            lines = [f"  {account.label:<{width}}  {account.written(respect)}" for account in accounts]
            found.append("\n".join([f"sweep.require={respect.value}: the arms differ in {how}.", *lines]))
    return found


def matched(accounts: Sequence[Account]) -> str:
    """In what the trained arms are matched, trainable parameters or operations, in a sentence; empty if there are not two."""
    trained = [account for account in accounts if account.trains]
    if len(trained) < 2:
        return ""
    equal, unequal, unsaid = [], [], []
    for respect, name in QUANTITIES.items():
        least, most = extremes(trained, respect)
        if least is None or most is None or unknown(trained, respect):
            unsaid.append(f"{name[0].upper()}{name[1:]} were not recorded for every arm.")
        elif differs(trained, respect) is None:
            unit = " GFLOP an example" if respect is MatchOn.flops else ""
            span = " to ".join(dict.fromkeys((least.written(respect), most.written(respect))))
            equal.append(f"{name} ({span}{unit}, within {100 * apart(least, most, respect):.1f} %)")
        else:
            unequal.append(contrast(least, most, respect))
    said = []
    if equal:
        said.append(f"Trained arms are matched in {' and in '.join(equal)}.")
    if unequal:
        first = "They are not matched in" if equal else "Trained arms are not matched in"
        said.append(f"{first} {', nor in '.join(unequal)}.")
    return " ".join([*said, *unsaid])


LEDGER = {
    "training examples, seed": MatchOn.order,
    "visual tokens per image": MatchOn.tokens,
    "trainable parameters": MatchOn.parameters,
    "forward GFLOP per example": MatchOn.flops,
    "samples (first digits of their hash)": MatchOn.samples,
}


def ledger_table(accounts: Sequence[Account], caption: str) -> Table:
    """The ledger, one row an arm."""
    rows = tuple(((Mono(account.label),), *(account.written(respect) for respect in LEDGER.values())) for account in accounts)
    return Table(("arm", *LEDGER), rows, frozenset(range(1, 5)), caption=caption)
