"""Replies to a benchmark marked by its rule: rows, and what they come to, with 95 % intervals that know which questions share a picture.

Numbers by name: the benchmark's headline (`accuracy`, `anls`, ...), `unparsed`, the headline of each category as `<headline>/<value>`; where the
benchmark has them `accuracy_micro` and `accuracy_macro`, or `precision`, `recall`, `f1` and `yes_share`, these by track as `f1/<track>` too.
An interval is `<name>_low` and `<name>_high`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lab import data, paths
from lab.benchmark_specs import ALIASES, SPECS, Spec
from lab.config import DataDial
from lab.data import manifest
from lab.data.benchmarks.loading import opened
from lab.data.benchmarks.questions import Benchmark, Question
from lab.data.faults import BadRecord, shown
from lab.errors import ConfigError, DataError, did_you_mean
from lab.records import Skipped
from lab.statistics import proportions
from lab.statistics.intervals import LEVEL
from lab.statistics.marking import RULES, Marked
from lab.statistics.resampling import LEAST_RESAMPLES, cluster_sums, drawn_sums, quantiles

Counts = np.ndarray
"""What a number is made of, of each question, float [n, k]."""
NONE: Mapping[str, str] = {}
SHOWN = 3
"""Ids that an error names."""


def dial_of(words: Sequence[str]) -> DataDial:
    """The data option of words as they are typed, `data=SET data.root=FOLDER`. Raises `ConfigError`."""
    given = {word.partition("=")[0]: word.partition("=")[2] for word in words}
    if wrong := [key for key in given if key != "data" and not key.startswith("data.")]:
        raise ConfigError(f"{wrong[0]}: replies are marked by data=SET and its keys, such as data.root=FOLDER. Take {wrong[0]} out.")
    name, legal = ALIASES.get(given["data"], given["data"]), (*SPECS, "nlvr", "nlvr2")
    if name not in legal:
        raise ConfigError(f"data={name}: replies are marked to {', '.join(legal)}.{did_you_mean(name, legal)}")
    dial = data.dial_of(name, [word.removeprefix("data.") for word in words if not word.startswith("data=")], f"data={name}")
    return dial if dial.root is None else replace(dial, root=paths.expanded(dial.root, "data.root"))


def replies_of(path: Path) -> dict[str, str]:
    """The replies of a file of JSON Lines by id. Raises `DataError`."""
    found: dict[str, str] = {}
    for source, row in manifest.objects(path):
        if isinstance(row, BadRecord):
            raise row
        name, reply = row.get("id"), row.get("reply")
        if isinstance(name, bool) or not isinstance(name, str | int) or not isinstance(reply, str):
            raise DataError(f'{source}: {shown(row)} is given; {{"id": ..., "reply": "..."}} is legal.')
        if str(name) in found:
            raise DataError(f"{source}: {name} is answered a second time.")
        found[str(name)] = reply
    return found


def refuse_to_replace(path: Path) -> None:
    """Raise a `DataError` for a file that is no result of this command."""
    if not path.exists():
        return
    try:
        ours = "rule" in json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError):
        ours = False
    if not ours:
        raise DataError(f"--out {path}: there is a file that is no result of lab score. Give another name, or move it away.")


def lines(found: Mapping[str, Any]) -> list[str]:
    """A result for a person."""
    rule, metrics = found["rule"], found["metrics"]
    by = f"profile {found['profile']}, rule {rule['name']} version {rule['version']}"
    told = [f"{name} {metrics[name]:.4f}{within(metrics, name)}" for name in metrics if not name.endswith(("_low", "_high"))]
    submission = [f"no labels here: the official submission is {found['submission']}"] if "submission" in found else []
    left_out = [f"left out: {len(found['left_out'])}, the first: {one['id']}: {one['reason']}" for one in found["left_out"][:1]]
    head = f"{found['data']} ({found['source']}): n={found['n']} (officially {found['n_official']}), {by}"
    return [head, *(f"  {line}" for line in (*told, *submission, *left_out, *found.get("remarks", [])))]


def within(metrics: Mapping[str, float], name: str) -> str:
    return f" [{metrics[f'{name}_low']:.4f}, {metrics[f'{name}_high']:.4f}]" if f"{name}_low" in metrics else ""


def result(dial: DataDial, replies: Mapping[str, str], untaken: Mapping[str, str] = NONE, found: Benchmark | None = None) -> dict[str, Any]:
    """What replies by id come to, as a record holds it. untaken: questions that a model could not be asked, with the reason.

    found: the questions, where they are open already. Raises `DataError` for questions without a reply, and for replies to none.
    """
    spec, found = SPECS[dial.name], found or opened(dial)
    questions = [question for question in found.questions if question.name not in untaken]
    lost = [Skipped(question.name, untaken[question.name]) for question in found.questions if question.name in untaken]
    complete([question.name for question in questions], replies, {skipped.source for skipped in found.left_out})
    profile, rule = dial.profile or "ours", RULES[spec.rule]
    marked = [rule(replies[question.name], question.references, profile, question.asked) for question in questions]
    rows = zip(questions, marked, strict=True)
    return {
        "data": dial.name,
        "source": found.source,
        "n": len(questions),
        "n_official": found.official,
        "profile": profile,
        "rule": {"name": rule.name, "version": rule.version},
        "unparsed": sum(each.read_as is None for each in marked) / len(marked),
        "metrics": numbers(spec, questions, marked, profile),
        "remarks": [rule.remarks[profile]] if profile in rule.remarks else [],
        "left_out": [{"id": skipped.source, "reason": skipped.reason} for skipped in (*found.left_out, *lost)],
        "rows": [{"id": one.name, "reply": replies[one.name], "read_as": each.read_as, "score": each.score} for one, each in rows],
    }


def complete(names: Sequence[str], replies: Mapping[str, str], left_out: set[str]) -> None:
    """Refuse replies that are not one a question; those to rows that are left out are let be."""
    if missing := [name for name in names if name not in replies]:
        raise DataError(f"--answers: {len(missing)} of {len(names)} questions have no reply: {listed(missing)}. All must have one.")
    if unknown := [name for name in replies if name not in {*names, *left_out}]:
        raise DataError(f"--answers: {len(unknown)} replies are to questions that are not asked: {listed(unknown)}. Take them out.")


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def numbers(spec: Spec, questions: Sequence[Question], marked: Sequence[Marked], profile: str) -> dict[str, float]:
    """Every number of a benchmark with its interval."""
    cluster = np.unique([question.cluster for question in questions], return_inverse=True)[1]
    score = np.array([each.score for each in marked], dtype=np.float64)
    found = told("unparsed", shares(np.array([each.read_as is None for each in marked], dtype=np.float64)), cluster)
    if spec.rule == "yes_no":
        return found | by_track(questions, marked, score)
    found |= told(spec.headline, shares(score), cluster)
    for values in categories(questions).values():
        for value, places in values.items():
            found |= told(f"{spec.headline}/{value}", shares(score[places]), cluster[places])
    if spec.macro:
        rows, mean = means_of(score, list(categories(questions).get(spec.macro, {}).values()))
        macro = told("accuracy_macro", rows, cluster, mean)
        micro = {f"accuracy_micro{end}": found[f"accuracy{end}"] for end in ("", "_low", "_high") if f"accuracy{end}" in found}
        found |= micro | macro | ({key.replace("_macro", ""): value for key, value in macro.items()} if profile == "lmms" else {})
    return found


def categories(questions: Sequence[Question]) -> dict[str, dict[str, np.ndarray]]:
    """Places of the questions of each value of each category."""
    found: dict[str, dict[str, list[int]]] = {}
    for place, question in enumerate(questions):
        for category, value in question.categories:
            found.setdefault(category, {}).setdefault(value.removesuffix("_test"), []).append(place)
    return {category: {value: np.array(places) for value, places in values.items()} for category, values in found.items()}


def shares(score: np.ndarray) -> Counts:
    return np.stack([score, np.ones(len(score))], axis=1)


def ratio(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return sums[..., 0] / sums[..., 1]


def means_of(score: np.ndarray, groups: Sequence[np.ndarray]) -> tuple[Counts, Callable[[np.ndarray], np.ndarray]]:
    """The mean over groups of their means; a resample without any question of a group has the mean of the others."""
    rows = np.zeros((len(score), len(groups), 2))
    for k, places in enumerate(groups):
        rows[places, k] = shares(score[places])
    return rows.reshape(len(score), -1), lambda sums: np.nanmean(ratio(sums.reshape(*sums.shape[:-1], len(groups), 2)), axis=-1)


def by_track(questions: Sequence[Question], marked: Sequence[Marked], score: np.ndarray) -> dict[str, float]:
    """POPE's: of all questions, one counted in each of its tracks, and by track."""
    tracks = categories(questions).get("track", {})
    places = np.concatenate(list(tracks.values())) if tracks else np.arange(len(questions))
    found: dict[str, float] = {}
    for suffix, chosen in {"": places, **{f"/{track}": chosen for track, chosen in tracks.items()}}.items():
        cluster = np.unique([questions[place].cluster for place in chosen], return_inverse=True)[1]
        yes = np.array([[marked[place].read_as == "yes", "yes" in map(str.lower, questions[place].references)] for place in chosen], dtype=np.float64)
        said, true = yes.T
        found |= told(f"accuracy{suffix}", shares(score[chosen]), cluster)
        found |= told(f"precision{suffix}", np.stack([said * true, said], axis=1), cluster)
        found |= told(f"recall{suffix}", np.stack([said * true, true], axis=1), cluster)
        found |= told(f"f1{suffix}", np.stack([2 * said * true, said + true], axis=1), cluster)
        found |= told(f"yes_share{suffix}", shares(said), cluster)
    return found


def told(name: str, rows: Counts, cluster: np.ndarray, value: Callable[[np.ndarray], np.ndarray] = ratio) -> dict[str, float]:
    """A number and the ends of its interval; without ends where one cluster, or all resamples alike, say nothing of it.

    Shares of right and wrong have the exact interval of `lab.statistics.proportions`, other numbers the bootstrap over clusters.
    """
    estimate = float(value(rows.sum(axis=0)))
    if not np.isfinite(estimate):
        return {}
    _, cluster = np.unique(cluster, return_inverse=True)
    if cluster.max() == 0:
        return {name: estimate}
    sums = cluster_sums(rows, cluster)
    if value is ratio and np.isin(rows, (0.0, 1.0)).all() and rows[:, 1].all():
        low, high = proportions.interval(sums, LEVEL)
    else:
        drawn = np.concatenate([value(chunk) for _, chunk in drawn_sums(sums, LEAST_RESAMPLES, seed=0)])
        low, high = quantiles(drawn[np.isfinite(drawn)], LEVEL)
    return {name: estimate} if float(low) == float(high) else {name: estimate, f"{name}_low": float(low), f"{name}_high": float(high)}
