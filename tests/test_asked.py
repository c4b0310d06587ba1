"""A run is what made its weights; what is measured of it is asked of the finished run, and takes no step."""

from __future__ import annotations

import dataclasses
import json
import time
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from test_winoground import drawn

from lab import run as running
from lab.answers import predictions
from lab.config import ASKED, MOST_TOKENS, NEITHER, ROLES, TRAINED, EvaluationSection, Experiment, asked, identity, role
from lab.errors import ConfigError
from lab.freezing.schema import legal_keys
from lab.run.measuring import wanted_of
from lab.statistics.metrics import KINDS, Metric, register
from lab.store import runs

pytestmark = pytest.mark.usefixtures("nominal_costs")

SMALL = ("trainer.max_steps=2", "evaluation.verify=false", "evaluation.latency_examples=0", "tracking.enabled=false")


def leaves() -> list[str]:
    """Keys of the schema that hold values."""
    keys = legal_keys(Experiment)
    return [key for key in keys if not any(other.startswith(f"{key}.") for other in keys)]


def test_every_key_has_a_role() -> None:
    for key in leaves():
        names = key.split(".")
        assert any(".".join(names[:depth]) in ROLES for depth in range(1, len(names) + 1)), key  # its own goes before its section's
        assert role(key) in (TRAINED, ASKED, NEITHER)
    assert {key.partition(".")[0] for key in ROLES} == {field.name for field in dataclasses.fields(Experiment)}
    assert {key for key in ROLES if "." in key} <= set(legal_keys(Experiment))


def test_every_limit_of_length_is_asked_by_itself() -> None:
    def digest(most: int | None) -> str:
        return asked(Experiment(evaluation=EvaluationSection(max_new_tokens=most)))["dev"]

    limits = (None, *set(MOST_TOKENS.values()), 17)
    assert len(set(map(digest, limits))) == len(limits)


CHANGES = {
    "evaluation.ask": ("[score,generate]", "dev/generate_accuracy"),
    "evaluation.controls": ("[blank]", "dev_blank/accuracy"),
    "evaluation.swap": ("true", "swap/neutral_agreement"),
    "evaluation.splits": ("[minival,dev,train]", "train/accuracy"),
    "evaluation.shared_prefix": ("true", "dev/accuracy"),
    "evaluation.zero_shot": ("true", "zero_shot/accuracy"),
    "data.num_dev": ("8", "dev/accuracy"),
    "evaluation.also": ("['winoground root={root} num_dev=2']", "winoground/dev/winoground/group"),
}


def test_asking_more_of_a_finished_run_takes_no_step(small, tmp_path: Path, monkeypatch) -> None:
    of_words = {"prompt.post", "evaluation.max_new_tokens", "evaluation.repair"}  # tests/test_text_run.py, tests/test_boxes_run.py
    assert CHANGES.keys() == {key for key in leaves() if role(key) == ASKED} - {"data.rule"} - of_words
    first = small(*SMALL)
    before = running.run_alone(first, "command", time.time())
    folder = runs.folder(Path(first.tracking.runs_dir), identity(first))
    weights = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    steps: list[int] = []
    step = torch.optim.AdamW.step
    monkeypatch.setattr(torch.optim.AdamW, "step", lambda self, *a, **k: (steps.append(1), step(self, *a, **k))[1])
    root = drawn(tmp_path / "w")
    for key, (value, metric) in CHANGES.items():
        x = small(*SMALL, f"{key}={value.format(root=root)}")
        assert identity(x) == identity(first) and wanted_of(x) != wanted_of(first), key
        after = running.run_alone(x, "command", time.time())
        assert metric in after.metrics and not running.unasked(x, after), key
        assert after.metrics["train/loss"] == before.metrics["train/loss"] and after.started == before.started
        seen = dict.fromkeys(path.name for path in (folder / "predictions").iterdir())
        running.run_alone(x, "command", time.time())
        assert json.loads((folder / "run.json").read_text())["metrics"] == after.metrics
    assert not steps and (folder / "adapter" / "adapter_model.safetensors").read_bytes() == weights
    assert {"pairs.dev.parquet", "pairs.train.parquet", "pairs.dev_blank.parquet", "winoground.dev.parquet"} <= seen.keys()
    assert len(predictions.read(folder / "predictions" / "winoground.dev.parquet")) == 8
    assert set(after.config["evaluation"]["controls"]) == {"blank"} and "generate" in after.config["evaluation"]["ask"]


def test_a_new_metric_of_a_finished_run_is_taken_from_its_predictions(small, monkeypatch) -> None:
    x = small(*SMALL, "trainer.max_steps=0", "lora=none")
    before = running.run_alone(x, "command", time.time())
    monkeypatch.setitem(KINDS, "choice", deepcopy(KINDS["choice"]))
    register("choice", Metric("said_true", "said true", "%", True, lambda table: float((table.prediction == 0).mean()), needs=("prediction",)))
    monkeypatch.setattr("lab.evaluation.asking.ask", None)
    after = running.run_alone(x, "command", time.time())
    assert after.metrics.keys() - before.metrics.keys() == {"minival/said_true", "dev/said_true", "dev_scaled/said_true"}
    assert {key: after.metrics[key] for key in before.metrics} == before.metrics and not running.unasked(x, after)


def test_data_that_would_be_asked_twice_or_is_unknown_is_refused(small) -> None:
    wrong = {"pairs": "data=pairs would be asked twice", "winogrand": "Did you mean 'winoground'", "nlvr permutations=7": "^data.permutations=7"}
    wrong |= {"winoground rot=x": "data.rot: there is no such key. Did you mean 'data.root'", "nlvr num_dev=x": "data.num_dev: it must be a whole"}
    for also, message in wrong.items():
        with pytest.raises(ConfigError, match=message):
            running.check(small(*SMALL, f"evaluation.also=['{also}']"))
