"""Replies to benchmarks that finished runs have stored, marked anew by the rules of today: no model, no torch.

Replies are `RUN/answers/<set>.jsonl` where it is there, else the run's predictions of the set, or those of `lab evaluate`. What they come to
is written to `RUN/evaluations/<set>.json` and, as `<set>/<metric>` with `<set>/rule_version`, to the run's record, from where `lab sync`
delivers it; by another profile than the run's own to `OUT/` alone, where `rescored.md` and `rescored.json` tell the versions of both rules.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lab import data
from lab.answers import predictions
from lab.benchmark_specs import SPECS
from lab.config import DataDial
from lab.data import manifest
from lab.data.benchmarks import confidence, marks
from lab.data.faults import BadRecord
from lab.errors import DataError
from lab.host.files import write_atomically
from lab.report.formatting import NONE, percent
from lab.store import results, runs
from lab.store.runs import Run

log = logging.getLogger(__name__)

COLUMNS = ("set", "n (officially)", "left out", "score, % [95 %]", "unparsed, %", "profile", "rule, version")
SAYS = (
    "Replies marked by the benchmark's rule; intervals know which questions share a picture. Unparsed replies are wrong and a share of "
    "their own; rows that could not be asked are left out and named in RUN/evaluations."
)


def rescore(runs_dir: Path, names: Sequence[str], profile: str | None, out: Path) -> tuple[Path, int]:
    """Mark the stored replies of some runs, or of all; return the table's path and how many sets were marked. Raises `DataError` for none."""
    rows: list[dict[str, Any]] = []
    for run in runs.finished_runs(runs_dir, names):
        for name, dial, replies in answered(run, runs.folder(runs_dir, run.identity)):
            asked = dial if profile is None else replace(dial, profile=profile)
            rows.append(marked(runs_dir, run, name, asked, replies, keep=asked.profile == dial.profile))
    if not rows:
        raise DataError(f"--rescore: no finished run in {runs_dir} has answered any of {', '.join(SPECS)}.")
    write_atomically(out / "rescored.json", json.dumps(rows, indent=1, ensure_ascii=False) + "\n")
    write_atomically(out / "rescored.md", table(rows))
    return out / "rescored.md", len(rows)


def answered(run: Run, folder: Path) -> Iterator[tuple[str, DataDial, dict[str, str]]]:
    """The benchmarks that a run has answered, by the name of their files: their data option, and the replies by id."""
    own = run.config.get("data", {})
    options = [(own["name"], data.stored(own), runs.own_predictions(run, folder, "dev"))] if own.get("name") in SPECS else []
    others = runs.other_predictions(folder, own.get("name", ""))
    for also in map(data.option, run.config.get("evaluation", {}).get("also", [])):
        options += [(also.name, also.dial, others.get(also.name))] if also.dial.name in SPECS else []
    options += [one for one in evaluated(folder) if one[0] not in [name for name, *_ in options]]
    for name, dial, scored in options:
        written = folder / "answers" / f"{name}.jsonl"
        if written.exists():
            yield name, dial, marks.replies_of(written)
        elif scored is not None and scored.exists():
            table = predictions.read(scored)
            yield name, dial, dict(zip(table.sample_id.tolist(), map(str, table.answered), strict=True))


def marked(runs_dir: Path, run: Run, name: str, dial: DataDial, replies: Mapping[str, str], keep: bool) -> dict[str, Any]:
    """Mark one set's replies; the result without its rows, with the one before as `before`. keep: it is written to the run."""
    folder = runs.folder(runs_dir, run.identity)
    place = folder / "evaluations" / f"{name}.json"
    before = stored(folder).get(name)
    untaken = {one["id"]: one["reason"] for one in (before or {}).get("left_out", ()) if one["id"] not in replies}
    opened = marks.opened(dial)
    found = marks.result(dial, replies, untaken, found=opened)
    rows = found.pop("rows")
    found |= {key: value for key, value in (before or {}).items() if key not in found}  # what is known of the asking, not of the rule
    more: dict[str, float] = {}
    if "confidence" in found and (sure := confidence.of(scores_of(folder / "answers" / f"{name}.jsonl"), rows)) is not None:
        found["confidence"] = sure
        more = {f"{name}/{key}": value for key, value in sure.items() if key != "n"}
    if "judge" in found:
        from lab.judge import verdicts

        found["judge"] = verdicts.held_anew(found["judge"], opened.questions, rows, place.with_suffix(""), write=keep)
        more |= verdicts.numbers(name, found["judge"])
    if keep and place.is_dir():
        log.warning("%s: a folder stands where this set's result is written; its marks are in rescored.md alone", place)
    elif keep:
        with runs.held(folder):
            write_atomically(place, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
            current = runs.load(runs_dir, run.identity)
            assert current is not None  # it was found, and is held
            numbers = {**found["metrics"], "rule_version": float(found["rule"]["version"])}
            current.metrics |= {f"{name}/{metric}": value for metric, value in numbers.items()} | more
            runs.save(runs_dir, current)
    return {"run": run.identity, "name": run.name, **found, "before": before}


def scores_of(path: Path) -> dict[str, dict[str, Any]]:
    """What replies of a file say beside their words, by id; nothing where there is no such file."""
    rows = [row for _, row in manifest.objects(path)] if path.exists() else []
    return {str(row["id"]): row["scores"] for row in rows if not isinstance(row, BadRecord) and isinstance(row.get("scores"), dict)}


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    """The results that lie in a run's folder, by the name of their file."""
    places = sorted((folder / "evaluations").glob("*.json"))
    return {place.stem: facts for place in places if results.marked(facts := results.read(place))}


def evaluated(folder: Path) -> list[tuple[str, DataDial, Path]]:
    """The benchmarks that `lab evaluate` asked under the run's contract: name, data option and predictions."""
    found = []
    for place in sorted((folder / "evaluations").glob("*.parquet")):
        facts = results.read(place.with_suffix(".json"))
        keys = [word for word in facts.get("overrides", ()) if word.startswith(("data=", "data."))]
        if any(word.startswith("data=") for word in keys) and facts["data"]["name"] in SPECS and not facts["contract_broken"]:
            dial = marks.dial_of(keys)
            found.append((dial.name, dial, place))
    return found


def cells(found: Mapping[str, Any]) -> tuple[str, ...]:
    """A result in `COLUMNS`."""
    return (
        f"{found['data']} ({found['source']})", f"{found['n']} ({found['n_official']})", str(len(found["left_out"])), score(found),
        percent(found["unparsed"]), found["profile"], version(found),
    )  # fmt: skip


def score(found: Mapping[str, Any] | None) -> str:
    """The headline with its interval."""
    if found is None:
        return NONE
    metrics, name = found["metrics"], SPECS[found["data"]].headline
    ends = [metrics.get(f"{name}{end}") for end in ("_low", "_high")]
    return percent(metrics[name]) + ("" if None in ends else f" [{percent(ends[0])}, {percent(ends[1])}]")


JUDGED = ("a judge's mean, % [95 %]", "judge: model, n, agreement with the rule, %")


def judged(found: Mapping[str, Any]) -> tuple[str, str]:
    """What a judge says beside the rule, in `JUDGED`."""
    facts = found.get("judge")
    if facts is None:
        return NONE, NONE
    ends = [facts.get(f"mean{end}") for end in ("_low", "_high")]
    mean = percent(facts["mean"]) + ("" if None in ends else f" [{percent(ends[0])}, {percent(ends[1])}]")
    return mean, f"{facts['model']}, {facts['n']}, {percent(facts['agreement'])}"


def version(found: Mapping[str, Any] | None) -> str:
    return NONE if found is None else f"{found['rule']['name']}, {found['rule']['version']}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The results in Markdown, beside those before."""
    columns = ("run", *COLUMNS, "before: score, % [95 %]", "before: profile", "before: rule, version")
    lines = ["# Rescored", "", SAYS, "", f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for row in rows:
        before = row["before"]
        last = (score(before), NONE if before is None else before["profile"], version(before))
        lines.append(f"| {' | '.join((row['run'], *cells(row), *last))} |")
    remarks = dict.fromkeys(f"{row['data']}, profile {row['profile']}: {remark}." for row in rows for remark in row["remarks"])
    return "\n".join([*lines, "", *remarks]).rstrip() + "\n"
