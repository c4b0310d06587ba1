"""The official marks of NLVR and NLVR2, of answers to annotation files; no picture is touched.

    NLVR2   <root>/<split>.json, or in data/ or nlvr2/data/     identifier dev-850-0-0; group: the pair blanked
    NLVR    <root>/<split>/<split>.json, or in nlvr/            dev-1373-0-5, the last number one of six permutations; group: dev-1373

Accuracy is over identifiers, consistency over groups of which all must be right (lil-lab/nlvr: nlvr2/eval/metrics.py, nlvr/metrics_images.py).
A file without labels gives the submission instead, a line `identifier,prediction` each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lab.config import DataDial
from lab.data import manifest
from lab.data.benchmarks.marks import complete, shares, told
from lab.data.sets import nlvr, nlvr2
from lab.errors import ConfigError, DataError
from lab.host.files import write_atomically

OFFICIAL = {
    "nlvr2": {
        "train": 86373, "dev": 6982, "test1": 6967, "test2": 6970, "balanced_dev": 2300, "unbalanced_dev": 3562, "balanced_test1": 2316,
        "unbalanced_test1": 3536,
    },
    "nlvr": {"train": 12410, "dev": 989, "test": 990, "hidden": 985},
}  # fmt: skip
"""Lines of each file."""
FILES = {
    "nlvr2": (*nlvr2.MANIFESTS, "{bias}/{split}.json", "data/{bias}/{split}.json", "nlvr2/data/{bias}/{split}.json"),
    "nlvr": ("{split}/{split}.json", "nlvr/{split}/{split}.json", "{split}.json"),
}
WORDS = ("true", "false")
"""What a reply is in either case, as the official scripts compare it; anything else is unparsed, and wrong."""
RULE = {"name": "nlvr_official", "version": 1}


def result(dial: DataDial, replies: Mapping[str, str]) -> dict[str, Any]:
    """What replies come to, as a record holds it. Raises `DataError` for examples without a reply, and for replies to none."""
    split = dial.split or "dev"
    given = {name.removesuffix(".png"): reply for name, reply in replies.items()}
    labels = labels_of(dial, split)
    complete(list(labels), given, set())
    read_as = {name: word if (word := reply.strip().lower()) in WORDS else None for name, reply in given.items()}
    right = np.array([read_as[name] == label for name, label in labels.items()], dtype=np.float64)
    unparsed = [name for name in labels if read_as[name] is None]
    official = OFFICIAL[dial.name].get(named(dial, split), 0) * (nlvr.PERMUTATIONS if dial.name == "nlvr" else 1)
    found = {
        "data": dial.name, "source": named(dial, split), "n": len(labels), "n_official": official, "profile": "ours",
        "rule": RULE, "unparsed": len(unparsed) / len(labels), "left_out": [],
    }  # fmt: skip
    if None in labels.values():
        return found | {"metrics": {}, "rows": [{"id": name, "reply": given[name], "read_as": read_as[name], "score": None} for name in labels]}
    rows = [{"id": name, "reply": given[name], "read_as": read_as[name], "score": float(each)} for name, each in zip(labels, right, strict=True)]
    return found | {"metrics": numbers(dial.name, list(labels), right), "rows": rows}


def numbers(name: str, identifiers: list[str], right: np.ndarray) -> dict[str, float]:
    """Accuracy and consistency, with intervals over the sets of pictures that were made or found together."""
    split_set = [identifier.split("-") for identifier in identifiers]
    images = np.array([f"{split}-{number}" for split, number, *_ in split_set])
    groups = images if name == "nlvr" else np.array([f"{split}-{number}--{sentence}" for split, number, _, sentence in split_set])
    _, first, inverse, count = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    whole = (np.bincount(inverse, right) == count).astype(np.float64)
    return told("accuracy", shares(right), images) | told("consistency", shares(whole), images[first])


def labels_of(dial: DataDial, split: str) -> dict[str, str | None]:
    """The labels, `true` or `false`, of every identifier that is asked for; None in a file without. Raises `ConfigError` or `DataError`."""
    path = file_of(dial, split)
    records, faults = manifest.read(path, lambda row: record(row, dial.name, split), lambda one: one[0])
    if faults:
        raise DataError(f"{faults[0]} Official marks are of the whole file.")
    without = sum(label is None for _, label in records)
    if without not in (0, len(records)):
        raise DataError(f"{path}: {without} of {len(records)} examples have no label; all or none must.")
    if dial.name == "nlvr2":
        return dict(records)
    return {f"{name}-{k}": label for name, label in records for k in range(nlvr.PERMUTATIONS)}


def named(dial: DataDial, split: str) -> str:
    """The name of the annotation file; data.subset=balanced or unbalanced: the authors' own file of it."""
    return f"{dial.subset}_{split}" if dial.subset else split


def file_of(dial: DataDial, split: str) -> Path:
    """The annotation file. Raises `ConfigError` or `DataError`."""
    if dial.root is None:
        raise ConfigError(f"data.root=null: data={dial.name} needs the folder of a clone of github.com/lil-lab/nlvr, or of its annotation files.")
    name = named(dial, split)
    paths = [Path(dial.root) / form.format(split=name, bias=name.partition("_")[0]) for form in FILES[dial.name]]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise DataError(f"data.root={dial.root}: split {name} is not there; looked for {', '.join(map(str, paths))}.")
    return found


def record(row: manifest.Row, name: str, split: str) -> tuple[str, str | None]:
    """The identifier, of NLVR with its split in front, and the label of a line."""
    label = str(row.label("label")).lower() if row.has("label") else None
    if name == "nlvr2":
        return row.match("identifier", nlvr2.IDENTIFIER, nlvr2.IDENTIFIER_FORM).group(), label
    return f"{split}-{row.match('identifier', nlvr.IDENTIFIER, chr(39) + '<number>-<number>' + chr(39)).group()}", label


def submission(found: Mapping[str, Any], path: Path) -> None:
    """Write the official CSV of answers to an unlabelled split. Raises `DataError` for replies that are neither true nor false."""
    if bad := [row["id"] for row in found["rows"] if row["read_as"] is None]:
        raise DataError(f"--answers: {len(bad)} replies are neither true nor false, the first to {bad[0]}: no submission can be made of them.")
    lines = [f"{row['id']}{'.png' if found['data'] == 'nlvr' else ''},{row['read_as'].capitalize()}" for row in found["rows"]]
    write_atomically(path, "\n".join(lines) + "\n")
