"""Whether the stage before paid: each arm that went on from another run, beside the same training without it."""

from __future__ import annotations

from pathlib import Path

from lab.report.compare import Group, twins
from lab.report.document import Block, Paragraph, Strong
from lab.report.findings import Findings


def blocks(findings: Findings) -> list[Block]:
    """A paragraph for each such arm; nothing where there is none."""
    return [Paragraph((Strong("Stages."), f" {sentence}")) for sentence in sentences(findings)]


def sentences(findings: Findings) -> list[str]:
    """What may be claimed of each."""
    return [sentence(findings, after, alone) for after, alone in twins(findings.compared.groups)]


def sentence(findings: Findings, after: Group, alone: Group) -> str:
    """Of one arm. Nothing is said to have paid, or cost, without a claim."""
    before = stage_before(findings, after)
    pair = next((pair for pair in findings.compared.pairs if {pair.first, pair.second} == {after.label, alone.label}), None)
    if pair is None:
        return f"Whether {before} paid is not known: {after.label} and {alone.label} could not be compared."
    if not pair.claim.claimed:
        return f"That {before} paid is not shown: {pair.claim.sentence}"
    return f"{before} {'paid' if pair.claim.better == after.label else 'did harm'}: {pair.claim.sentence}"


def stage_before(findings: Findings, after: Group) -> str:
    """What the run is called that a group's arms went on from."""
    name = Path(after.members[0].arm.run.config["model"]["start"]).name
    return next((arm.group_label for arm in findings.selection.arms if arm.run.identity == name), f"run {name}")
