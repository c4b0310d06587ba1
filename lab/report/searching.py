"""What a search may say of the sample that it chose, in the report and in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lab.report.document import Block, Paragraph, Strong
from lab.report.select_runs import Selection


def blocks(selection: Selection) -> list[Block]:
    """One paragraph where the arms are the samples of a search."""
    search = selection.sweep.facts.get("search") if selection.sweep else None
    labels = {arm.run.identity: arm.label for arm in selection.arms}
    return [Paragraph((Strong("Search."), " ", " ".join(sentences(search, labels.__getitem__))))] if search else []


def sentences(search: Mapping[str, Any], name_of: Callable[[str], str]) -> list[str]:
    """Among how many samples, by what and how the best was chosen; of several objectives, the Pareto set.

    search: `Sweep.facts["search"]`. name_of: an arm's name, of its run's identity.
    """
    by = " and ".join(f"{metric} ({way})" for metric, way in zip(search["metrics"], search["directions"], strict=True))
    failed = f", {search['failed']} failed" if search["failed"] else ""
    among = f"{search['samples']} samples by {by} ({search['sampler']}, seed {search['seed']}{failed})"
    best = [f"{', '.join(map(name_of, one['runs']))} ({', '.join(f'{value:.4g}' for value in one['values'])})" for one in search["best"]]
    if not best:
        return [f"Nothing is chosen: of {among} none has finished."]
    if len(search["metrics"]) > 1:
        chosen = f"The Pareto set of {among} has {len(best)}: {'; '.join(best)}."
    else:
        chosen = f"Chosen: {best[0]}, the best of {among}."
    caution = "The best of many is better on minival than it will be elsewhere; its scores on dev chose nothing."
    return [chosen, *([caution] if any(metric.startswith("minival/") for metric in search["metrics"]) else [])]
