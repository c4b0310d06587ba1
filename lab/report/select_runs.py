"""Run folders -> the arms of one report: which runs, what each is called, which differ only in their seed."""

from __future__ import annotations

import json
import logging
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lab.config import DIALS, differing, identity_values
from lab.errors import LabError, did_you_mean
from lab.host.files import text_hash, values_hash
from lab.paths import absent
from lab.store import runs
from lab.store.runs import FINISHED, STOPPED, UNREADABLE, Run, Sweep

log = logging.getLogger(__name__)

NOT_STARTED = "NOT STARTED"
"""Status of an arm that a sweep names and that has no run folder."""
RANDOM_WEIGHTS = " (random weights)"
"""Ends the name of an arm whose base says that its weights were drawn (`lab.model.identity`)."""


@dataclass(frozen=True)
class Row:
    """One run as a row of the report.

    label: the dials in which the arms differ, as `lora.r=8 seed=1`, unique in the report.
    group: equal for arms that differ only in their seed, which are replicates of one experiment.
    group_label: `label` without the seed.
    zero_shot: nothing is trained and nothing attached.
    """

    run: Run
    folder: Path
    label: str
    group: str
    group_label: str
    zero_shot: bool

    @property
    def finished(self) -> bool:
        return self.run.status == FINISHED

    @property
    def others(self) -> dict[str, Path]:
        """Predictions of dev of other data sets that were asked, by name."""
        return runs.other_predictions(self.folder, self.run.config.get("data", {}).get("name", ""))


@dataclass(frozen=True)
class Selection:
    """The arms of one report, in the order of the sweep.

    name: names the report's folder. usual: what holds for every arm whose label does not say otherwise, as a label.
    also: keys that differ between trained arms without being in the labels.
    """

    name: str
    title: str
    runs_dir: Path
    arms: tuple[Row, ...]
    sweep: Sweep | None
    usual: str
    also: tuple[str, ...]

    @property
    def finished(self) -> tuple[Row, ...]:
        return tuple(arm for arm in self.arms if arm.finished)


def choose(runs_dir: Path, sweep: str | None = None, run_ids: Sequence[str] = ()) -> Selection:
    """Gather the arms of a sweep (an id, a name, or `latest`), of named runs, of both together, or of all finished runs.

    Arms of a sweep that its race has stopped are left out.
    With neither `sweep` nor `run_ids`: the latest sweep, or all finished runs if no sweep was ever asked for.
    """
    if not runs_dir.is_dir():
        raise LabError(f"{absent('--runs-dir', runs_dir, 'folder')} Or train first: python -m lab.train.")
    record = find_sweep(runs_dir, sweep) if sweep is not None or not run_ids else None
    if record is None and not run_ids:
        found = sorted((r for r in runs.all_runs(runs_dir) if r.status == FINISHED), key=lambda r: (r.started, r.identity))
        if not found:
            raise LabError(f"--runs-dir={runs_dir}: it holds no sweep and no finished run. Train first: python -m lab.train.")
        return select("all", "All finished runs", runs_dir, found, None)
    alone = record is None and len(set(run_ids)) == 1
    named = [load_named(runs_dir, identity, alone) for identity in dict.fromkeys(run_ids)]
    if record is None:
        name = named[0].identity if len(named) == 1 else f"runs-{text_hash(*(run.identity for run in named), digits=8)}"
        return select(name, named[0].name if len(named) == 1 else f"{len(named)} runs", runs_dir, named, None)
    arms = [warned_of(runs.look(runs_dir, name)) or not_started(runs_dir, name) for name in dict.fromkeys(record.arms)]
    arms = [run for run in arms if run.status != STOPPED]  # `lab.report.race` says which
    extra = [run for run in named if run.identity not in record.arms]
    name = f"{record.identity}-{text_hash(*(run.identity for run in extra), digits=8)}" if extra else record.identity
    return select(name, record.name, runs_dir, arms + extra, record)


def named(runs_dir: Path, name: str) -> Selection:
    """The arms of a sweep, or else a run, of that name. Raises `LabError` where there is neither."""
    is_run = (runs_dir / name / "run.json").is_file() and not (runs_dir / "sweeps" / f"{name}.json").is_file()
    return choose(runs_dir, None, [name]) if is_run else choose(runs_dir, name)


def not_started(runs_dir: Path, identity: str) -> Run:
    """The stand-in for an arm without a record."""
    reason = runs.why_no_record(runs.folder(runs_dir, identity))
    return Run(identity, identity, {}, "", status=NOT_STARTED, error=reason)


def find_sweep(runs_dir: Path, asked: str | None) -> Sweep | None:
    """Find a sweep by id, else the latest of that name; None asks for the latest there is, if any."""
    known = runs.all_sweeps(runs_dir)
    if asked in (None, "latest"):
        if asked and not known:
            raise LabError(f"--sweep=latest: {runs_dir} holds no sweep. Without --sweep all finished runs are reported.")
        return known[-1] if known else None
    matching = [s for s in known if s.identity == asked] or [s for s in known if s.name == asked]
    if not matching:
        legal = [s.identity for s in known] + [s.name for s in known]
        there = ", ".join(s.identity for s in known[-8:]) or "none"
        raise LabError(f"--sweep={asked}: {runs_dir} holds no such sweep.{did_you_mean(asked, legal)} Latest there: {there}.")
    return matching[-1]


def load_named(runs_dir: Path, identity: str, alone: bool) -> Run:
    """Load a run that was asked for by its id. Raises `LabError` if it is not there, or, asked for alone, cannot be read."""
    legal = [path.parent.name for path in runs_dir.glob("*/run.json")]
    run = None if identity not in legal else runs.load(runs_dir, identity) if alone else warned_of(runs.look(runs_dir, identity))
    if run is None:
        raise LabError(f"--run={identity}: {runs_dir} holds no such run.{did_you_mean(identity, legal)}")
    return run


def warned_of(run: Run | None) -> Run | None:
    """The same run; a line says so if it cannot be read."""
    if run is not None and run.status == UNREADABLE:
        log.warning("%s It is reported without numbers.", run.error)
    return run


def select(name: str, title: str, runs_dir: Path, found: Sequence[Run], sweep: Sweep | None) -> Selection:
    """Label the arms by what differs between them."""
    configs = [short_values(run.config) for run in found]
    starts = shared_starts(found, configs)
    known = [values for values in configs if values]
    keys = label_keys(known, sweep.dials if sweep else ())
    usual = usual_values(known, keys)
    arms = []
    for run, values in zip(found, configs, strict=True):
        told = told_keys(values, keys, known)
        seedless = {key: value for key, value in values.items() if key != "seed"}
        marked = RANDOM_WEIGHTS if run.facts.get("random_weights") else ""
        arms.append(
            Row(
                run=run,
                folder=runs.folder(runs_dir, run.identity),
                label=named_starts(label(values, told, usual) or run.name, starts) + marked,
                group=values_hash(seedless, 8) if values else run.identity,
                group_label=named_starts(label(seedless, told, usual) or "all seeds", starts) + marked,
                zero_shot=is_zero_shot(values),
            )
        )
    times = Counter(arm.label for arm in arms)
    arms = [replace(arm, label=f"{arm.label} ({arm.run.identity})") if times[arm.label] > 1 else arm for arm in arms]
    trained = [values for values in known if not is_zero_shot(values)]
    return Selection(name, title, runs_dir, tuple(arms), sweep, label(usual, keys, {}), besides(trained, keys))


def shared_starts(found: Sequence[Run], configs: Sequence[dict[str, str]]) -> dict[str, str]:
    """Let arms that went on from replicates of one arm say that they went on from the same: by a digest, whose name is returned.

    Only where those are arms of the selection too.
    """
    known = dict(zip((run.identity for run in found), configs, strict=True))
    names: dict[str, str] = {}
    for values in configs:
        start = known.get(values.get("model.start", ""))
        if start is not None:
            seedless = {key: value for key, value in start.items() if key != "seed"}
            values["model.start"] = values_hash(seedless, 8)
            names[values["model.start"]] = f"({start.get('lora.name', 'arm')})"
    return names


def named_starts(text: str, starts: dict[str, str]) -> str:
    """A label with names in place of digests."""
    for digest, name in starts.items():
        text = text.replace(digest, name)
    return text


def short_values(config: dict[str, Any]) -> dict[str, str]:
    """What made a run's weights: flat keys, values as short text; of a mixture a key for each part."""
    values = {key: value for key, value in identity_values(config).items() if (key, value) != ("lora.r", None)}
    values |= {f"data.parts.{name}": told for name, told in map(told_part, values.pop("data.parts", ()))}
    return {key: value if isinstance(value, str) else json.dumps(value, separators=(",", ":")).replace('"', "") for key, value in values.items()}


def told_part(spelled: str) -> tuple[str, str]:
    """The name of a part of a mixture, and what else was said of it, files by their names."""
    data, *words = shlex.split(spelled)
    keys: dict[str, str] = {key: value for key, _, value in (word.partition("=") for word in words)}
    keys |= {key: Path(keys[key]).name for key in ("path", "root") if key in keys}
    return keys.get("as", data), " ".join([data, *(f"{key}={value}" for key, value in keys.items() if key not in ("as", "sha256"))])


def label_keys(configs: Sequence[dict[str, str]], dials: Sequence[str]) -> tuple[str, ...]:
    """Choose the fewest keys that tell the arms apart.

    Keys are tried in the order: the sweep's own dials, names of dials, fields of dials, the rest, `seed`. One is taken if
    it splits arms that the keys before it leave together.
    """
    wanted = {f"{key}.name" if key in DIALS else key: i for i, key in enumerate(dials)}

    def rank(key: str) -> tuple[bool, int, bool, int, str]:
        dial = key.partition(".")[0]
        place = DIALS.index(dial) if dial in DIALS else len(DIALS)
        return key == "seed", wanted.get(key, len(wanted)), not key.endswith(".name"), place, key

    taken: list[str] = []
    apart = 1
    for key in sorted(differing(configs), key=rank):
        split = len({tuple(values.get(k) for k in (*taken, key)) for values in configs})
        if split > apart:
            taken, apart = [*taken, key], split
    return tuple(taken)


def usual_values(configs: Sequence[dict[str, str]], keys: Sequence[str]) -> dict[str, str]:
    """The value of each key but the seed that more than half of the arms have: said once instead of in every label."""
    usual = {}
    for key in keys:
        if key == "seed":
            continue
        value, times = Counter(values.get(key, "") for values in configs).most_common(1)[0]
        if 2 * times > len(configs):
            usual[key] = value
    return usual


def told_keys(values: dict[str, str], keys: Sequence[str], configs: Sequence[dict[str, str]]) -> tuple[str, ...]:
    """Leave out a dial's fields that the dial's name settles, as `lora=none` settles `lora.r`, and a seed that draws nothing."""

    def settled(key: str) -> bool:
        name = f"{key.rpartition('.')[0]}.name"
        alike = [other for other in configs if other.get(name) == values.get(name)]
        return key != name and name in keys and len({other.get(key) for other in alike}) == 1

    return tuple(key for key in keys if not settled(key) and not (key == "seed" and is_zero_shot(values)))


def label(values: dict[str, str], keys: Sequence[str], usual: dict[str, str]) -> str:
    """Write an arm's dials as a command line takes them, `lora=llm optim.lr=0.002`; usual ones only where all are."""
    there = [key for key in keys if key in values]
    told = [key for key in there if values[key] != usual.get(key)] or there
    return " ".join(f"{key.removesuffix('.name')}={values[key]}" for key in told)


def besides(configs: Sequence[dict[str, str]], keys: Sequence[str]) -> tuple[str, ...]:
    """Keys that differ without being in the labels, but for fields of a dial whose name is there."""
    named = tuple(key.removesuffix("name") for key in keys if key.endswith(".name"))
    return tuple(key for key in sorted(differing(configs)) if key not in keys and not key.startswith(named or ("\0",)))


def is_zero_shot(values: dict[str, str]) -> bool:
    """Whether the run answers with the untouched base model."""
    steps = {values.get("trainer.max_steps", "null"), values.get("trainer.max_epochs", "null")}
    return values.get("lora.r") == "0" and steps <= {"0", "0.0", "null"}
