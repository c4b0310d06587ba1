"""Plans agree with counted parameters and with FLOPs worked out by hand for Qwen2-VL-2B; what cannot fit is refused."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from prediction_tables import prediction
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lab import data, model
from lab.answers import predictions
from lab.costs import machines, planning
from lab.errors import ConfigError
from lab.evaluation import shared_prefix
from lab.host.scheduling import makespan
from lab.model.encoding import Encoder
from lab.plan import DISCORDANCES, act, cost, tokens_per_image, visible
from lab.run import forecast
from lab.statistics import resampling
from lab.training.examples import Examples


@pytest.fixture(scope="module")
def two_billion(tmp_path_factory) -> Path:
    """A folder with Qwen2-VL-2B's config.json and nothing else."""
    from transformers import Qwen2VLConfig

    folder = tmp_path_factory.mktemp("2b")
    text = {
        "vocab_size": 151936, "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    vision = {"depth": 32, "embed_dim": 1280, "hidden_size": 1536, "num_heads": 16, "mlp_ratio": 4, "patch_size": 14}
    Qwen2VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True).save_pretrained(folder)
    return folder


def test_parameters_of_the_2b(composer, two_billion) -> None:
    x = composer("model=qwen2_vl_2b", f"model.path={two_billion}")
    found = planning.plan(x, 256, images=2, text_tokens=70)
    totals = {row.part: row.total - row.trainable for row in found.ledger}
    assert totals == {"vision": 631_183_360, "projector": 34_087_936, "llm": 233_373_696 + 1_310_340_608}
    assert sum(row.trainable for row in found.ledger) == 18_464_768
    assert found.weight_bytes == 2 * 2_208_985_600
    assert (found.adapter_bytes, found.gradient_bytes, found.optimizer_bytes) == (4 * 18_464_768, 4 * 18_464_768, 8 * 18_464_768)


@pytest.mark.parametrize(("options", "bits"), [(["nf4"], 4.127), (["int8"], 8.0)])
def test_weights_of_a_quantised_2b(composer, two_billion, options, bits) -> None:
    """Its blocks' linear layers alone; bits a weight as Dettmers et al. 2023 (2305.14314) give them."""
    kind, *more = options
    x = composer("model=qwen2_vl_2b", f"model.path={two_billion}", f"model.quantisation={kind}", *more)
    layers = 28 * (2 * 1536 * 1536 + 2 * 1536 * 256 + 3 * 1536 * 8960)
    expected = 2 * (2_208_985_600 - layers) + layers * bits / 8
    assert planning.plan(x, 256, images=2, text_tokens=70).weight_bytes == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("tokens", "forward", "tower", "floor"), [(16, 268, 165, 714), (256, 1554, 2962, 6165)])
def test_flops_of_the_2b(composer, two_billion, tokens, forward, tower, floor) -> None:
    """GFLOP an example, within 3 % of figures worked out independently (they leave the answer rows out)."""
    x = composer("model=qwen2_vl_2b", f"model.path={two_billion}", "trainer.feature_cache=false")
    found = planning.plan(x, tokens, images=2, text_tokens=70)
    assert found.tokens == 70 + 2 * tokens
    assert found.eval_flops / 1e9 == pytest.approx(forward + tower, rel=0.03)
    assert found.train_flops / 1e9 == pytest.approx(floor, rel=0.03)
    cached = planning.plan(composer("model=qwen2_vl_2b", f"model.path={two_billion}"), tokens, images=2, text_tokens=70)
    assert (found.train_flops - cached.train_flops) / 1e9 == pytest.approx(tower, rel=0.03)


def test_time_and_money_are_intervals_of_all_arms(capsys, tiny_folder, tmp_path) -> None:
    """Of a sweep on this machine as JSON: all arms together and each, in order; a name of a device and a file are held to what they are."""
    own = [f"model.path={tiny_folder}", f"tracking.cache_dir={tmp_path}", "data.num_train=16", "data.num_minival=8", "data.num_dev=32"]

    def planned(*overrides: str, **options: object) -> dict[str, Any]:
        out = tmp_path / "plan.json"
        given = {"device": "here", "json": out, "force": True, "price_per_hour": 2.5, "examples": None, "text_tokens": None, "tokens_per_image": None}
        assert act(argparse.Namespace(overrides=[*own, *overrides], multirun=True, config_name="train", **given | options)) == 0
        return json.loads(out.read_text())

    found = planned("lora.r=2,4", "trainer.max_steps=30")
    seconds = found["train"]["seconds"]
    assert 0 < seconds["low"] < seconds["expected"] < seconds["high"] <= 3 * seconds["low"] and found["steps"] == 60
    assert seconds["expected"] == pytest.approx(sum(arm["train"]["seconds"]["expected"] for arm in found["arms"]))
    assert found["at_once"] == min(2, len(os.sched_getaffinity(0)))
    assert found["money"]["expected"] == pytest.approx(2.5 * found["hours"]["expected"]) and found["latency"]["milliseconds"]["low"] > 0
    assert "measured just now" in found["rates"][0] and "one answer at batch 1" in capsys.readouterr().out
    again = planned("lora.r=2", "trainer.max_steps=30", "trainer.gradient_checkpointing=true")
    assert again["train"]["seconds"]["expected"] > found["arms"][0]["train"]["seconds"]["expected"]
    shared = planned("lora.r=2", "trainer.max_steps=30", "data.order=by_image", "trainer.layout=trees")
    assert shared["arms"][0]["flops_per_example"]["train"] < found["arms"][0]["flops_per_example"]["train"], "questions that share their pictures"
    h100, t4 = (planned("trainer.max_steps=30", "trainer.batch_size=512", device=device)["train"]["seconds"]["expected"] for device in ("h100", "t4"))
    assert h100 < t4
    with pytest.raises(ConfigError, match="--force"):
        planned(force=False)


def test_a_sweep_ends_with_the_last_of_its_arms() -> None:
    """Arms that do not fill the cores once more start beside those before; a long one is not shortened by an idle core."""
    assert makespan([10.0] * 3, 2) == pytest.approx(15) and makespan([10.0] * 3, 1) == 30 and makespan([], 2) == 0
    assert makespan([10.0] * 9, 4) == pytest.approx(10 + 5 / 4 * 10)
    assert makespan([10.0, 1.0, 1.0], 2) == pytest.approx(10 + 2 / 2 * 0.5), "three beside each other for 1.5 s, in which the long one does 1"
    assert makespan([1.0, 1.0, 10.0, 0.0], 2) == pytest.approx(11)


def test_evaluation_over_one_reading_of_a_picture_is_counted(composer, tmp_path) -> None:
    """FLOPs of an answer about pictures that are read once, as PyTorch counts them of the real model, there with some padding."""
    own = "lora=none", "trainer.max_steps=0", "data.num_train=8", "data.num_minival=8", "data.num_dev=8", "evaluation.splits=[dev]"
    x = composer(*own, "evaluation.shared_prefix=true")
    splits = data.load(x.data, tmp_path)
    vlm = model.load(x.model)
    examples = Examples(splits.dev, Encoder(vlm, x.prompt))
    with torch.inference_mode(), FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        shared_prefix.answer(vlm, examples, range(8))
    t4, text = forecast.device_of("t4", x), forecast.words_of(x, splits).prompt
    device = dataclasses.replace(t4, machine=dataclasses.replace(t4.machine, call=0.0))  # at this size launches are all that counts
    shared, alone = (forecast.arm("", one, device, splits, 16, text, None) for one in (x, composer(*own)))
    assert shared.found.eval_flops == pytest.approx(counter.get_total_flops() / 8, rel=0.05) and forecast.about(x, splits) == 2
    assert shared.found.eval_flops < 0.75 * alone.found.eval_flops and shared.time.evaluation.expected < alone.time.evaluation.expected
    assert shared.time.answer == alone.time.answer, "of one question alone"


class Given:
    device, arms, text_tokens = "t4", 3, 70


def test_what_cannot_fit_is_refused(composer, two_billion) -> None:
    model = ("model=qwen2_vl_2b", f"model.path={two_billion}")
    small = cost(composer(*model, "trainer.batch_size=1"), Given(), 256, 1000)
    assert "floor on t4" in small and "gradient checkpointing: off, as it is not needed" in small
    with pytest.raises(ConfigError, match="does not fit t4.*or set trainer.gradient_checkpointing=null"):
        cost(composer(*model, "trainer.batch_size=8", "trainer.gradient_checkpointing=false"), Given(), 256, 1000)
    with pytest.raises(ConfigError, match=r"does not fit t4. Lower trainer.batch_size and raise trainer.accumulate_grad_batches\.$"):
        cost(composer(*model, "trainer.batch_size=512"), Given(), 256, 1000)


def test_gradient_checkpointing_is_on_where_it_is_needed(composer, two_billion) -> None:
    """2B at 256 tokens an image: about 2.6 GB an example, as a forward in bfloat16 with adapters on every layer keeps them."""
    model = ("model=qwen2_vl_2b", f"model.path={two_billion}", "trainer.batch_size=8")
    text = cost(composer(*model), Given(), 256, 1000)
    assert "gradient checkpointing: on, as activations would take 2" in text
    roomy, tight = (planning.plan(composer(*model), 256, 2, 70, memory) for memory in (141e9, 16e9))
    assert (roomy.recomputes, tight.recomputes) == (False, True)
    assert roomy.activation_bytes == roomy.plain_bytes == tight.plain_bytes > 10 * tight.activation_bytes
    assert tight.memory_bytes < 16e9
    again = tight.train_flops - roomy.train_flops
    assert again == pytest.approx(1554e9, rel=0.03), "a forward pass of the language model"


def test_tokens_are_those_that_the_processor_makes(composer, tmp_path) -> None:
    """Asked, budgeted, measured on the data, or a guess that says so; in this order."""
    x = composer("data.num_train=8", "data.num_minival=8", "data.num_dev=8")
    splits = data.load(x.data, tmp_path)
    asked, nothing = argparse.Namespace(tokens_per_image=5), argparse.Namespace(tokens_per_image=None)
    budget = composer("vision_tokens=pool", "vision_tokens.budget=9")
    assert tokens_per_image(budget, asked, splits)[0] == 5
    assert tokens_per_image(budget, nothing, splits)[0] == 9
    assert tokens_per_image(x, nothing, splits) == (16, "\ntokens per image: 16, as the processor makes them of the first sample of dev")
    assert tokens_per_image(x, nothing, None)[0] == 256
    elsewhere = composer("model=qwen2_vl_2b", "model.path=nobody/knows-this")
    number, how = tokens_per_image(elsewhere, nothing, splits)
    assert number == 256 and "256 is a guess" in how


def test_an_unknown_device_is_named(composer, two_billion) -> None:
    with pytest.raises(ConfigError, match="--device h20.*'h200'"):
        machines.sheet("h20")


def test_what_dev_could_see(composer, tmp_path) -> None:
    def said(*given: str) -> str:
        return visible(data.load(composer(*given, "data.num_train=8", "data.num_minival=8").data, tmp_path))

    text = said("data.num_dev=120")
    assert "120 examples" in text and text.count(" points") == len(DISCORDANCES)
    few = said("data.num_dev=8")
    assert "8 examples in 1 cluster;" in few and re.search("accuracy.*not known beforehand: .*data.num_dev", few)


def test_the_plan_counts_clusters_as_the_report_does(composer, tmp_path) -> None:
    """Statements of data=pairs cross image sets, so that clusters are fewer than image sets."""
    splits = data.load(composer("data.num_train=8", "data.num_minival=8", "data.num_dev=120").data, tmp_path)
    asked = [splits.dev[i] for i in range(120)]
    table = predictions.table([answered(one) for one in asked])
    number = int(resampling.clusters(table).max()) + 1
    assert number < len({one.image_set for one in asked})
    assert f"120 examples in {number:,} clusters" in visible(splits)


def answered(one):
    return prediction(one.sample_id, True, image_set=one.image_set, group=one.question_group)


def test_the_plan_of_a_sweep_has_a_line_an_arm_and_their_sum(capsys, two_billion, tmp_path) -> None:
    def planned(*overrides: str, device: str = "h200") -> str:
        own = [f"tracking.cache_dir={tmp_path}", "data.num_train=16", "data.num_minival=8", "data.num_dev=32", *overrides]
        assert act(argparse.Namespace(overrides=own, multirun=True, config_name="train", device=device, text_tokens=70, tokens_per_image=16)) == 0
        return capsys.readouterr().out

    text = planned("lora.r=2,4", "sweep.replicates=2", "trainer.max_steps=1000000")
    rows = [re.split(r" {2,}", line) for line in text.splitlines() if line.startswith("lora.r=")]
    assert [row[0] for row in rows] == [f"lora.r={r} seed={seed}" for r in (2, 4) for seed in (0, 1)]
    assert [row[1] for row in rows] == ["22,400", "22,400", "44,800", "44,800"]
    seconds = [float(row[-1].replace(",", "")) for row in rows]
    total = float(re.search(r"4 arms, together ([\d,.]+) s on h200", text)[1].replace(",", ""))
    assert total == pytest.approx(sum(seconds), rel=0.01) and min(seconds) > 0
    assert text.count("smallest difference in") == 1
    with pytest.raises(ConfigError, match=r"does not fit t4. Lower trainer.batch_size"):
        planned("trainer.batch_size=4096", "model=qwen2_vl_2b", f"model.path={two_billion}", "model.dtype=bfloat16", device="t4")
