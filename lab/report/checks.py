"""What a reader must know before believing a table: arms that did not see the same data, tokens, libraries or an idle machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from lab import plugins
from lab.config import MatchOn
from lab.report.formatting import arms, count
from lab.report.kinds import page_of
from lab.report.matching import Account, breaches, mixture_of
from lab.report.measure import Measured, Result
from lab.report.select_runs import NOT_STARTED, Row, Selection

AGREEMENT = 1e-6
"""Largest difference between a recorded metric and the same one recomputed from the predictions."""
NAMED = 4
"""Most arms that one remark names."""


def remarks(selection: Selection, results: Sequence[Result]) -> list[str]:
    """All that is wrong or odd with the arms of a report, in sentences; an empty list if nothing is."""
    measured = [result for result in results if isinstance(result, Measured)]
    found: list[str] = []
    checks = (different_base, different_questions, different_training, smaller_batches, some_recompute)
    for check in (*checks, different_tokens, of_the_kind, unlike_the_record, no_interval):
        found += check(measured)
    found += broken_requirements(measured) + not_imported(measured)
    found += different_versions([m.arm for m in measured]) + shared_machine(selection.arms, measured)
    if selection.also and len(measured) > 1:
        listed = ", ".join(selection.also)
        found.append(f"Besides the dials in their names, arms differ in {listed}: a difference may be due to these.")
    return found


def not_imported(measured: Sequence[Measured]) -> list[str]:
    """Plugins of the runs that were not given to this report, and the metrics that it cannot show without them."""
    found: dict[str, None] = {}
    for m in measured:
        recorded = [name.partition("metric ")[2].split("/") for name in m.arm.run.facts.get("asked", {}) if name.startswith("metric ")]
        metrics = [metric for kind, metric in recorded if kind == m.kind_name and metric not in m.kind.metrics]
        lacking = plugins.missing(m.arm.run.config)
        if metrics or lacking:
            named_so = f" {' '.join(lacking)}" if lacking else ""
            without = f"without {', '.join(metrics)}, which came from plugins" if metrics else "without the plugins that runs were made with"
            found[f"This report is {without}: a report executes no code that a run names. Give it as --plugins{named_so}."] = None
    return list(found)


def different_base(measured: Sequence[Measured]) -> list[str]:
    """Arms that name one checkpoint, whose weights or config were others when some of them ran."""
    found = []
    for those in split_by(measured, lambda m: m.arm.run.config.get("model")).values():
        groups = split_by([m for m in those if fact(m.arm, "realised")], lambda m: fact(m.arm, "realised", "parts", "base"))
        if len(groups) > 1:
            found.append(
                f"model.path={those[0].arm.run.config['model'].get('path')} held another checkpoint when some arms ran: "
                f"{contrast(groups)}. Do not compare them; trainer.if_finished=again trains an arm anew."
            )
    return found


def different_questions(measured: Sequence[Measured]) -> list[str]:
    """Dev questions, their labels, or their order."""
    by_items = split_by(measured, lambda m: m.items)
    if len(by_items) > 1:
        return [f"Arms were not asked the same dev questions (ids or labels differ): {contrast(by_items)}. Do not compare them."]
    by_order = split_by(measured, lambda m: m.order)
    if len(by_order) > 1:
        return [f"Arms answered the same dev questions in another order: {contrast(by_order)}. Pairing by id is unaffected."]
    return []


def different_training(measured: Sequence[Measured]) -> list[str]:
    """Training samples, minival samples, and how many examples training saw."""
    trained = [m for m in measured if not m.arm.zero_shot]
    found = []
    for split in ("train", "minival"):
        groups = split_by(trained, lambda m, split=split: fact(m.arm, "data", "samples", split))
        if len(groups) > 1:
            found.append(f"Arms did not have the same {split} samples, or had them in another order: {contrast(groups)}.")
    groups = split_by(trained, lambda m: mixture_of(fact(m.arm, "data") or {}))
    if len(groups) > 1:
        found.append(f"Arms were not trained on the same mixture of sources: {contrast(groups)}. What each saw stands under By source.")
    groups = split_by(trained, lambda m: fact(m.arm, "data", "order", "examples_seen"))
    if len(groups) > 1:
        numbers = ", ".join(f"{arms(len(those))} on {count(seen)}" for seen, those in groups.items())
        found.append(f"Arms were trained on different numbers of examples ({numbers}).")
    return found


def smaller_batches(measured: Sequence[Measured]) -> list[str]:
    """Arms that ran out of memory and went on with fewer samples per forward."""
    those = [m for m in measured if fact(m.arm, "out_of_memory")]
    if not those:
        return []
    return [
        f"Out of memory, {named(those)} went on with smaller batches and as many samples per optimizer step: the same samples in "
        "the same order, sums in another one."
    ]


def some_recompute(measured: Sequence[Measured]) -> list[str]:
    """Arms of which some needed gradient checkpointing and others did not."""
    groups = split_by(measured, lambda m: fact(m.arm, "gradient_checkpointing", "on"))
    those = groups.get(True, [])
    if not those or not groups.get(False):
        return []
    return [
        f"Gradient checkpointing was on for {named(those)} and off for others: sums in another order, and slower steps. "
        "trainer.gradient_checkpointing=true has it on for all."
    ]


def different_tokens(measured: Sequence[Measured]) -> list[str]:
    """Visual tokens that differ although no dial that could change them does."""
    if len(split_by(measured, lambda m: m.tokens)) < 2:
        return []
    sections = ("vision_tokens", "model", "data")
    explained = split_by(measured, lambda m: [m.arm.run.config.get(section) for section in sections])
    unexplained = [those for those in explained.values() if len(split_by(those, lambda m: m.tokens)) > 1]
    if not unexplained:
        return []
    groups = split_by(unexplained[0], lambda m: f"{m.tokens[0]:.1f} tokens an image")
    return [f"Arms saw different numbers of visual tokens, and no dial says so: {contrast(groups, show_value=True)}."]


def account(m: Measured) -> Account:
    """An arm's line in the matched-arm ledger; its tokens are those of its predictions."""
    run, (mean, least, most) = m.arm.run, m.tokens
    counted = {"visual_tokens/mean": mean, "visual_tokens/min": float(least), "visual_tokens/max": float(most)}
    seed = run.config.get("seed", 0)
    return Account.of(m.arm.label, m.arm.group, not m.arm.zero_shot, run.facts, {**run.metrics, **counted}, seed)


def broken_requirements(measured: Sequence[Measured]) -> list[str]:
    """What `sweep.require` asked for and the arms' records do not keep."""
    asked = {name for m in measured for name in (m.arm.run.config.get("sweep") or {}).get("require", [])}
    found = breaches([account(m) for m in measured], [respect for respect in MatchOn if respect.value in asked])
    return [paragraph.partition("\n")[0] + " The ledger under Cost has them arm by arm." for paragraph in found]


def of_the_kind(measured: Sequence[Measured]) -> list[str]:
    """What the page of the arms' kind of answer has to say."""
    return [remark for kind, those in split_by(measured, lambda m: m.kind.name).items() for remark in page_of(kind).remarks(those)]


def unlike_the_record(measured: Sequence[Measured]) -> list[str]:
    """Metrics recorded by the run that its predictions do not give."""
    found = []
    for m in measured:
        for name in m.metrics:
            recorded = m.arm.run.metrics.get(f"dev/{name}")
            undefined = recorded is not None and math.isnan(recorded) and math.isnan(m.metrics[name])
            if recorded is not None and not undefined and not math.isclose(recorded, m.metrics[name], abs_tol=AGREEMENT):
                found.append(
                    f"{m.arm.label}: run.json records dev/{name} = {recorded:.6f}, its predictions give {m.metrics[name]:.6f}. "
                    "The page shows the latter; one of the two files was changed after the run."
                )
                break
    return found


def no_interval(measured: Sequence[Measured]) -> list[str]:
    """Arms whose numbers have no interval, and why."""
    groups = split_by([m for m in measured if m.no_interval], lambda m: m.no_interval)
    return [f"No interval for {named(those)}: {reason}" for reason, those in groups.items()]


def different_versions(those: Sequence[Row]) -> list[str]:
    """Libraries, interpreter or platform that differ between arms."""
    names = sorted({name for arm in those for name in arm.run.facts.get("versions", {})})
    found = []
    for name in names:
        values = sorted({str(fact(arm, "versions", name)) for arm in those})
        if len(values) > 1:
            found.append(f"{name} {' / '.join(values)}")
    return [f"Arms ran on different versions: {'; '.join(found)}."] if found else []


def shared_machine(every: Sequence[Row], measured: Sequence[Measured]) -> list[str]:
    """Latencies that were measured, at the end of an arm, while another arm ran on the same host, or on several hosts."""
    asked = [m.arm for m in measured if "latency/p50_ms" in m.arm.run.metrics]
    alone = [arm for arm in asked if arm.run.metrics.get("latency/visits", 1) == 1]  # more: timed in turn, after all had ended
    timed = [(arm, seconds(arm.run.ended)) for arm in alone if arm.run.started and arm.run.ended]
    spans = [
        (arm.run.process.get("host"), seconds(arm.run.started), seconds(arm.run.ended), arm.run.identity)
        for arm in every
        if arm.run.status != NOT_STARTED and arm.run.started and arm.run.ended
    ]
    spans.sort(key=lambda span: span[1])
    loaded = []
    for arm, end in timed:
        host = arm.run.process.get("host")
        if host and any(h == host and start < end < stop and name != arm.run.identity for h, start, stop, name in spans):
            loaded.append(arm)
    found = []
    if loaded:
        found.append(
            f"Latency and examples/s of {len(loaded)} of {arms(len(timed))} were measured while another arm ran on the same "
            "machine. Compare costs only among arms measured alone."
        )
    hosts = sorted({str(arm.run.process.get("host")) for arm, _ in timed})
    if len(hosts) > 1:
        found.append(f"Latency was measured on {len(hosts)} different machines ({', '.join(hosts[:NAMED])}).")
    return found


def seconds(moment: str) -> float:
    """Unix time of an ISO 8601 moment."""
    return datetime.fromisoformat(moment).timestamp()


def fact(arm: Row, *keys: str) -> Any:
    """A nested value of `run.facts`, or None."""
    value: Any = arm.run.facts
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def split_by(measured: Sequence[Measured], key: Callable[[Measured], Any]) -> dict[Any, list[Measured]]:
    """Group arms by a value; lists and dicts count by their text."""
    groups: dict[Any, list[Measured]] = {}
    for m in measured:
        value = key(m)
        groups.setdefault(repr(value) if isinstance(value, list | dict) else value, []).append(m)
    return groups


def contrast(groups: dict[Any, list[Measured]], show_value: bool = False) -> str:
    """`a, b against c`, most arms first."""
    ordered = sorted(groups.items(), key=lambda item: -len(item[1]))
    return " against ".join(f"{named(those)} ({value})" if show_value else named(those) for value, those in ordered)


def named(measured: Sequence[Measured]) -> str:
    """The labels of a few arms, and how many more there are."""
    labels = [m.arm.label for m in measured[:NAMED]]
    more = len(measured) - len(labels)
    return ", ".join(labels) + (f" and {more} more" if more > 0 else "")
