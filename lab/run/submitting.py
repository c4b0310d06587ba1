"""A run's official submission to NLVR or NLVR2: what it answers to a split without labels (`lab evaluate RUN data=nlvr2 data.split=SPLIT`).

    RUN/answers/nlvr2.SPLIT.jsonl           id, reply, as `lab score` marks them once there are labels
    RUN/evaluations/nlvr2.SPLIT.csv         a line `identifier,prediction` each, as the authors take it
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from lab import data, model
from lab.artifacts import contract
from lab.config import DataDial, Experiment, OnBad
from lab.data import manifest
from lab.data.benchmarks import official
from lab.data.faults import BadRecord
from lab.data.sets import nlvr, nlvr2
from lab.data.splits import reject_unused_fields
from lab.errors import ConfigError, DataError
from lab.freezing import from_dict
from lab.host.files import values_hash, write_atomically
from lab.host.progress import Report
from lab.run.assembly import check_data
from lab.run.benchmarks import reply_of
from lab.run.rebuilt import rebuild
from lab.store import runs
from lab.store.runs import Run

QUESTIONS = {"nlvr": nlvr.unlabelled, "nlvr2": nlvr2.unlabelled}


def unlabelled(dial: DataDial) -> bool:
    """Whether a data option names an official file whose first record has no label; NLVR without `data.split` pools those that have."""
    if dial.name not in QUESTIONS or dial.root is None or dial.source not in (None, "official") or (dial.name == "nlvr" and dial.split is None):
        return False
    try:
        path = official.file_of(dial, dial.split or "dev")
    except DataError:
        return False  # the data set says what is missing
    first = next((row for _, row in manifest.objects(path)), None)
    return isinstance(first, dict) and first.get("label") is None


def submit(run: Run, x: Experiment, runs_dir: Path, name: str | None, break_contract: bool, report: Report) -> Path:
    """Answer every statement and write replies and submission; return the latter's path. x: the run's config with the data asked for.

    name: of the files; None: of data and split. Raises `ContractError` as any evaluation, and `ConfigError` or `DataError` where not all
    of the file would be answered.
    """
    dial, split, run_dir = replace(x.data, on_bad=OnBad.fail), x.data.split or "dev", runs.folder(runs_dir, run.identity)
    reject_unused_fields(replace(dial, num_dev=None), "root", "source", "split", "image_layout", "permutations")
    if dial.num_dev is not None:
        raise ConfigError(f"data.num_dev={dial.num_dev}: an official submission is of the whole file. Leave it out.")
    check_data(dial, model.family(x.model.family), x)
    path = official.file_of(dial, split)
    if labelled := next((source for source, row in manifest.objects(path) if not isinstance(row, BadRecord) and row.get("label") is not None), None):
        raise DataError(f"{labelled}: it has a label, and the first record has none; all or none must.")
    splits = QUESTIONS[dial.name](dial, path, split, Path(x.tracking.cache_dir))
    own, answers = replace(x, data=data.stored(run.config["data"])), contract.answers_of(contract.load(run_dir), from_dict(run.config).prompt)
    again = rebuild(run, run_dir, own, answers, "this submission", report, break_contract)
    name = name or f"{dial.name}.{split}{'-broken' if again.reasons else ''}"
    place = run_dir / "evaluations" / f"{name}.csv"
    _, rows = again.ask(splits, "dev", dial, report, runs.part_file(place, values_hash([vars(dial), data.fingerprint(splits.dev)], 10)))
    replies = {row.sample_id: reply_of(row) for row in rows}
    lines = (json.dumps({"id": key, "reply": reply}) + "\n" for key, reply in replies.items())
    write_atomically(run_dir / "answers" / f"{name}.jsonl", "".join(lines))
    official.submission(official.result(dial, replies), place)
    return place
