"""The code path of the 2B: its real widths and vocabulary, two blocks each, random weights, from a local folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import published
import pytest

from lab.config import Experiment

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """qwen2_vl_2b, shrunk only in depth."""
    path = tmp_path_factory.mktemp("full_width") / "Qwen2-VL-2B-Instruct"
    published.save_full_width(path)
    return path


@pytest.mark.bar
def test_the_real_widths_are_built_wrapped_and_stepped(
    folder: Path, composer: Callable[..., Experiment], tmp_path: Path
) -> None:
    from lab import run
    from lab.cli import process_started
    from lab.store import runs

    x = composer(
        "model=qwen2_vl_2b",
        f"model.path={folder}",
        "model.dtype=float32",
        "data.num_train=4",
        "data.num_minival=4",
        "data.num_dev=4",
        "lora.r=8",
        "trainer.max_steps=1",
        "trainer.batch_size=2",
        "optim.lr=1e-4",
        "evaluation.batch_size=4",
        "evaluation.verify=false",
        "evaluation.latency_examples=0",
        "tracking.enabled=false",
        f"tracking.runs_dir={tmp_path}/runs",
        f"tracking.cache_dir={tmp_path}/cache",
    )
    record = run.run_alone(x, "test", process_started())
    assert record.status == runs.FINISHED
    assert record.metrics["train/steps"] == 1
    assert 0 < record.metrics["train/loss"] < 30
    assert 0 <= record.metrics["dev/accuracy"] <= 1
    parts = {row["part"]: row for row in record.facts["ledger"]}
    assert parts["llm"]["trainable"] == 9_232_384 * 2 // 28
    assert parts["projector"]["total"] == 34_087_936
    embedding = 151_936 * 1536
    assert parts["llm"]["total"] == embedding + 1536 + 2 * (1_310_340_608 - 1536) // 28 + parts["llm"]["trainable"]
    moved(tmp_path / "runs" / record.identity / "adapter")


def moved(folder: Path) -> None:
    """Every B, zero at the start, has been trained away from zero."""
    from safetensors.torch import load_file

    tensors = load_file(folder / "adapter_model.safetensors")
    b = {name: tensor for name, tensor in tensors.items() if "lora_B" in name}
    assert len(b) == 14
    assert all(tensor.any() and tensor.isfinite().all() for tensor in b.values())


@pytest.mark.bar
def test_the_shape_is_that_of_the_2b(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    text, vision = config["text_config"], config["vision_config"]
    shape = {"hidden_size": 1536, "intermediate_size": 8960, "num_attention_heads": 12, "num_key_value_heads": 2}
    assert {key: text[key] for key in shape} == shape
    assert text["vocab_size"] == 151_936
    assert (vision["embed_dim"], vision["num_heads"], vision["patch_size"]) == (1280, 16, 14)
    assert (text["num_hidden_layers"], vision["depth"]) == (2, 2)


def test_no_code_knows_that_a_model_is_tiny() -> None:
    """Outside the shipped folder and its making, `tiny` stands in prose at most, never in a condition or a string."""
    guilty = []
    for path in sorted((ROOT / "lab").rglob("*.py")):
        if path.is_relative_to(ROOT / "lab" / "model" / "tiny_base"):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if re.search(r"(if|elif|case|==|!=|\bin\b|startswith).*[\"']tiny|model\.name\s*(==|!=|in)", line):
                guilty.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not guilty


@pytest.mark.bar
def test_the_real_widths_of_a_study_are_put_together_and_trained(tmp_path: Path, fast_python: str) -> None:
    """The tower of Qwen3-VL-2B before Qwen3-0.6B, two blocks each, by the command that a user types, in bfloat16; its gate passes."""
    import subprocess

    published.save_qwen3_pair(tmp_path / "Qwen3-VL-2B-Instruct", tmp_path / "Qwen3-0.6B")
    words = ["-m", "lab.train", "model=assembled", "model.vision_from=Qwen3-VL-2B-Instruct", "model.llm_from=Qwen3-0.6B", "model.projector_init=crop"]
    words += ["lora.where=[projector]", "data.num_train=8", "data.num_minival=4", "data.num_dev=8", "trainer.max_steps=3", "trainer.batch_size=2"]
    words += ["evaluation.batch_size=4", "evaluation.probe_examples=2", "evaluation.latency_examples=0", "tracking.enabled=false"]
    done = subprocess.run([fast_python, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout, done.stderr)
    (path,) = (tmp_path / "runs").glob("*/run.json")
    record = json.loads(path.read_text())
    assert record["status"] == "FINISHED" and record["metrics"]["train/steps"] == 3 and record["config"]["model"]["dtype"] == "bfloat16"
    assert all(check["passed"] in (True, None) for check in record["facts"]["verify"])
    facts = json.loads((path.parent / "contract.json").read_text())["base"]["assembled"]
    assert facts["text_only_difference"] <= 1e-6 and len(facts["cropped"]) == 6
