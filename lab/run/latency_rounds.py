"""Latency of the arms of a sweep, measured in turn once all have ended, on a machine that does nothing else.

Arms that are asked the same and whose adapters have the same tensors compute the same operations, whatever the tensors hold:
they are of one kind, and share what is measured of it. Merged adapters leave nothing but the base's own modules, so that all
arms that are asked the same are of one kind once merged. Each of `ROUNDS` rounds visits every kind, so that a drift of the
machine's speed falls on all alike, and each time another arm of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lab.artifacts import adapter
from lab.config import EvaluationSection, Experiment, identity, trains
from lab.evaluation import latency, scoring, stages
from lab.host.progress import Report, silent
from lab.model import Vlm
from lab.run.assembly import trained
from lab.run.sharing import Prepared, encoding_key
from lab.store import runs
from lab.store.runs import Run
from lab.training.examples import Examples

if TYPE_CHECKING:
    import torch

ROUNDS = 3
"""Visits to each kind; a run alone passes as many batches in its one visit. A batch is what scoring reads together."""

GLANCE = 2
"""Examples of the short look at an arm whose turn comes later: all that is known of it should the sweep die before."""

Asked = tuple[str, int, int]
"""What arms are asked at a visit: how it is encoded, examples alone, examples in a batch."""
Tensors = frozenset[tuple[str, str, tuple[int, ...], str]]
"""What an adapter holds: file, name, shape and dtype of every tensor."""


@dataclass
class Kind:
    """Arms that compute the same operations, and what was measured of them."""

    arms: list[tuple[Experiment, Run]] = field(default_factory=list)
    visits: list[latency.Measurement] = field(default_factory=list)


def measure_latency(section: EvaluationSection, vlm: Vlm, examples: Examples) -> dict[str, float]:
    """Latency metrics of a model that has the machine to itself: as trained, then merged."""
    work = latency.workload(examples, section.latency_examples, scoring.part_of(section.batch_size, vlm.device))
    plain = latency.visit(vlm, work, section.latency_warmup, ROUNDS)
    other = stages.merged(vlm)
    return latency.summarise([plain], [] if other is None else [latency.visit(other, work, section.latency_warmup, ROUNDS)], work)


def quick_latency(section: EvaluationSection, vlm: Vlm, examples: Examples) -> dict[str, float]:
    """Latency at batch 1 from few examples, as trained, beside what else the machine does: `quick_latency/p50_ms` and its like.

    Under names of its own, since `latency/...` is what is measured in turn: a tracker keeps both values of one name.
    """
    work = latency.workload(examples, min(GLANCE, section.latency_examples), 1)
    found = latency.summarise([latency.visit(vlm, work, 1, batches=0)], [], work)
    return {f"quick_latency/{name.removeprefix('latency/')}": value for name, value in found.items()}


def interleaved_latency(arms: Sequence[tuple[Experiment, Run]], prepared: Prepared, report: Report = silent) -> None:
    """Measure every kind among finished arms and rewrite all their records. What is asked is encoded once."""
    kinds: dict[tuple[Asked, Tensors], Kind] = {}
    for x, run in ((x, run) for x, run in arms if x.evaluation.latency_examples):
        kinds.setdefault((asked(x, prepared.vlm.device), tensors(x, run)), Kind()).arms.append((x, run))
    one_each = {ask: kind.arms[0][0] for (ask, _), kind in kinds.items()}
    work = {ask: latency.workload(prepared.encoded(x)["dev"], *ask[1:]) for ask, x in one_each.items()}
    merged: dict[Asked, list[latency.Measurement]] = {ask: [] for ask in work}
    for done in range(ROUNDS):
        for i, ((ask, _), kind) in enumerate(kinds.items()):
            x, run = kind.arms[done % len(kind.arms)]
            with trained(x, prepared.vlm, folder_of(x, run)) as vlm:
                kind.visits.append(latency.visit(vlm, work[ask], x.evaluation.latency_warmup, batches=1))
                other = stages.merged(vlm) if len(merged[ask]) == done else None
                if other is not None:
                    merged[ask].append(latency.visit(other, work[ask], x.evaluation.latency_warmup, batches=1))
            report("latency of the arms in turn (visits)", done * len(kinds) + i + 1, ROUNDS * len(kinds), "")
    for (ask, parts), kind in kinds.items():
        merges = any(file == adapter.PEFT_WEIGHTS for file, *_ in parts)
        found = latency.summarise(kind.visits, merged[ask] if merges else [], work[ask])
        alike = [run.identity for _, run in kind.arms]
        for x, run in kind.arms:
            run.metrics = {name: value for name, value in run.metrics.items() if not name.startswith("latency/")} | found
            run.facts["latency"] = {"of": alike}
            runs.save(Path(x.tracking.runs_dir), run)


def lacks_latency(x: Experiment) -> bool:
    """Whether an arm has finished, and was stopped before its turn to be measured came."""
    known = runs.look(Path(x.tracking.runs_dir), identity(x))
    if known is None or known.status != runs.FINISHED or not x.evaluation.latency_examples:
        return False
    return not any(name.startswith("latency/") for name in known.metrics)


def asked(x: Experiment, device: torch.device) -> Asked:
    """Of one arm."""
    together = scoring.part_of(x.evaluation.batch_size, device)
    return encoding_key(x), x.evaluation.latency_examples // ROUNDS, together


def tensors(x: Experiment, run: Run) -> Tensors:
    """Name, shape and dtype of every tensor in an arm's adapter; none where nothing has trained."""
    return adapter.tensors(folder_of(x, run) / "adapter") if trains(x) else frozenset()


def folder_of(x: Experiment, run: Run) -> Path:
    """An arm's run folder."""
    return runs.folder(Path(x.tracking.runs_dir), run.identity)
