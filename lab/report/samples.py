"""What finished runs answered to benchmarks as lmms-eval logs it with `--log_samples`: a line a question, from stored replies, without a model.

    OUT/samples/<run>/<date>_samples_<task>.jsonl

    {"doc_id": 0, "target": "red", "resps": ["Red"], "filtered_resps": "Red", "doc_hash": "...", "exact_match": 1.0, "input": "...", "id": "200"}

Keys are those that `EvaluationTracker.save_results_samples` writes (lmms-eval 0.5); `id` is the set's own. The score is by our rule under the
run's `data.profile` and has the name of the set's headline; `doc_hash` is of id, question and references, and so not lmms-eval's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lab.benchmark_specs import SPECS
from lab.config import DataDial
from lab.data.benchmarks.loading import opened
from lab.errors import DataError
from lab.host.files import text_hash, write_atomically
from lab.report.rescoring import answered
from lab.statistics.marking import RULES
from lab.store import runs
from lab.store.runs import Run

TASKS = {
    "scienceqa": "scienceqa_img", "textvqa": "textvqa_val", "mmmu": "mmmu_val", "seed": "seedbench", "mathvista": "mathvista_testmini",
    "docvqa": "docvqa_val",
}  # fmt: skip
"""lmms-eval's names of tasks, where they are not ours."""


def log_samples(runs_dir: Path, names: Sequence[str], out: Path) -> list[Path]:
    """Write the files of some runs, or of all; return them. Raises `DataError` where there is nothing to write."""
    written = []
    for run in runs.finished_runs(runs_dir, names):
        for name, dial, replies in answered(run, runs.folder(runs_dir, run.identity)):
            place = out / "samples" / run.identity / f"{date_of(run)}_samples_{task_of(name, dial)}.jsonl"
            lines = [json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples_of(dial, replies)]
            write_atomically(place, "".join(lines))
            written.append(place)
    if not written:
        raise DataError(f"--log-samples: no finished run in {runs_dir} has answered any of {', '.join(SPECS)}.")
    return written


def samples_of(dial: DataDial, replies: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The lines of one set, in its order; questions that could not be asked have none."""
    spec, rule = SPECS[dial.name], RULES[SPECS[dial.name].rule]
    for place, question in enumerate(opened(dial).questions):
        if question.name in replies:
            reply = replies[question.name]
            score = rule(reply, question.references, dial.profile or "ours", question.asked).score
            references = list(question.references)
            yield {
                "doc_id": place,
                "target": references[0] if len(references) == 1 else str(references),
                "resps": [reply],
                "filtered_resps": reply,
                "doc_hash": text_hash(question.name, question.text, *references),
                spec.headline: score,
                "input": question.text,
                "id": question.name,
            }


def task_of(name: str, dial: DataDial) -> str:
    """lmms-eval's name of a set; one that the run has under a name of its own keeps it."""
    return TASKS.get(name, name) if name == dial.name else name


def date_of(run: Run) -> str:
    """When the run ended, as lmms-eval dates files: `20260701_101000`."""
    return "_".join(re.sub(r"[-:]", "", (run.ended or "")[:19]).split("T"))
