"""Benchmarks as data sets: all of a split is dev, nothing is learned from it."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path

from lab.benchmark_specs import SPECS, Spec
from lab.config import DataDial
from lab.data import DataSet
from lab.data.benchmarks.questions import Benchmark, Question, read
from lab.data.benchmarks.tables import legal_split
from lab.data.splits import Records, choose, one_of, reject_unused_fields
from lab.data.tables import HUB_ID
from lab.errors import DataError
from lab.records import AnswerSpace, Choice, Picture, Splits, Text

log = logging.getLogger(__name__)


def data_set(name: str) -> DataSet:
    """The data set of a benchmark."""
    spec = SPECS[name]
    kind = None if spec.kind == Choice.kind else Text.kind
    return DataSet(load, kind=kind, asks="conversation" if spec.interleaved else "question", diagnostic=True)


def load(dial: DataDial, cache_dir: Path) -> Splits:
    """Read a benchmark. Raises `ConfigError` or `DataError`; rows that cannot be asked are `skipped` with the reason."""
    spec, found = SPECS[dial.name], opened(dial)
    kind = one_of("kind", dial.kind or spec.kind, (Text.kind,) if spec.kind == Text.kind else (Choice.kind, Text.kind))
    samples = [question.sample(kind, spec.interleaved) for question in found.questions]
    if found.left_out:
        log.warning("data=%s: left out: %d, the first: %s: %s", dial.name, len(found.left_out), found.left_out[0].source, found.left_out[0].reason)
    absent = f"data={dial.name} is diagnostic only: it has no train and no minival split."
    none = Records((), absent)
    return Splits(
        none, none, Records(samples, tables=found.pictures), tuple(found.left_out), (told(dial.name, found, len(samples)),),
        answers=AnswerSpace.of(sample.answer for sample in samples),
    )  # fmt: skip


def opened(dial: DataDial) -> Benchmark:
    """The questions that a dial names, as many as `data.num_dev` wants. Raises `ConfigError` for keys that it does not take."""
    reject_unused_fields(dial, "root", "subset", "split", "profile", "kind")
    spec = SPECS[dial.name]
    root = local(dial.root or spec.hub, spec, legal_split(spec, dial.split))
    found = read(spec, dial.name, root, dial.subset, dial.split)
    most = None if dial.num_dev is None else min(dial.num_dev, len(found.questions))  # a limit: a set that has fewer is asked whole
    chosen = choose(found.questions, most, "num_dev", dial.seed, lambda question: question.cluster)
    return found._replace(questions=with_clusters(chosen, spec, found))


def local(root: str, spec: Spec, split: str) -> str:
    """The folder of a root: itself, or the snapshot of a hub id, of which only what the split needs is fetched. Raises `DataError`."""
    named = HUB_ID.fullmatch(root)
    if Path(root).exists() or named is None:
        return root
    from huggingface_hub import snapshot_download

    needed = [f"*{split}-*.parquet", *(f"{name.lower()}.parquet" for name in spec.tsv), *([f"{spec.joined}/*.parquet"] if spec.joined else [])]
    try:
        return snapshot_download(named["path"], repo_type="dataset", revision=named["revision"], allow_patterns=needed)
    except Exception as error:  # gated, offline, absent, renamed: the hub's own words say which
        raise DataError(
            f"data.root={root}: it is no folder here, and the hub did not give it ({type(error).__name__}: {' '.join(str(error).split())[:200]}). "
            f"Give the folder of a snapshot (hf download {named['path']} --repo-type dataset --local-dir FOLDER), or of VLMEvalKit's "
            f"{spec.tsv[0]}.tsv."
        ) from None


def told(name: str, found: Benchmark, asked: int) -> str:
    """How many are asked, beside how many there are officially."""
    left_out = f", {len(found.left_out)} left out" if found.left_out else ""
    return f"{name} ({found.source}): {asked} questions asked{left_out}; officially {found.official}."


def with_clusters(questions: list[Question], spec: Spec, found: Benchmark) -> list[Question]:
    """The questions, known by the bytes of their picture where the set has no name for it."""
    if spec.cluster:
        return questions

    def content(question: Question) -> str:
        data = [found.pictures.fetch(Picture(source)).data or b"" for source in question.pictures]
        return hashlib.sha256(b"\0".join(data)).hexdigest()[:16] if data else question.name

    return [replace(question, cluster=content(question)) for question in questions]
