"""What a measurement must hold before its numbers mean anything: operations counted right, parts that add up."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lab import run as running
from lab.bench import answering, breakdown, gradient_noise, peak_flops, results, steps, trees
from lab.bench.results import BenchError, Figure
from lab.config import Experiment
from lab.errors import ConfigError
from lab.run.assembly import attached
from lab.training.fast.attention import causal_bands

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def tiny(composer, tmp_path_factory) -> tuple[Experiment, running.Prepared]:
    """The shipped base at the lowest budget, features cached."""
    x = composer(
        f"tracking.cache_dir={tmp_path_factory.mktemp('cache')}", "vision_tokens=resize", "vision_tokens.budget=4", "trainer.batch_size=4",
        "data.num_train=48", "data.num_minival=16", "data.num_dev=16", "evaluation.batch_size=4",
    )  # fmt: skip
    return x, running.prepare(x)


def test_operations_are_those_counted_by_hand(tiny) -> None:
    """Forward and backward over frozen weights: two products a linear layer, and three for each of an adapter's matrices."""
    x, prepared = tiny
    counted = steps.flops_of_step(x, prepared)
    text = prepared.vlm.base_model.config.text_config
    hidden, wide, blocks = text.hidden_size, text.intermediate_size, text.num_hidden_layers
    kv = text.num_key_value_heads * hidden // text.num_attention_heads
    attention = [(hidden, hidden), (hidden, kv), (hidden, kv), (hidden, hidden)]
    feed_forward = [(hidden, wide), (hidden, wide), (wide, hidden)]
    with attached(x, prepared.vlm) as vlm:
        _, batches = steps.begin(steps.lasting(x, 1), vlm, prepared.encoded(x)["train"])
        batch = next(batches)
    rows, length = batch.prompt.ids.shape[0], batch.prompt.ids.shape[1] - 1  # what a row ends with predicts nothing
    tokens = int(batch.prompt.mask.sum()) - rows - (rows - 1) * batch.shared  # what begins all rows is read once, and nothing is padding
    asking = rows * (batch.target.rows - 1)  # all that the last feed-forward sees

    def linears(number: int, *stacks: list[tuple[int, int]]) -> float:
        """Forward and backward by W + s B A, summed once; gradients of the adapters of layers side by side pass the ranks of all twice each way."""
        layers = [shape for stack in stacks for shape in stack]
        gradients = sum(2 * 2 * number * len(stack) * x.lora.r * (stack[0][0] + sum(out for _, out in stack)) for stack in stacks)
        return gradients + sum(2 * 2 * number * m * n + 2 * m * n * x.lora.r for m, n in layers)

    q, k, v, o = attention
    behind = [[o], *([each] for each in feed_forward)]
    expected = (blocks - 1) * linears(tokens, [q, k, v], *behind) + linears(tokens, [k, v])
    expected += linears(asking, [q], *behind)  # of the last block only the answer rows ask
    first, *own = [len(band.hidden) * band.stop for band in causal_bands(length, batch.shared, 1, torch.device("cpu"), torch.float32)]
    expected += (blocks - 1) * (2 + 4) * 2 * (first + rows * sum(own)) * hidden
    expected += (2 + 5) * 2 * asking * length * hidden  # its backward computes the weights again
    expected += 2 * 2 * asking * hidden * text.vocab_size
    expected -= tokens * 2 * hidden * (hidden + 2 * kv)  # embeddings need no gradient
    assert counted == pytest.approx(expected, rel=0.01)


def test_the_ceiling_is_a_rate_of_this_machine() -> None:
    """Below what a core could ever do; a product that is added in place counts too."""
    top = peak_flops.matrix_product_peak(torch.float32, torch.device("cpu"), seconds=0.2)
    assert 1e9 < top < 1e12 * torch.get_num_threads()
    a, b = torch.randn(256, 256), torch.randn(256, 256)
    assert peak_flops.matrix_flops(lambda: torch.mm(a, b).addmm_(a, b)) == 2 * 2 * 256**3


@pytest.mark.parametrize("overrides", [{}, {"accumulate_grad_batches": 2, "batch_size": 2}])
def test_the_bare_loop_does_what_the_real_one_does(tiny, overrides) -> None:
    """Equal losses to the last bit, with dropout and accumulation too: their difference in time is Lightning's alone."""
    x, prepared = tiny
    lora = dataclasses.replace(x.lora, lora_dropout=0.1 if overrides else 0.0)
    x = dataclasses.replace(x, trainer=dataclasses.replace(x.trainer, **overrides), lora=lora)
    real, bare = steps.through_lightning(x, prepared, 2), steps.bare(x, prepared, 2)
    assert real.losses == bare.losses and len(real.losses) == results.WARM_UP + 2
    assert len(real.seconds) == len(bare.seconds) == 2 and min(real.seconds) > 0
    figures = breakdown.step_figures(x, [real], [bare], flops=1e9, top=1e11)
    by_name = {figure.name: figure.value for figure in figures}
    parts = [by_name[f"  {part}"] for part in (*steps.PARTS, breakdown.REST)]
    assert sum(parts) == pytest.approx(by_name["step, median"], rel=1e-9)
    assert all(part > 0 for part in parts[:-1])


def test_a_loop_that_does_something_else_is_found_out(tiny, monkeypatch) -> None:
    x, prepared = tiny
    other = dataclasses.replace(x, seed=7)
    monkeypatch.setattr(steps, "bare", lambda x, prepared, count: steps.through_lightning(other, prepared, count))
    with pytest.raises(BenchError, match="the bare loop does not do what the real one does"):
        breakdown.interleave(x, prepared, 1, 1, lambda *_: None)


def test_scoring_and_generating_are_counted(tiny) -> None:
    """The shipped base answers in words: both ways agree wherever it does, and every example is counted."""
    x, prepared = tiny
    found = {figure.name: figure for figure in answering.measure(x, prepared.vlm, prepared.encoded(x)["dev"], batches=2)}
    assert found["answers that differ"].unit == "of 8" and found["answers that differ"].value == 0
    ratio = found["scoring, cached features"].value / found["generate(max_new_tokens=3)"].value
    assert found["scoring / generating"].value == pytest.approx(ratio)


def test_a_file_is_not_overwritten_unasked(tmp_path, composer, capsys) -> None:
    path = tmp_path / "bench.json"
    results.publish([Figure("step", 1.5, "ms")], results.facts(composer()), path)
    stored = json.loads(path.read_text())
    assert stored["figures"] == [{"name": "step", "value": 1.5, "unit": "ms", "note": ""}]
    assert stored["machine"]["cores"] >= 1 and stored["machine"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    results.require_writable(path, force=True)
    with pytest.raises(ConfigError, match="--force"):
        results.require_writable(path, force=False)
    assert "step           1.5 ms" in capsys.readouterr().out


def test_trees_are_timed_against_rows_of_the_same_samples(tiny, tmp_path, monkeypatch) -> None:
    x, _ = tiny
    monkeypatch.setattr(trees, "ASKED", 12)
    found = trees.measure(dataclasses.replace(x, trainer=dataclasses.replace(x.trainer, accumulate_grad_batches=2, token_budget=150)), rounds=2)
    found.write(tmp_path / "trees.json", {})
    stored = json.loads((tmp_path / "trees.json").read_text())
    assert len(stored["ratios"]["plain"]) == len(stored["ratios"]["rows"]) == 2
    assert stored["loss_gap"] < 1e-5 and stored["memory_ratio"] < 0.8 and stored["tokens_saved"] > 1.3
    assert {figure.name for figure in found.figures()} >= {"plain / trees", "rows / trees", "losses differ by", "a step's questions count as"}
    assert stored["rho"]["low"] <= stored["rho"]["rho"] <= stored["rho"]["high"] and stored["questions"] == 8


def test_questions_that_are_copies_count_as_one_and_independent_ones_as_many() -> None:
    drawn, pictures = np.random.default_rng(0).normal(size=(60, 4000)), np.repeat(np.arange(20), 3)
    for rho in (0.0, 0.3, 1.0):
        gradients = np.sqrt(rho) * drawn[pictures * 3] + np.sqrt(1 - rho) * np.random.default_rng(1).normal(size=drawn.shape) + 5.0
        found = gradient_noise.of_products(gradients @ gradients.T, pictures)
        assert found is not None and found.rho == pytest.approx(rho, abs=0.03) and found.low <= found.rho <= found.high
        assert found.effective(60, 3) == pytest.approx(60 / (1 + 2 * rho), rel=0.1)
    assert gradient_noise.of_products(drawn @ drawn.T, np.arange(60)) is None


def test_the_command_line_is_light() -> None:
    heavy = ("torch", "transformers", "lightning", "peft", "mlflow", "datasets")
    code = f"import lab.bench.__main__, sys; print([name for name in {heavy!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "[]"
