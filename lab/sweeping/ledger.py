"""Holds a sweep to what it says its arms have in common (`sweep.require`): before any arm trains, and of what they recorded."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lab.config import Experiment, MatchOn, identity, trains
from lab.errors import ConfigError, LabError
from lab.host.progress import bars
from lab.store import runs

if TYPE_CHECKING:
    from lab.report.matching import Account
    from lab.run import Prepared

log = logging.getLogger(__name__)

Named = tuple[str, Experiment]
"""An arm's name and its experiment."""


def required(arms: Sequence[Named]) -> list[MatchOn]:
    """What the arms must have in common: all that any of them asks for, in the order of the schema."""
    asked = {respect for _, x in arms for respect in x.sweep.require}
    return [respect for respect in MatchOn if respect in asked]


def before(arms: Sequence[Named], runs_dir: Path) -> dict[str, Prepared]:
    """Raise a `ConfigError` if arms differ in what they require, as far as it is known before training.

    Every shared base is prepared once to count its arms. Returns it by `lab.run.shared_key` where it is the only one, so that
    it need not be prepared again; several would not fit beside each other.
    """
    from lab import run as running
    from lab.report import matching

    respects = required(arms)
    if not respects:
        return {}
    accounts: dict[str, Account] = {}
    groups: dict[str, list[Named]] = {}
    for name, x in arms:
        known = runs.look(runs_dir, identity(x))
        if known is not None and running.reusable(x, known):
            accounts[name] = account_of(name, x, known.facts, known.metrics)
        else:
            groups.setdefault(running.shared_key(x), []).append((name, x))
    if not groups:
        return {}  # all have finished; `after` says what they recorded
    kept: dict[str, Prepared] = {}
    for key, members in groups.items():
        try:
            prepared = running.load_shared(members[0][1], bars())
            for _, x in members:
                running.try_out(x, prepared)
            accounts |= {name: foreseen(name, x, prepared) for name, x in members}
        except LabError as error:
            if len(groups) == 1:
                raise
            log.error("%s", error)  # its arms will fail with this error; the others are compared without them
            continue
        if len(groups) == 1:
            kept[key] = prepared
    ordered = [accounts[name] for name, _ in arms if name in accounts]
    broken = matching.breaches(ordered, respects)
    if broken:
        raise ConfigError("\n".join([*broken, remedy(respects)]))
    for respect in respects:
        open_ = matching.unknown(ordered, respect)
        if open_:
            log.warning("sweep.require=%s: not known before training for %s; checked at the end", respect.value, ", ".join(open_))
    return kept


def after(arms: Sequence[Named], runs_dir: Path) -> int:
    """Hold what the finished arms recorded against what they require; 0 if it holds, else 1, with the difference told."""
    from lab.report import matching

    found = [(name, x, runs.look(runs_dir, identity(x))) for name, x in arms] if required(arms) else []
    accounts = [
        account_of(name, x, run.facts, run.metrics) for name, x, run in found if run is not None and run.status == runs.FINISHED
    ]
    broken = matching.breaches(accounts, required(arms))
    for paragraph in broken:
        print(paragraph, file=sys.stderr)
    return 1 if broken else 0


def foreseen(name: str, x: Experiment, prepared: Prepared) -> Account:
    """An arm's account before it trains, from what it is about to record."""
    from lab import run as running

    encoded = prepared.encoded(x, bars())
    return account_of(name, x, {"data": running.data_facts(x, prepared, encoded)}, running.foresee(x, prepared))


def account_of(name: str, x: Experiment, facts: dict, metrics: dict[str, float]) -> Account:
    """An arm's account from facts and metrics as a run records them."""
    from lab.report.matching import Account

    return Account.of(name, identity(replace(x, seed=0)), trains(x), facts, metrics, x.seed)


def remedy(respects: Sequence[MatchOn]) -> str:
    """What to do about it."""
    match = "Match adapters with lora.trainable_parameters=N. " if MatchOn.parameters in respects else ""
    return f"Nothing was trained. {match}Change the arms, or take what may differ out of sweep.require."
